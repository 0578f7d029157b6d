"""``python -m mlrops``: the commands, and what the package is."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
