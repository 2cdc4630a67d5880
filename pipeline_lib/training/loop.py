"""Training loop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from pipeline_lib.data.patches import Patch
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import replacing
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.progress import Progress
from pipeline_lib.runtime.signals import Interrupted, Signals
from pipeline_lib.runtime.types import Json
from pipeline_lib.training.state import Checkpoint, Diverged, State
from pipeline_lib.training.step import Step, TooLarge

# Names of scores in the log
LOG_NAMES = {
    "validation_v_rand_thin": "validation V-Rand",
    "validation_box_ap_50": "validation box AP50",
    "validation_box_ap": "validation box AP",
}


def learn(
    checkpoint: Checkpoint,
    step: Step,
    batches: Iterator[Sequence[Patch]],
    validate: Callable[[], dict[str, float]],
    history: str | Path,
) -> None:
    """Continue the training of a checkpoint up to its last iteration.

    If a signal asks the process to end, the current iteration is completed, or the current validation is
    aborted, and the state is saved. Then the process ends as by that signal.

    Parameters
    ----------
    checkpoint : Checkpoint
        State of the training, and its file.
    step : Step
        Training step.
    batches : iterator of sequence of (image, truth)
        Patches of each iteration, beginning with the next iteration of the state.
    validate : callable
        Function that returns the scores of the network on the validation volumes.
    history : str or Path
        CSV file to write, with one row for each validation.

    Raises
    ------
    InputError
        If a loss or parameter is not finite, or the memory of the device is too small.
    """
    state, settings, processes = checkpoint.state, step.settings, step.processes
    average = checkpoint.average
    progress = Progress(settings.iterations, "iteration", first=state.iteration)
    with Signals() as signals, explain_failures(checkpoint, step):
        while not state.finished(settings):
            if state.validation_due(settings):
                mean_loss = state.mean_loss()
                with average.used() if average else nullcontext():
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
            if average:
                average.update(state.iteration)
            state.iteration += 1
            state.smallest_tile = min(state.smallest_tile, step.tile)
            if ending and not signals.received:  # another process received a signal: end as it does
                signals.received = signal.SIGTERM
            if ending or (processes.number == 1 and signals.received):
                raise Interrupted
            if progress.update(state.iteration, partial(progress_values, state, loss)):
                state.mean_loss()  # raises `Diverged` if a loss is not finite
                checkpoint.save_if_due()


@contextmanager
def explain_failures(checkpoint: Checkpoint, step: Step) -> Iterator[None]:
    """Save the state if the training ends early, and raise an `InputError` that says what to do.

    Parameters
    ----------
    checkpoint : Checkpoint
        State of the training.
    step : Step
        Training step.

    Raises
    ------
    InputError
        If a loss or parameter is not finite, or the memory of the device is too small.
    """
    settings = step.settings
    try:
        try:
            yield
        except (Interrupted, TooLarge):
            checkpoint.save()
            raise
    except Interrupted:
        logger.warning(
            "interrupted: iteration %d is saved in %s. Run the same command again to continue.",
            checkpoint.state.iteration,
            checkpoint.path,
        )
        raise
    except Diverged as error:
        raise InputError(
            f"training: {error}. Lower `training.learning_rate` (now {settings.learning_rate:g}), increase "
            f"`training.warm_up` (now {settings.warm_up}) or set `training.precision: float32`; training "
            f"then starts from the beginning.{checkpoint.describe_saved()}"
        ) from None
    except TooLarge as error:
        raise InputError(
            f"training: {error}. Free the device and run the same command again, {step.net.plan.smaller}, or "
            f"set `training.device: cpu`.{checkpoint.describe_saved()}"
        ) from None
    except torch.cuda.OutOfMemoryError as error:
        device = next(step.net.parameters()).device
        raise InputError(
            f"training: {device} ran out of memory ({str(error).splitlines()[0]}). Free its memory and run "
            f"the same command again, lower `training.tile`, or {step.net.plan.smaller}."
            f"{checkpoint.describe_saved()}"
        ) from error


def write_history(path: str | Path, rows: list[Json]) -> None:
    """Write the history of a training to a CSV file.

    Parameters
    ----------
    path : str or Path
        File to write.
    rows : list of dict
        One row for each validation.
    """
    with replacing(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def log_validation(state: State) -> None:
    """Log the scores of the last validation, and whether the model is the best so far."""
    *scores, _ = ((name, value) for name, value in state.history[-1].items() if name != "iteration")
    logger.info(
        "iteration %d: %s%s",
        state.iteration,
        ", ".join(f"{LOG_NAMES.get(name, name).replace('_', ' ')} {value:.4f}" for name, value in scores),
        "; best so far" if state.best_iteration == state.iteration else "",
    )


def progress_values(state: State, loss: Tensor) -> dict[str, float]:
    """Return what the line of progress shows: the loss of an iteration and the last scores."""
    scores = state.history[-1] if state.history else {}
    shown = {LOG_NAMES[name]: value for name, value in scores.items() if name in LOG_NAMES}
    return {"loss": loss.item()} | {name.removeprefix("validation "): v for name, v in shown.items()}
