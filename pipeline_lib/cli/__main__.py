"""Run the command `bordure` as `python -m pipeline_lib.cli`, for a checkout that is not installed."""

import sys

from pipeline_lib.cli import main

sys.exit(main())
