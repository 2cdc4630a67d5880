"""How the kernels of this package are compiled."""

from __future__ import annotations

from collections.abc import Callable

import numba


def compiled(function: Callable) -> Callable:
    """Compile `function` at its first call, without the GIL, and keep the machine code for later runs.

    The code is kept beside the file, or in the user's cache folder, until that file changes. So after editing
    a kernel or constant that kernels of *another* file use, save that file too. Where neither folder can be
    written, every run compiles anew.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no place for its cache
        return numba.njit(nogil=True)(function)
