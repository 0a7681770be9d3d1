"""`python -m fledge` is the command `fledge`."""

import sys

from fledge.cli import main

sys.exit(main())
