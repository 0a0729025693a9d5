"""gaekit's teachers."""
