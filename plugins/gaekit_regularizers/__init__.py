"""gaekit's regularizers."""
