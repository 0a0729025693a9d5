"""gaekit's denoisers."""
