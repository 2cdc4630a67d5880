"""Start several processes that share one task, each on its own GPU, and exchange data between them."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ErrorHandler,
    ProcessFailure,
    get_error_handler,
)

from pipeline_lib.runtime import devices, log
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.runtime.signals import ENDING

# How long a process waits for another one. The first process may take long to read all data and hash them. If
# a process on this machine fails, the others are ended immediately.
PATIENCE = timedelta(hours=2)
# occur in the messages of torch if another process has ended
_LOST_ANOTHER = ("gloo", "DistBackendError", "DistNetworkError")
_INPUT_ERROR = f"{InputError.__name__}: "
Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process as one of `number` processes that run the same code on different shares of the data.

    The methods exchange data between the processes. All processes must call them, in the same order. Only the
    first process writes files. Without arguments, this is the only process, and the methods return their
    input.

    Attributes
    ----------
    rank : int
        Number of this process, from 0.
    number : int
        Number of processes.
    on_this_machine : int
        Number of these processes that run on this machine.
    """

    rank: int = 0
    number: int = 1
    on_this_machine: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return this process's share of the numbers 0..count-1, which are dealt out in turn."""
        return range(self.rank, count, self.number)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is true in any process."""
        if self.number == 1:
            return flags
        found = torch.tensor(flags, dtype=torch.float32)  # on the CPU, to avoid waiting for the GPU
        distributed.all_reduce(found)
        return tuple(count > 0 for count in found.tolist())

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes. All must have the same dtype and device."""
        if self.number == 1:
            return
        whole = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(whole)
        for tensor, part in zip(tensors, whole.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def merge(self, shares: dict[Key, Value]) -> dict[Key, Value]:
        """Return the entries of the `shares` of all processes, sorted by key."""
        found = [shares]
        if self.number > 1:
            found = [{}] * self.number
            distributed.all_gather_object(found, shares)
        return dict(sorted(item for own in found for item in own.items()))

    def from_first(self, make: Callable[[], Any]) -> Any:
        """Call `make` in the first process only, and return its result (plain types, CPU tensors) in all."""
        content = [make() if self.first else None]
        if self.number > 1:
            distributed.broadcast_object_list(content)
        return content[0]


ALONE = Processes()


def launch(module: str, number: int, device: str, log_file: str | Path, **arguments: Any) -> None:
    """Run `module` in several processes on this machine, and wait until they have ended.

    If one process fails, the others are ended.

    Parameters
    ----------
    module : str
        Importable name of a module that calls `work` when it is run.
    number : int
        Number of processes.
    device : {"cpu", "cuda", "auto"}
        If this selects GPUs, one GPU per process is claimed here.
    log_file : str or Path
        File to which the first process logs, in addition to the terminal.
    **arguments
        Arguments of the function that the module passes to `work`, as values that JSON can store. Paths are
        converted to strings.

    Raises
    ------
    InputError
        If the process that failed first raised it, or was killed.
    RuntimeError
        If the process that failed first raised another exception.
    SystemExit
        If a signal ended the processes.
    """
    if devices.uses_gpu(device):
        devices.claim_for_children(number)
    with tempfile.TemporaryDirectory() as folder:
        content = Path(folder, "arguments.json")
        content.write_text(json.dumps({**arguments, "log_file": str(log_file)}, default=str))
        # `localhost`, since a machine may be unable to resolve its own name
        options = ["--standalone", f"--nproc-per-node={number}", "--local-addr=localhost"]
        command = [*options, f"--log-dir={folder}", "-m", module, str(content)]
        logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # failures are reported below
        try:
            torchrun.run(torchrun.parse_args(command))
        except ChildFailedError as error:
            raise _reason(error, number) from None
        except SignalException as error:
            sys.exit(128 + error.sigval)


def _reason(error: ChildFailedError, number: int) -> BaseException:
    """Return the exception for the original failure. Other processes may have failed because of it."""

    def after(failure: ProcessFailure) -> tuple[bool, bool, bool, float]:
        message, _ = _message_and_traceback(failure)
        # torchrun ends the others with SIGTERM; some may have lost their connection before
        follows = -failure.exitcode in ENDING or any(word in message for word in _LOST_ANOTHER)
        left = Path(failure.error_file)  # the time inside it has a resolution of 1 s
        written = left.stat().st_mtime if left.exists() else 0.0
        return not message.startswith(_INPUT_ERROR), follows, failure.exitcode >= 0, written

    rank, failure = min(error.failures.items(), key=lambda item: after(item[1]))
    message, traceback = _message_and_traceback(failure)
    if message.startswith(_INPUT_ERROR):
        return InputError(message.removeprefix(_INPUT_ERROR))
    if -failure.exitcode in ENDING:
        return SystemExit(128 - failure.exitcode)
    if failure.exitcode < 0:
        return InputError(
            f"process {rank} of {number} was killed ({failure.signal_name()}), most likely because memory "
            "ran out. Give the job more memory or fewer processes, and run the same command again."
        )
    return RuntimeError(f"process {rank} of {number}: {traceback}")


def _message_and_traceback(failure: ProcessFailure) -> tuple[str, str]:
    """Return the message and traceback that a process wrote before it ended, as far as it could."""
    left = failure.error_file_data["message"]
    if isinstance(left, str):
        return failure.message, failure.message
    return left["message"], left["extraInfo"]["py_callstack"]


def _report(errors: ErrorHandler, error: Exception) -> None:
    """Write what happened for the parent process, which reports it, completely or not at all.

    torchrun may end this process while it writes, and fails if it reads half a file.
    """
    name = "TORCHELASTIC_ERROR_FILE"
    file = os.environ[name]
    os.environ[name] = f"{file}.partial"
    errors.record_exception(error)
    os.replace(os.environ[name], file)


def work(function: Callable[..., None]) -> NoReturn:
    """Run `function(**arguments, processes=...)` in a process that `launch` or torchrun has started.

    The arguments are read from the JSON file named on the command line. Only the first process logs: to the
    terminal and, if the file has an entry `log_file`, to that file.

    Parameters
    ----------
    function : callable
        Function to run. Its argument `processes` is a `Processes`.
    """
    if not distributed.is_torchelastic_launched():
        sys.exit("usage: python -m torch.distributed.run --nproc-per-node N -m MODULE ARGUMENTS.json")
    with contextlib.suppress(AttributeError, OSError):  # Linux: die with the parent process
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    own = Processes(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))
    errors = get_error_handler()
    errors.initialize()
    try:
        arguments = read_json(sys.argv[1])
        log_file = arguments.pop("log_file", None)
        if own.first:
            log.show(log_file)
        log.logger.disabled = not own.first
        gpus = torch.cuda.is_available() and distributed.is_nccl_available()
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
        function(**arguments, processes=own)
        own.any(False)  # no process exits while another still waits for its data
    except Exception as error:
        _report(errors, error)
        os._exit(1)
    log.leave(0)
