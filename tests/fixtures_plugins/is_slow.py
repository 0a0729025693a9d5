"""A plugin that takes long to import."""

import time

time.sleep(20)
