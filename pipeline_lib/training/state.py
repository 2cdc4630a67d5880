"""State of a training, and the checkpoint file from which an interrupted training resumes."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline_lib import provenance
from pipeline_lib.networks.model import Model, read_tensors, write_tensors
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.processes import ALONE, Processes
from pipeline_lib.runtime.types import Json
from pipeline_lib.training.schedule import Settings, learning_rate, make_optimizer

SECONDS_BETWEEN_SAVES = 300  # longest time without a save


class Diverged(Exception):
    """A loss or a parameter is NaN or infinite."""


@dataclass
class State:
    """State of a training after an iteration, without the parameters of the network and the optimiser.

    Parameters
    ----------
    smallest_tile : int
        Side of the smallest tile of all updates (px).
    iteration : int, default 0
        Number of updates so far.
    losses : list of Tensor, optional
        Mean loss of each update since the last validation, on the device of the network.
    history : list of dict, optional
        One row for each validation.
    best : dict of str to Tensor, optional
        Parameters (`state_dict`) of the best validation so far. None before the first validation.
    best_value : float, default inf
        Value of the best validation. Lower is better.
    best_iteration : int, default 0
        Iteration of the best validation.
    versions : list of str, optional
        Versions of bordure that trained the network, oldest first.
    seconds : float, default 0.0
        Time that earlier, interrupted processes took (s).
    """

    smallest_tile: int
    iteration: int = 0
    losses: list[Tensor] = field(default_factory=list)
    history: list[Json] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    best_value: float = math.inf
    best_iteration: int = 0
    versions: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def finished(self, settings: Settings) -> bool:
        """Return whether the last iteration is complete and validated."""
        return self.iteration == settings.iterations and not self.losses

    def validation_due(self, settings: Settings) -> bool:
        """Return whether the next action is a validation."""
        last = self.iteration == settings.iterations
        return bool(self.losses) and (last or self.iteration % settings.validation_interval == 0)

    def mean_loss(self) -> float:
        """Return the mean loss since the last validation.

        Raises
        ------
        Diverged
            If the loss of an iteration is not finite.
        """
        losses = torch.stack(self.losses).cpu()  # the CPU waits for the GPU here
        if not losses.isfinite().all():
            number = int(losses.isfinite().logical_not().nonzero()[0])
            iteration = self.iteration - len(losses) + number + 1
            raise Diverged(f"the loss became {losses[number]:g} in iteration {iteration}")
        return losses.mean().item()

    def keep(
        self,
        settings: Settings,
        training_loss: float,
        scores: dict[str, float],
        more_is_better: bool,
        net: torch.nn.Module,
    ) -> None:
        """Add a validation to the history and keep the parameters if they are the best so far.

        Parameters
        ----------
        settings : Settings
            Settings of the training.
        training_loss : float
            Mean training loss since the last validation.
        scores : dict of str to float
            Scores of the validation.
        more_is_better : bool
            Whether a higher value of the score `settings.best_by` is better.
        net : torch.nn.Module
            Network that was validated.

        Raises
        ------
        Diverged
            If the validation loss is not finite.
        """
        if not math.isfinite(scores["loss"]):
            raise Diverged(f"the validation loss became {scores['loss']:g}")
        self.losses.clear()
        self.history.append(
            {
                "iteration": self.iteration,
                "training_loss": training_loss,
                **{f"validation_{name}": value for name, value in scores.items()},
                "learning_rate": learning_rate(self.iteration - 1, settings),
            }
        )
        value = 1 - scores[settings.best_by] if more_is_better else scores[settings.best_by]
        if self.best is None or value < self.best_value or math.isnan(self.best_value):
            self.best, self.best_value = copy.deepcopy(net.state_dict()), value
            self.best_iteration = self.iteration

    def provenance_entries(self, settings: Settings) -> Json:
        """Return entries for the provenance of the model that are known only after the training."""
        found: Json = {"best_iteration": self.best_iteration}
        if self.smallest_tile < settings.tile:
            found["smallest_tile"] = self.smallest_tile
        if len(self.versions) > 1:  # resumed with another version
            found["versions"] = self.versions
        return found


class Checkpoint:
    """State of a training with its network and optimiser, and the file that stores them.

    If the file exists and has the right key, the training resumes from it. The file is replaced atomically.
    After the first validation it is also a `Model` with the best parameters so far. If there are several
    processes, only the first reads and writes the file.

    Parameters
    ----------
    path : Path
        Checkpoint file. It need not exist.
    key : str
        Hash of all that the result depends on. A file with another key is ignored.
    model : Model
        Model whose network is trained. Its provenance is written to the file.
    settings : Settings
        Settings of the training.
    processes : Processes, default one process
        Processes that train together.
    """

    def __init__(
        self, path: Path, key: str, model: Model, settings: Settings, processes: Processes = ALONE
    ) -> None:
        self.path, self.key, self.model, self.settings = path, key, model, settings
        self.processes = processes
        self.net = model.network.train()
        self.optimizer = make_optimizer(self.net, settings)
        self.state = State(settings.tile)
        self._start = self._saved_at = time.monotonic()
        self._saved, self._saving = 0, 0.0  # iteration of the last save, and its duration (s)
        if found := processes.from_first(self._read):
            self._resume(found)
        if not self.state.finished(settings):
            self.state.versions = list(dict.fromkeys([*self.state.versions, provenance.version()]))

    def save(self) -> None:
        """Write the current state to the file.

        Raises
        ------
        Diverged
            If a loss or parameter is not finite. The file is unchanged then.
        """
        began = time.monotonic()
        state = self.state
        if self.processes.first:
            content = {item.name: getattr(state, item.name) for item in dataclasses.fields(state)}
            best = content.pop("best")
            content["key"] = self.key
            content["losses"] = torch.stack(state.losses) if state.losses else torch.empty(0)
            content["seconds"] = state.seconds + began - self._start
            if not state.finished(self.settings):
                self._require_finite()
                content |= {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
            if best is None:
                write_tensors(self.path, {"training": content})
            else:
                self.model.provenance |= state.provenance_entries(self.settings)
                self.model.save(self.path, state_dict=best, training=content)
        self._saved, self._saved_at = state.iteration, time.monotonic()
        self._saving = self._saved_at - began

    def save_if_due(self) -> None:
        """Save if this takes at most 1 % of the time since the last save, or if that was 5 minutes ago."""
        waited = time.monotonic() - self._saved_at
        if self.processes.first and waited >= min(100 * self._saving, SECONDS_BETWEEN_SAVES):
            self.save()

    def describe_saved(self) -> str:
        """Return a sentence about the content of the file for the end of an error message."""
        if not self._saved:
            return ""
        best = ""
        if self.state.best:
            best = f" and the best model so far (iteration {self.state.best_iteration})"
        return (
            f" {self.path} contains the state of iteration {self._saved}{best}; copy it to keep it, because "
            "training with other settings overwrites it."
        )

    def _resume(self, found: dict[str, Any]) -> None:
        """Continue from the content `found` of the file."""
        content = found["training"]
        fields = {item.name: content[item.name] for item in dataclasses.fields(State) if item.name != "best"}
        fields["losses"] = [*content["losses"].to(next(self.net.parameters()).device)]
        self.state = State(**fields, best=found.get("state_dict"))
        self.model.log_prior = found.get("log_prior", ())  # a finished training does not compute it again
        if "net" in content:
            self.net.load_state_dict(content["net"])
            self.optimizer.load_state_dict(content["optimizer"])
        self._saved = self.state.iteration

    def _require_finite(self) -> None:
        """Raise `Diverged` if a loss, or a value of the network or the optimiser, is not finite."""
        if self.state.losses:
            self.state.mean_loss()
        kept = (value for of_one in self.optimizer.state.values() for value in of_one.values())
        tensors = [*self.net.state_dict().values(), *filter(torch.is_tensor, kept)]
        # testing the sum of a tensor takes a tenth of the time of testing each value
        if not all(bool(tensor.sum().isfinite()) for tensor in tensors):
            raise Diverged(f"the network's parameters became infinite in iteration {self.state.iteration}")

    def _read(self) -> dict[str, Any] | None:
        """Return the content of the file, or None if it is missing, damaged or has another key."""
        if not self.path.exists():
            return None
        try:
            found = copy.deepcopy(read_tensors(self.path))  # tensors in memory, no longer mapped to the file
        except InputError as error:  # a checkpoint only saves time, so the training can start without it
            logger.warning("%s Training starts from the beginning.", error)
            return None
        if found.get("training", {}).get("key") != self.key:
            logger.warning(
                "%s: belongs to other settings or data. Training starts from the beginning.", self.path
            )
            return None
        return found
