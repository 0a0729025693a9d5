"""A plugin that raises when it is imported."""

raise ImportError("no module named teeth,\n  says the plugin")
