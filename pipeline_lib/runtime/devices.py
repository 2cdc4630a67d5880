"""Choose the device of a process, and reserve GPUs so that no two processes use the same one.

A process claims a GPU with an exclusive lock on a file named after the GPU. The kernel releases the lock when
the process ends, even if it is killed. Only processes that use this module see each other's claims. Other
programs on a GPU are noticed only by the memory they use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger

if TYPE_CHECKING:
    import torch

FOLDER = Path("/tmp/bordure-gpu")  # shared by all users, independent of TMPDIR
SECONDS_BETWEEN_TRIES = 1.0
_held: dict[str, int] = {}  # GPU -> open lock file, until this process ends


def choose_device(device: str) -> torch.device:
    """Return the device for the setting `device`, and claim it until this process ends if it is a GPU.

    Among the GPUs that no other process has claimed, the one with the most free memory is chosen. If all are
    claimed, this waits for one. A process started by `processes.launch` or torchrun uses the GPU with the
    number `LOCAL_RANK`, which the process that started it has claimed.

    Parameters
    ----------
    device : {"cpu", "cuda", "auto"}
        `auto` is a GPU if torch finds one, else the CPU.

    Returns
    -------
    torch.device
        The device, which is also torch's current device if it is a GPU.

    Raises
    ------
    InputError
        If `device` is `cuda` and torch finds no GPU.
    """
    import torch  # takes a second, which processes that only call `claim` save

    if not uses_gpu(device):
        return torch.device("cpu")
    one_of_several = "TORCHELASTIC_RUN_ID" in os.environ
    index = int(os.environ["LOCAL_RANK"]) if one_of_several else _claim_visible(1)[0]
    chosen = torch.device("cuda", index)
    torch.cuda.set_device(chosen)
    return chosen


@contextlib.contextmanager
def explain_memory_errors(stage: str) -> Iterator[None]:
    """Replace out-of-memory errors of the device by an `InputError` that says what to do.

    Use it as a decorator or in a `with` statement. The stage has already tried to work with less memory
    (smaller tiles) where that is possible.

    Parameters
    ----------
    stage : str
        Section of the config with the setting `device`: `training` or `prediction`.

    Raises
    ------
    InputError
        If the device runs out of memory.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError) as error:  # the latter when CUDA itself starts
        if "out of memory" not in str(error):
            raise
        raise InputError(
            f"{stage}: the device is out of memory ({str(error).splitlines()[0]}). Other programs may use "
            "it; `nvidia-smi` lists them. End them and run the same command again, or set "
            f"`{stage}.device: cpu`."
        ) from error


def claim_for_children(number: int) -> None:
    """Claim `number` GPUs until this process ends, and hide all other GPUs from its child processes.

    The environment variable `CUDA_VISIBLE_DEVICES` is set accordingly. Raises `InputError` if fewer than
    `number` GPUs are visible.
    """
    import torch

    every = map(str, range(torch.cuda.device_count()))
    names = (
        os.environ["CUDA_VISIBLE_DEVICES"].split(",") if "CUDA_VISIBLE_DEVICES" in os.environ else [*every]
    )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[index] for index in _claim_visible(number))


def uses_gpu(device: str) -> bool:
    """Return whether the setting `device` selects a GPU on this machine.

    Raises `InputError` if `device` is `cuda` and torch finds no GPU.
    """
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return False
    if not torch.cuda.is_available():
        raise InputError(
            "device: `cuda` was requested, but torch finds no CUDA device. Set `device: auto`, run on a "
            "machine with a GPU, or install the CUDA build of torch (docs/howto/gpu.md)."
        )
    return True


def _claim_visible(number: int) -> list[int]:
    import torch

    visible = range(torch.cuda.device_count())
    names = [str(torch.cuda.get_device_properties(index).uuid) for index in visible]
    return claim(names, lambda index: torch.cuda.mem_get_info(index)[0], number)


def claim(
    names: Sequence[str], free_memory: Callable[[int], int], number: int = 1, folder: Path = FOLDER
) -> list[int]:
    """Claim `number` GPUs until this process ends, and return their indices.

    GPUs that this process has already claimed are used first. If too few GPUs are free, this claims none of
    them and waits until there are enough, so that two processes that each need all GPUs do not wait for each
    other.

    Parameters
    ----------
    names : sequence of str
        UUIDs of the visible GPUs. Unlike indices, they are the same in every process.
    free_memory : callable
        Free memory in bytes of the GPU with the given index. It is called only if more GPUs are free than
        requested, since the call itself uses some hundred megabytes on the GPU. The GPUs with the most free
        memory are then chosen.
    number : int, default 1
        Number of GPUs.
    folder : Path
        Folder of the lock files.

    Returns
    -------
    list of int
        Indices into `names`, ascending.

    Raises
    ------
    InputError
        If `number` is larger than the number of GPUs.
    """
    if number > len(names):
        raise InputError(
            f"{number} GPUs were requested, but {len(names)} are visible. Request fewer (`--set-resources "
            "train_model:gpu=N`), or make more of them visible (CUDA_VISIBLE_DEVICES)."
        )
    waiting = False
    while True:
        with _one_process_at_a_time(folder):
            tried = {
                index: _held[name] if name in _held else _lock(folder / name)
                for index, name in enumerate(names)
            }
            locks = {index: lock for index, lock in tried.items() if lock is not None}
            ours = [*locks]
            if len(ours) > number:
                ours.sort(key=lambda index: (names[index] not in _held, -free_memory(index)))
            chosen = ours[:number] if len(ours) >= number else []
            for index in ours:
                if index in chosen:
                    _held[names[index]] = locks[index]
                elif names[index] not in _held:
                    os.close(locks[index])
        if chosen:
            return sorted(chosen)
        if not waiting:
            logger.warning(
                "waiting for %d of %d GPUs, which other processes have claimed (%s)",
                number,
                len(names),
                folder,
            )
        waiting = True
        time.sleep(SECONDS_BETWEEN_TRIES)


def _lock(path: Path) -> int | None:
    """Lock the file at `path` and return its descriptor, or None if another process has locked it."""
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


@contextlib.contextmanager
def _one_process_at_a_time(folder: Path) -> Iterator[None]:
    """Let only one process choose at a time, since choosing locks more GPUs than are finally kept."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
        folder.chmod(0o1777)  # writable for every user, like /tmp
    file = _open(folder / "choosing")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _open(path: Path) -> int:
    """Open a file that every user can read, and create it if it does not exist.

    Creating and opening are separate calls: with O_CREAT, Linux refuses to open another user's file in this
    folder (fs.protected_regular).
    """
    with contextlib.suppress(FileExistsError):
        file = os.open(path, os.O_CREAT | os.O_EXCL)
        os.fchmod(file, 0o644)
        os.close(file)
    return os.open(path, os.O_RDONLY)
