"""Soak test: inject real faults into running workflows. See `python -m tests.soak --help`."""
