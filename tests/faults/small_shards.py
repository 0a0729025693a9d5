"""`gaekit` with shards of one batch, so that a small recipe writes many of them; all else is as it is.

Usage: small_shards.py run RECIPE ..."""

import sys

from gaekit.cli import main
from gaekit.stages import features, latents

latents.SHARD_BYTES = features.SHARD_BYTES = 1
sys.exit(main())
