"""Settings of all tests, and their distribution over several cores (`make test`)."""

import os

import pytest
from hypothesis import settings

# No deadline: an example may be slow because the machine is busy.
settings.register_profile("bordure", deadline=None)
settings.load_profile("bordure")

# One thread for each process of the tests, unless the environment sets another number. On a busy machine,
# threads that waited for each other took 194 s for a test that takes 5 s with one (test_inference.py).
# numpy and torch read the variables when they are first imported. Stages of the workflow set their own.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # for tests with several threads

MOST_WORKERS = 8  # more do not help, because the longest group of tests sets the time; each needs up to 1 GB


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers(config):
    """`--numprocesses auto` starts one worker more than the cores that this process may use.

    Many tests wait for processes that they start and stop: with one worker for each of two cores, a fifth of
    the time of the cores was unused.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores + 1, MOST_WORKERS)


def pytest_collection_modifyitems(items):
    """Put slow tests first, so that all workers end at about the same time."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)
