"""``python -m snnpipe``."""

import sys

from snnpipe.cli import main

if __name__ == "__main__":
    sys.exit(main())
