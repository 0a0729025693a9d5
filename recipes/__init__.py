"""The recipes that come with gaekit: YAML files, listed by `gaekit recipes`."""
