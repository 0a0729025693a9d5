"""gaekit's noises."""
