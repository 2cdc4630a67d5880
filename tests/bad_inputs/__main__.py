"""Write the snapshot of messages: `python -m tests.bad_inputs`."""

from . import CASES
from .harness import MESSAGES, page, run_all

MESSAGES.write_text(page(run_all(CASES)))
print(f"{len(CASES)} cases in {MESSAGES}")
