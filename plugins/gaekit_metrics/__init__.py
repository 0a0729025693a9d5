"""gaekit's metrics."""
