"""gaekit: train, sample and evaluate latent diffusion models, starting with the Geometric Autoencoder."""

__version__ = "0.1.0"
