"""`python -m gaekit`, where the console script is not on the path, and `torchrun -m gaekit`."""

import sys

from gaekit.cli import main

if __name__ == "__main__":
    sys.exit(main())
