"""Which device a process computes on, and that no other process of this machine takes the same GPU.

A GPU is claimed by an exclusive lock on a file named after it, which the kernel releases when the process
ends, however it ends. Only processes that claim know of each other: what else runs on a GPU shows in its free
memory alone.
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

FOLDER = Path("/tmp/bordure-gpu")  # one for all users of the machine, whatever their TMPDIR
SECONDS_BETWEEN_TRIES = 1.0
_held: dict[str, int] = {}  # GPU -> open lock file, until this process ends


def choose_device(device: str) -> torch.device:
    """`cpu`, `cuda`, or `auto`: a GPU where there is one, which is claimed until this process ends.

    Of those that no other process has claimed the one with the most free memory; where there is none, this
    waits. A process of several that `processes.launch` or torchrun started takes the GPU of its number, which
    whoever started it has claimed. Raises `InputError` where `cuda` is asked for and there is none.
    """
    import torch  # a second, which those who only claim do without

    if not uses_gpu(device):
        return torch.device("cpu")
    one_of_several = "TORCHELASTIC_RUN_ID" in os.environ
    index = int(os.environ["LOCAL_RANK"]) if one_of_several else _claim_visible(1)[0]
    chosen = torch.device("cuda", index)
    torch.cuda.set_device(chosen)
    return chosen


@contextlib.contextmanager
def explain_memory_errors(stage: str) -> Iterator[None]:
    """Say in an `InputError` that the device has no memory left, whatever `stage` was doing.

    Where less memory does, `stage` has tried that by itself.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError) as error:  # the latter of CUDA's context itself
        if "out of memory" not in str(error):
            raise
        raise InputError(
            f"{stage}: the device has no memory left ({str(error).splitlines()[0]}). Others may have taken "
            "it (`nvidia-smi` shows them): free it and run the same command again, or set "
            f"`{stage}.device: cpu`."
        ) from error


def claim_for_children(number: int) -> None:
    """Claim `number` GPUs until this process ends, and make them the only ones that its children see.

    Raises `InputError` where fewer are visible.
    """
    import torch

    every = map(str, range(torch.cuda.device_count()))
    names = (
        os.environ["CUDA_VISIBLE_DEVICES"].split(",") if "CUDA_VISIBLE_DEVICES" in os.environ else [*every]
    )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[index] for index in _claim_visible(number))


def uses_gpu(device: str) -> bool:
    """Whether the setting `device` means a GPU here; `InputError` where it asks for one and there is none."""
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return False
    if not torch.cuda.is_available():
        raise InputError(
            "device: `cuda` was asked for, but torch sees no such device. Set `device: auto`, run where a "
            "GPU is, or install the CUDA build of torch (README, Installation)."
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
    """Claim `number` of the GPUs `names` until this process ends, and return their indices.

    `names` are the same in every process (UUIDs), whatever each of them sees. Of more unclaimed ones than
    asked for, those with the most `free_memory(index)` in bytes; only then is it asked, for that takes some
    hundred megabytes on the GPU. With fewer, none is taken until there are enough: two processes that each
    want all GPUs do not wait for each other's half. What this process has claimed before counts. Raises
    `InputError` where there are fewer GPUs than asked for.
    """
    if number > len(names):
        raise InputError(
            f"{number} GPUs were asked for, but {len(names)} can be seen. Ask for fewer (`--set-resources "
            "train_model:gpu=N`), or make more of them visible (CUDA_VISIBLE_DEVICES)."
        )
    waiting = False
    while True:
        with _alone(folder):
            locks = {
                index: _held[name] if name in _held else _lock(folder / name)
                for index, name in enumerate(names)
            }
            ours = [index for index, lock in locks.items() if lock is not None]
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
    """An open file that this process alone has locked, or None where another has."""
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time chooses: it is then the only one that holds locks which it will give back."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
        folder.chmod(0o1777)  # every user's, like the folder it lies in
    file = _open(folder / "choosing")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _open(path: Path) -> int:
    """A file of all users, made where there is none.

    Not by one call that opens or makes: Linux refuses it for another user's file (fs.protected_regular).
    """
    with contextlib.suppress(FileExistsError):
        file = os.open(path, os.O_CREAT | os.O_EXCL)
        os.fchmod(file, 0o644)
        os.close(file)
    return os.open(path, os.O_RDONLY)
