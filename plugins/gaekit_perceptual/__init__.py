"""gaekit's perceptual."""
