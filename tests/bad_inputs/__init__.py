"""Malformed and malicious inputs, and the messages with which bordure rejects them.

Each module has the cases of one kind of input. A case is run as in a real run: by the checks of the dry run
and, if these find nothing, by the stage that reads the file. tests/test_bad_inputs.py runs all cases and
compares their messages with the snapshot in `messages.md`, which `python -m tests.bad_inputs` writes.
"""

from . import annotations, boxes, configs, folders, hdf5_images, models, png_images, tables, tiff_images
from .harness import MESSAGES, Answer, Case, build, compare, dry_run, row, run_case
from .sound import HEADER, SOUND_ROWS, sound_run, write_table

__all__ = [
    "CASES",
    "HEADER",
    "MESSAGES",
    "SOUND_ROWS",
    "Answer",
    "Case",
    "build",
    "compare",
    "dry_run",
    "row",
    "run_case",
    "sound_run",
    "write_table",
]

KINDS = (tiff_images, png_images, folders, hdf5_images, annotations, boxes, tables, configs, models)
CASES = [case for kind in KINDS for case in kind.GROUP.cases]
