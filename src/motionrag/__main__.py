"""`python -m motionrag`: the same as the `motionrag` command."""

import sys

from motionrag.cli import main

sys.exit(main())
