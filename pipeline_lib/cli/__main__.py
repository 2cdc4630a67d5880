"""`python -m pipeline_lib.cli`: the command `bordure` in a checkout where it is not installed."""

import sys

from pipeline_lib.cli import main

sys.exit(main())
