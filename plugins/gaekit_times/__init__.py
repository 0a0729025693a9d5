"""gaekit's times."""
