"""gaekit's trackers."""
