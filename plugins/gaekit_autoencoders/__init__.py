"""gaekit's autoencoders."""
