"""gaekit's samplers."""
