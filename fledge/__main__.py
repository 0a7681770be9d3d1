"""`python -m fledge` is the command `fledge`."""

import sys

from fledge.cli import main

if __name__ == "__main__":
    sys.exit(main())
