"""gaekit's aligners."""
