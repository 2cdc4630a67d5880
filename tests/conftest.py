"""Settings that hold for all tests, and how the tests are distributed over several cores (`make test`)."""

import os

import pytest
from hypothesis import settings

# A slow example is not a failure: the machine may be busy with something else.
settings.register_profile("bordure", deadline=None)
settings.load_profile("bordure")

# One thread for each process of the tests, unless the environment says otherwise. Threads that wait for each
# other on a busy machine took 194 s for a test that takes 5 s with one (test_inference.py). The variables
# are read when numpy and torch are first imported. A stage of the workflow sets its own.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

MOST_WORKERS = 8  # with more, the longest group of tests takes the time; each worker needs up to 1 GB


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers(config):
    """`--numprocesses auto` starts one worker for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores, MOST_WORKERS)


def pytest_collection_modifyitems(items):
    """Workers take files and classes in this order: those with slow tests first, short ones at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)
