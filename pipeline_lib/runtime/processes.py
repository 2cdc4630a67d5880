"""Several processes at one piece of work, each on a GPU of its own: starting them, and what they share."""

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
from typing import Any, NoReturn

import torch
from torch import Tensor, distributed
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ProcessFailure,
    get_error_handler,
)

from pipeline_lib.runtime import devices, log
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.runtime.signals import ENDING

# How long one process waits for another before it gives up: for the first to read all data for their hashes.
# One that failed on this machine ends the others at once.
PATIENCE = timedelta(hours=2)
_LOST_ANOTHER = ("gloo", "DistBackendError", "DistNetworkError")  # in the messages of torch
_TO_PUT_RIGHT = f"{InputError.__name__}: "


@dataclass(frozen=True)
class Processes:
    """This process among `number` that do the same on their shares; alone unless told otherwise.

    What one of them computes for all reaches the others by the methods, which all of them have to call, in
    one order. Only the first writes files.
    """

    rank: int = 0
    number: int = 1
    on_this_machine: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> range:
        """This process's share of 0..count-1, dealt out in turn."""
        return range(self.rank, count, self.number)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag whether it holds in any of them."""
        if self.number == 1:
            return flags
        found = torch.tensor(flags, dtype=torch.float32)  # on the CPU, which need not wait for the GPU
        distributed.all_reduce(found)
        return tuple(count > 0 for count in found.tolist())

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each of `tensors` (one dtype and device) by its sum over all processes."""
        if self.number == 1:
            return
        whole = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(whole)
        for tensor, part in zip(tensors, whole.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def merge(self, shares: dict[Any, Any]) -> dict[Any, Any]:
        """The entries of all processes, sorted by key."""
        found = [shares]
        if self.number > 1:
            found = [None] * self.number
            distributed.all_gather_object(found, shares)
        return dict(sorted(item for own in found for item in own.items()))

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What `make` returns in the first of them, where alone it is called; plain types and CPU tensors."""
        content = [make() if self.first else None]
        if self.number > 1:
            distributed.broadcast_object_list(content)
        return content[0]


ALONE = Processes()


def launch(module: str, number: int, device: str, log_file: str | Path, **arguments: Any) -> None:
    """Run `module` (its `work`) in `number` processes of this machine and wait for them.

    With a GPU for each, claimed here, where the setting `device` means GPUs. Their log lines go to `log_file`
    and the terminal. Raises the `InputError` of whichever failed first, after ending the others, and
    `SystemExit` where a signal ends them.
    """
    if devices.uses_gpu(device):
        devices.claim_for_children(number)
    with tempfile.TemporaryDirectory() as folder:
        content = Path(folder, "arguments.json")
        content.write_text(json.dumps({**arguments, "log_file": str(log_file)}, default=str))
        # `localhost`: a machine need not find itself by its name
        options = ["--standalone", f"--nproc-per-node={number}", "--local-addr=localhost"]
        command = [*options, f"--log-dir={folder}", "-m", module, str(content)]
        logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # what failed is told below
        try:
            torchrun.run(torchrun.parse_args(command))
        except ChildFailedError as error:
            raise _reason(error, number) from None
        except SignalException as error:
            sys.exit(128 + error.sigval)


def _reason(error: ChildFailedError, number: int) -> BaseException:
    """What went wrong in the first place; other processes may have failed for having lost that one."""

    def after(failure: ProcessFailure) -> tuple[bool, bool, bool, float]:
        message, _ = _told(failure)
        # torchrun ends the others by SIGTERM; some have found by then that they lost one
        follows = -failure.exitcode in ENDING or any(word in message for word in _LOST_ANOTHER)
        left = Path(failure.error_file)  # its own time counts whole seconds
        written = left.stat().st_mtime if left.exists() else 0.0
        return not message.startswith(_TO_PUT_RIGHT), follows, failure.exitcode >= 0, written

    rank, failure = min(error.failures.items(), key=lambda item: after(item[1]))
    message, traceback = _told(failure)
    if message.startswith(_TO_PUT_RIGHT):
        return InputError(message.removeprefix(_TO_PUT_RIGHT))
    if -failure.exitcode in ENDING:
        return SystemExit(128 - failure.exitcode)
    if failure.exitcode < 0:
        return InputError(
            f"process {rank} of {number} was ended from outside ({failure.signal_name()}), most likely for "
            "want of memory. Give the job more, or fewer processes, and run the same command again."
        )
    return RuntimeError(f"process {rank} of {number}: {traceback}")


def _told(failure: ProcessFailure) -> tuple[str, str]:
    """Message and traceback that a process left, if it could."""
    left = failure.error_file_data["message"]
    if isinstance(left, str):
        return failure.message, failure.message
    return left["message"], left["extraInfo"]["py_callstack"]


def work(function: Callable[..., None]) -> NoReturn:
    """Be one of the processes that `launch` or torchrun has started: `function(**arguments, processes=...)`.

    The arguments are those of the JSON file named on the command line. Its `log_file`, where it has one, is
    written to by the first process, whose messages alone are shown.
    """
    if not distributed.is_torchelastic_launched():
        sys.exit("usage: python -m torch.distributed.run --nproc-per-node N -m MODULE ARGUMENTS.json")
    with contextlib.suppress(AttributeError, OSError):  # Linux: if the starter is killed, so is this process
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
        own.any(False)  # nobody leaves while another still waits for what he sent
    except Exception as error:
        errors.record_exception(error)  # told by who started us
        os._exit(1)
    log.leave(0)
