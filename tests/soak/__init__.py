"""The soak: faults injected for real into running workflows. See `python -m tests.soak --help`."""
