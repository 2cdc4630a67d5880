"""Coverage-guided fuzzing of all code that reads files: `make fuzz`, or `python -m tests.fuzz --help`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in (".", "workflow", "tests")]
