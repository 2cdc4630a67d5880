"""The decorator that compiles the kernels of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function with numba at its first call and cache the machine code on disk.

    Numba infers the types from the arguments of each call; annotations of a kernel only serve the reader and
    the type checker. The compiled code runs without Python's global lock (GIL), so threads run in parallel.

    The cache is in `__pycache__` next to the source file, or in the user's cache folder. If neither can be
    written, each run compiles again. Numba compiles again when the source file changes, but it does not
    notice changes in other files: after editing a kernel or constant that is used by kernels of another file,
    save that file, too.

    Parameters
    ----------
    function : callable
        The kernel, in the part of Python and numpy that numba can compile.

    Returns
    -------
    callable
        The compiled kernel, with the signature of `function`.
    """
    try:
        return cast(Function, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # numba found no writable folder for its cache
        return cast(Function, numba.njit(nogil=True)(function))
