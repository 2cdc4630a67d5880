"""The state of a training, and the file from which an interrupted one resumes."""

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
from pipeline_lib.training.schedule import Settings, learning_rate, make_optimizer

SECONDS_BETWEEN_SAVES = 300  # at most


class Diverged(Exception):
    """A loss or a parameter is not finite."""


@dataclass
class State:
    """All that a training is at an iteration, but for the parameters of network and optimiser.

    Parameters
    ----------
    smallest_tile : int
        Side in px of the smallest tile that an update was made with.
    iteration : int
        Updates made.
    losses : list of Tensor
        Mean loss of each update since the last validation, on the device of the network.
    history : list of dict
        One row per validation.
    best : dict, optional
        Parameters (`state_dict`) of the best validation, with its value (less is better) and iteration.
    versions : list of str
        Versions of bordure that trained it, the first one first.
    seconds : float
        Time spent by earlier, interrupted processes.
    """

    smallest_tile: int
    iteration: int = 0
    losses: list[Tensor] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    best_value: float = math.inf
    best_iteration: int = 0
    versions: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def finished(self, settings: Settings) -> bool:
        """Whether the last iteration was made and scored."""
        return self.iteration == settings.iterations and not self.losses

    def validation_due(self, settings: Settings) -> bool:
        """Whether the state has to be scored before training goes on."""
        last = self.iteration == settings.iterations
        return bool(self.losses) and (last or self.iteration % settings.validation_interval == 0)

    def mean_loss(self) -> float:
        """Mean loss since the last validation.

        Raises
        ------
        Diverged
            If the loss of an iteration is not finite.
        """
        losses = torch.stack(self.losses).cpu()  # here the CPU does wait for the GPU
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
        """Add a validation to the history, and keep the parameters of `net` if they are the best so far.

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
        if self.best is None or value < self.best_value:
            self.best, self.best_value = copy.deepcopy(net.state_dict()), value
            self.best_iteration = self.iteration

    def account(self, settings: Settings) -> dict[str, Any]:
        """What the record of the model says that was not known when the training began."""
        found: dict[str, Any] = {"best_iteration": self.best_iteration}
        if self.smallest_tile < settings.tile:
            found["smallest_tile"] = self.smallest_tile
        if len(self.versions) > 1:  # interrupted, and resumed with another
            found["versions"] = self.versions
        return found


class Checkpoint:
    """The state of a training with its network and optimiser, and their file.

    The file is written whole or not at all. From the first validation on it is also a `Model`, of the best
    state so far. Only the first of several processes reads and writes it.

    Parameters
    ----------
    path : Path
        Of the file; it need not exist.
    key : str
        What the training's result depends on. A file with another key is not resumed from.
    model : Model
        Its network is trained; its provenance goes into the file.
    settings : Settings
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
        self._saved, self._saving = 0, 0.0  # iteration, and seconds it took
        if found := processes.from_first(self._read):
            self._resume(found)
        if not self.state.finished(settings):
            self.state.versions = list(dict.fromkeys([*self.state.versions, provenance.version()]))

    def save(self) -> None:
        """Write the state as of the last iteration.

        Raises
        ------
        Diverged
            If a loss or parameter is not finite; what was saved before is kept.
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
                self.model.provenance |= state.account(self.settings)
                self.model.save(self.path, state_dict=best, training=content)
        self._saved, self._saved_at = state.iteration, time.monotonic()
        self._saving = self._saved_at - began

    def save_now_and_then(self) -> None:
        """Save if that takes a hundredth of the time since the last save, and every few minutes at least."""
        waited = time.monotonic() - self._saved_at
        if self.processes.first and waited >= min(100 * self._saving, SECONDS_BETWEEN_SAVES):
            self.save()

    def kept(self) -> str:
        """What there is to go on from, for the end of an error message."""
        if not self._saved:
            return ""
        also = ""
        if self.state.best:
            also = f", and as a model its best state by validation, of iteration {self.state.best_iteration}"
        return (
            f" {self.path} has the state of iteration {self._saved}{also}; copy it if you want it, because "
            "training with other settings overwrites it."
        )

    def _resume(self, found: dict[str, Any]) -> None:
        content = found["training"]
        fields = {item.name: content[item.name] for item in dataclasses.fields(State) if item.name != "best"}
        fields["losses"] = [*content["losses"].to(next(self.net.parameters()).device)]
        self.state = State(**fields, best=found.get("state_dict"))
        if "net" in content:
            self.net.load_state_dict(content["net"])
            self.optimizer.load_state_dict(content["optimizer"])
        self._saved = self.state.iteration

    def _require_finite(self) -> None:
        if self.state.losses:
            self.state.mean_loss()
        kept = (value for of_one in self.optimizer.state.values() for value in of_one.values())
        tensors = [*self.net.state_dict().values(), *filter(torch.is_tensor, kept)]
        # by their sums, for that takes a tenth of the time
        if not all(bool(tensor.sum().isfinite()) for tensor in tensors):
            raise Diverged(f"the network's parameters became infinite in iteration {self.state.iteration}")

    def _read(self) -> dict[str, Any] | None:
        """The content of the file, if there is one and it is this training's."""
        if not self.path.exists():
            return None
        try:
            found = copy.deepcopy(read_tensors(self.path))  # not in the file's own pages
        except InputError as error:  # a checkpoint is only ever a saving of time
            logger.warning("%s Training starts from the beginning.", error)
            return None
        if found.get("training", {}).get("key") != self.key:
            logger.warning("%s: belongs to other settings or data; starting from the beginning", self.path)
            return None
        return found
