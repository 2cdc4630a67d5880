"""The loop of a training."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pipeline_lib.data.patches import Patch
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import replacing
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.signals import Interrupted, Signals
from pipeline_lib.training.state import Checkpoint, Diverged, State
from pipeline_lib.training.step import Step, TooLarge

SECONDS_BETWEEN_LINES = 15
SHOWN = {"validation_v_rand_thin": "validation V-Rand"}  # how the log calls scores


def learn(
    checkpoint: Checkpoint,
    step: Step,
    batches: Iterator[Sequence[Patch]],
    validate: Callable[[], dict[str, float]],
    history: Path,
) -> None:
    """Go on with the training in `checkpoint` to its last iteration.

    A signal that asks the process to end lets the iteration be finished, breaks off a validation, and has the
    state saved before it takes effect.

    Parameters
    ----------
    checkpoint : Checkpoint
        The state, and its file.
    step : Step
    batches : iterator
        The patches of each iteration from the state's on.
    validate : callable
        Returns the scores of the network on the validation volumes.
    history : Path
        CSV with a row for each validation.

    Raises
    ------
    InputError
        If a loss or parameter is not finite, or the device's memory is too small.
    """
    state, settings, processes = checkpoint.state, step.settings, step.processes
    progress = Progress(state.iteration, settings.iterations)
    with Signals() as signals, explained(checkpoint, step):
        while not state.finished(settings):
            if state.validation_due(settings):
                mean_loss = state.mean_loss()
                with signals.interruptible():
                    scores = validate()
                state.keep(settings, mean_loss, scores, step.task.scores[settings.best_by], step.net)
                checkpoint.save()
                if processes.first:
                    write_history(history, state.history)
                log_validation(state)
                continue
            loss, ending = step(next(batches), state.iteration, lambda: signals.received is not None)
            state.losses.append(loss)
            state.iteration += 1
            state.smallest_tile = min(state.smallest_tile, step.tile)
            if ending and not signals.received:  # another process was asked to, and all end as that one
                signals.received = signal.SIGTERM
            if ending or (processes.number == 1 and signals.received):
                raise Interrupted
            if progress.due():
                state.mean_loss()
                progress.line(state.iteration, loss)
                checkpoint.save_now_and_then()


@contextmanager
def explained(checkpoint: Checkpoint, step: Step) -> Iterator[None]:
    """Save what can be saved when a training ends early, and say in the error what to do."""
    settings = step.settings
    try:
        try:
            yield
        except (Interrupted, TooLarge):
            checkpoint.save()
            raise
    except Interrupted:
        logger.warning(
            "asked to end: iteration %d is saved in %s; the same command goes on from there",
            checkpoint.state.iteration,
            checkpoint.path,
        )
        raise
    except Diverged as error:
        raise InputError(
            f"training: {error}. Lower `training.learning_rate` (now {settings.learning_rate:g}), lengthen "
            f"`training.warm_up` (now {settings.warm_up}), or set `training.precision: float32`. "
            f"With each of them training starts from the beginning.{checkpoint.kept()}"
        ) from None
    except TooLarge as error:
        raise InputError(
            f"training: {error}. Free the device and run the same command again, {step.net.plan.smaller}, or "
            f"set `training.device: cpu`.{checkpoint.kept()}"
        ) from None
    except torch.cuda.OutOfMemoryError as error:
        device = next(step.net.parameters()).device
        raise InputError(
            f"training: {device} has no memory left ({str(error).splitlines()[0]}). Free it and run the same "
            f"command again, lower `training.tile`, or {step.net.plan.smaller}.{checkpoint.kept()}"
        ) from error


def write_history(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a row for each validation to `path` (CSV)."""
    with replacing(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def log_validation(state: State) -> None:
    """Log the scores of the last validation."""
    *scores, _ = ((name, value) for name, value in state.history[-1].items() if name != "iteration")
    logger.info(
        "iteration %d: %s%s",
        state.iteration,
        ", ".join(f"{SHOWN.get(name, name).replace('_', ' ')} {value:.4f}" for name, value in scores),
        " (best)" if state.best_iteration == state.iteration else "",
    )


class Progress:
    """A line now and then with iteration, loss, speed and time left."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.start = self.shown = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next line."""
        return time.monotonic() - self.shown >= SECONDS_BETWEEN_LINES

    def line(self, iteration: int, loss: Tensor) -> None:
        """Log it."""
        self.shown = time.monotonic()
        rate = (iteration - self.first) / (self.shown - self.start)
        left = (self.last - iteration) / rate
        logger.info(
            "iteration %d of %d: loss %.4f, %.2f iterations/s, %d min %02d s left",
            iteration,
            self.last,
            loss.item(),
            rate,
            *divmod(round(left), 60),
        )
