"""gaekit's datasets."""
