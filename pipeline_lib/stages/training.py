"""Training stage: datasets and weight maps in, `model.pt` and `history.csv` out.

The workflow starts one process for each GPU it is given, on one machine. Over several machines, which share a
disk, type on each of them, where HOST is one of them,

    python -m torch.distributed.run --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d \\
        --rdzv-endpoint HOST:29500 -m pipeline_lib.stages.training ARGUMENTS.json

with the arguments of `train` in a JSON file; `log_file` may be added. GPUs are not claimed then: nobody else
should be at work on them. A training that was interrupted resumes in any number of processes.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from pipeline_lib import metrics, networks, provenance
from pipeline_lib.data.augment import Augmentation
from pipeline_lib.data.labels import cells_apart, target_class
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.data.patches import Patches, open_volumes
from pipeline_lib.inference import passes as inference
from pipeline_lib.runtime import devices
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json, replacing
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.processes import ALONE, Processes, work
from pipeline_lib.runtime.signals import Interrupted, Signals
from pipeline_lib.tasks.segmentation.losses import weighted_cross_entropy

SECONDS_BETWEEN_LINES = 15
SECONDS_BETWEEN_SAVES = 300  # at most
# What costs a few hundredths of a second per section of 512 px; float64, in which ties are decided
VALIDATION_THRESHOLDS = tuple(np.arange(1, 10) / 10)


@dataclass(frozen=True)
class Settings:
    """How to train; sizes in px, lengths of time in iterations.

    An iteration is one update with the mean loss of `batch` patches of `tile` px.
    `optimizer` sgd (with `momentum`), adam or adamw; `decay` constant, linear or cosine, after `warm_up`;
    every `validation_interval` the model is scored on the validation volumes and the state saved, and the
    state best by `best_by` (loss or v_rand_thin) becomes the model.
    """

    tile: int = 572
    batch: int = 1
    iterations: int = 20_000
    optimizer: str = "sgd"
    learning_rate: float = 1e-3
    momentum: float = 0.99
    weight_decay: float = 0.0
    warm_up: int = 100
    decay: str = "cosine"
    validation_interval: int = 250
    best_by: str = "loss"
    precision: str = "auto"
    device: str = "auto"


def learning_rate(iteration: int, settings: Settings) -> float:
    """The rate of `iteration` (0-based).

    Linear warm-up, then constant, or falling to 0 linearly or as half a cosine.
    """
    if iteration < settings.warm_up:
        return settings.learning_rate * (iteration + 1) / settings.warm_up
    progress = (iteration - settings.warm_up) / max(settings.iterations - settings.warm_up, 1)
    factor = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[
        settings.decay
    ]
    return settings.learning_rate * factor


@devices.memory_told("training")
def train(
    train: Sequence[Path],
    train_weight_maps: Sequence[Path],
    validation: Sequence[Path],
    validation_weight_maps: Sequence[Path],
    statistics: Path,
    model: Path,
    history: Path,
    *,
    network: dict[str, Any],
    training: dict[str, Any],
    augmentation: dict[str, Any],
    seed: int,
    threads: int = 1,
    processes: Processes = ALONE,
) -> None:
    """Train `network` (its name and arguments) and write the best state by validation to `model`.

    `history` (CSV) grows by a line per validation. The state is saved beside the model, in
    `<model>.checkpoint.pt`, at each validation, every few minutes, and where a signal asks the process to
    end. An interrupted training resumes from there and ends on the CPU with the same bytes as an
    uninterrupted one. The file stays, so that a finished training whose results are lost, as where Snakemake
    was killed before it noted them, is not done again; the workflow deletes it when all is done. Raises
    `InputError` for a tile the network cannot take, a loss that is not finite, and settings that do not fit
    the data.

    One of several `processes` computes the gradients of its share of each batch and validates its share of
    the sections; they come to what one process does, but for the order in which sums are taken. Those of a
    machine share its `threads`.
    """
    settings = Settings(**training)
    if settings.batch % processes.number:
        raise InputError(
            f"training.batch: {settings.batch} patches cannot be shared out evenly to {processes.number} "
            f"processes. Set `training.batch: {math.lcm(settings.batch, processes.number)}`, or start a "
            "number of processes that divides it."
        )
    torch.set_num_threads(max(threads // processes.on_this_machine, 1))
    inference.keep_memory()
    torch.manual_seed(seed)
    device = devices.choose_device(settings.device)
    precision = inference.choose_precision(settings.precision, device)
    normalisation = Normalisation.from_dict(read_json(statistics)["normalisation"])
    arguments = {**network, "input_channels": len(normalisation.scale)}
    name = arguments.pop("name")
    net = networks.build(name, **arguments)
    net.load_state_dict(processes.from_first(net.state_dict))  # machines of another kind draw other numbers
    net.to(device, memory_format=torch.channels_last)
    net.geometry.output_size(settings.tile)
    torch.backends.cudnn.benchmark = True  # every tile has one size: worth finding its fastest algorithms
    inputs = [*train, *train_weight_maps, *validation, *validation_weight_maps, statistics]
    settings_of_all = {"network": network, "training": training, "augmentation": augmentation, "seed": seed}
    with ExitStack() as made:
        record = processes.from_first(
            lambda: made.enter_context(
                provenance.making("train", [model, history], inputs, **settings_of_all)
            )
        )
        record["environment"] = {
            "torch": str(torch.__version__),
            "device": device.type,
            "precision": str(precision).removeprefix("torch."),
            "threads": threads,
            "processes": processes.number,
        }
        record["device"] = device.type
        found = networks.Model(name, arguments, net, normalisation, record)
        checkpoint = Path(model).with_suffix(".checkpoint.pt")
        run = _Run(settings, found, seed, checkpoint, _key(record), processes)
        if run.history and processes.first:
            _write_history(history, run.history)  # a failed job has lost it
        if run.finished:
            logger.info("trained before, as %s says: delete it to train anew", checkpoint)
        else:
            if run.iteration:
                logger.info("resuming at iteration %d", run.iteration)
            parameters = sum(p.numel() for p in net.parameters())
            logger.info(
                "training %s of %.1f million parameters on %s in %s: %d iterations, batches of %d, "
                "tiles of %d -> %d px%s",
                name,
                parameters / 1e6,
                device,
                str(precision).removeprefix("torch."),
                settings.iterations,
                settings.batch,
                settings.tile,
                net.geometry.output_size(settings.tile),
                f", in {processes.number} processes" if processes.number > 1 else "",
            )
            if processes.number > 1 and device.type == "cpu" and settings.device == "auto":
                logger.warning("torch sees no GPU: the processes share the CPU, which is no faster than one")
            with ExitStack() as stack:
                volumes = open_volumes(stack, train, train_weight_maps)
                held_out = open_volumes(stack, validation, validation_weight_maps)
                opened = zip([*train, *validation], [*volumes, *held_out], strict=True)
                for path, (raw, *_) in opened:
                    normalisation.check(raw, path)
                patches = Patches(
                    volumes, normalisation, net.geometry, settings.tile, Augmentation(**augmentation), seed
                )
                _learn(run, patches, held_out, device, precision, history)
        if processes.first:
            net.load_state_dict(run.best)
            net.cpu()
            record |= run.account()
            found.save(model)
            record["seconds"] = run.seconds_before


def _learn(
    run: _Run,
    patches: Patches,
    held_out: Sequence[tuple[Any, Any, Any, Any]],
    device: torch.device,
    precision: torch.dtype,
    history: Path,
) -> None:
    """Go on with `run` to its last iteration, scored on the volumes `held_out`.

    A signal that asks the process to end lets the iteration be finished, breaks off a validation, and has the
    state saved before it takes effect.
    """
    settings, processes = run.settings, run.processes
    in_halves = inference.InHalves(run.net)  # a device too small for a training tile is so for validation
    progress = _Progress(run.iteration, settings.iterations)
    shares = (run.share(iteration) for iteration in range(run.iteration, settings.iterations))
    batches = patches.batches(shares, device)
    with run.signals:
        try:
            while not run.finished:
                if run.to_be_validated:
                    mean_loss = run.mean_loss()
                    with run.signals.at_once():
                        validation_loss, v_rand = validate(
                            in_halves,
                            held_out,
                            patches.normalisation,
                            settings.tile,
                            device,
                            precision,
                            processes,
                        )
                    run.keep(mean_loss, validation_loss, v_rand)
                    if processes.first:
                        _write_history(history, run.history)
                    logger.info(
                        "iteration %d: training loss %.4f, validation loss %.4f, validation V-Rand %.4f%s",
                        run.iteration,
                        mean_loss,
                        validation_loss,
                        v_rand,
                        " (best)" if run.best_iteration == run.iteration else "",
                    )
                    continue
                run.step(next(batches), device, precision)
                if run.ending or (processes.number == 1 and run.signals.received):
                    raise Interrupted
                if progress.due():
                    run.mean_loss()
                    progress.line(run.iteration, run.losses[-1])
                    run.save_now_and_then()
        except Interrupted:
            if processes.first:
                run.save()
                logger.warning(
                    "asked to end: iteration %d is saved in %s; the same command goes on from there",
                    run.iteration,
                    run.checkpoint,
                )
            raise
        except torch.cuda.OutOfMemoryError as error:
            raise InputError(
                f"training: {device} has no memory left ({str(error).splitlines()[0]}). Free it and run the "
                f"same command again, or lower `training.tile` or `network.base_channels`.{run.kept()}"
            ) from error


def validate(
    net: nn.Module,
    volumes: Sequence[tuple[Any, Any, Any, Any]],
    normalisation: Normalisation,
    tile: int,
    device: torch.device,
    precision: torch.dtype,
    processes: Processes = ALONE,
) -> tuple[float, float]:
    """Weighted cross entropy and V-Rand after thinning at its best threshold, over whole validation volumes.

    V-Rand is averaged over the sections that have cells, and NaN where none has. Each of `processes` looks at
    its share of the sections.
    """
    net.eval()
    sections = [(volume, z) for volume in volumes for z in range(volume[1].shape[0])]
    found = {}  # section -> energy of each tile, V-Rand at each threshold, pixels
    for number in processes.share(len(sections)):
        (raw, labels, border, weight_map), z = sections[number]
        energies, scores = [], []
        probability = np.empty(labels.shape[1:], np.float32)
        target = target_class(labels[z], border[z])
        weights = weight_map[z]
        for part, p in inference.tile_probabilities(net, raw, z, normalisation, tile, device, precision):
            p = p.cpu().numpy()
            own = np.where(target[part.write] == 1, p[1], p[0])
            energies.append(-float((weights[part.write] * np.log(np.maximum(own, 1e-12))).sum(dtype=float)))
            probability[part.write] = p[1]
        if target.any():
            truth = metrics.connected_components(cells_apart(labels[z], border[z]))
            thinned = (metrics.thin_borders(probability > t) for t in VALIDATION_THRESHOLDS)
            scores = [metrics.v_rand(truth, predicted) for predicted in thinned]
        found[number] = energies, scores, target.size
    net.train()
    energies, scores, pixels = zip(*processes.merge(found).values(), strict=True)
    scores = [row for row in scores if row]
    v_rand = float(np.max(np.mean(scores, axis=0))) if scores else math.nan
    return sum(itertools.chain(*energies)) / sum(pixels), v_rand


class _Run:
    """The state of a training, and the file that survives an interruption.

    That file is also a `networks.Model`, of the best state so far, from the first validation on.
    """

    def __init__(
        self,
        settings: Settings,
        model: networks.Model,
        seed: int,
        checkpoint: Path,
        key: str,
        processes: Processes = ALONE,
    ) -> None:
        self.settings, self.model, self.net, self.seed = settings, model, model.network.train(), seed
        self.checkpoint, self.key, self.processes = checkpoint, key, processes
        self.optimizer = _optimizer(self.net, settings)
        self.signals, self.ending = Signals(), False
        self.iteration, self.history = 0, []
        self.losses: list[torch.Tensor] = []  # since the last validation, on the device
        self.rim = 0  # px taken off each side of a patch that the device's memory does not hold
        self.smallest_tile = settings.tile  # px, of all updates
        self.versions: list[str] = []  # of bordure, that trained it
        self.best, self.best_value, self.best_iteration = None, math.inf, 0
        self.start, self.seconds_before = time.monotonic(), 0.0  # of runs that were interrupted
        self.saved, self.saved_at, self.saving = 0, self.start, 0.0  # iteration, when, how long it took
        if found := processes.from_first(self._read):
            self.best, state = found.get("state_dict"), found["training"]
            self.losses = [*state.pop("losses").to(next(self.net.parameters()).device)]
            if "net" in state:
                self.net.load_state_dict(state.pop("net"))
                self.optimizer.load_state_dict(state.pop("optimizer"))
            vars(self).update(state)
            self.saved = self.iteration
        if not self.finished:
            self.versions = list(dict.fromkeys([*self.versions, provenance.version()]))

    @property
    def to_be_validated(self) -> bool:
        """Whether the state has to be scored before training goes on."""
        last = self.iteration == self.settings.iterations
        return bool(self.losses) and (last or self.iteration % self.settings.validation_interval == 0)

    @property
    def finished(self) -> bool:
        return self.iteration == self.settings.iterations and not self.losses

    def account(self) -> dict[str, Any]:
        """What is recorded of the model that was not known when the training began."""
        found: dict[str, Any] = {"best_iteration": self.best_iteration}
        if self.smallest_tile < self.settings.tile:
            found["smallest_tile"] = self.smallest_tile
        if len(self.versions) > 1:  # interrupted, and resumed with another
            found["versions"] = self.versions
        return found

    def share(self, iteration: int) -> list[int]:
        """The numbers of this process's patches in the batch of `iteration`."""
        batch = self.settings.batch
        return [iteration * batch + k for k in self.processes.share(batch)]

    def step(
        self,
        patches: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        """One update with this process's share of a batch: image, target and weights of each patch.

        The mean loss of the whole batch goes to `losses`; it stays on the device, so that the CPU need not
        wait for it. Where a device's memory does not hold a patch, all processes begin again with less: see
        `_save_memory`. Where one of them is asked to end, all know by `ending`.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.iteration, self.settings)
        loss, out_of_memory = self._gradients(patches, device, precision)
        ending = self.signals.received is not None
        short, self.ending = self.processes.any(bool(out_of_memory), ending)
        if self.ending and not ending:  # another process was asked to, and all end as that one
            self.signals.received = signal.SIGTERM
        if short:
            self._save_memory(out_of_memory or "that of another process")
            self.step(patches, device, precision)
            return
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        self.processes.sum_([*gradients, *_running_means(self.net), loss])
        self.optimizer.step()
        self.iteration += 1
        self.smallest_tile = min(self.smallest_tile, self.settings.tile - 2 * self.rim)
        self.losses.append(loss)

    def _gradients(
        self,
        patches: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
        device: torch.device,
        precision: torch.dtype,
    ) -> tuple[torch.Tensor, str]:
        """Leave this process's share of the batch's mean gradient and running means in the network.

        Returns its share of the mean loss, and why memory ran out where it did. One patch at a time: as much
        memory as one takes, and what batch normalisation sees does not depend on how patches are shared out.
        """
        before = [buffer.clone() for buffer in self.net.buffers()]
        running = [torch.zeros_like(mean) for mean in _running_means(self.net)]
        total = torch.zeros((), device=device)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            for number, (image, target, weights) in zip(self.share(self.iteration), patches, strict=True):
                torch.manual_seed(self.seed * 2**31 + number)  # drop-out, too, is a function of the patch
                _copy(before, self.net.buffers())
                with inference.autocast(device, precision):
                    logits = self.net(self._cropped(image).contiguous(memory_format=torch.channels_last))
                loss = weighted_cross_entropy(logits, self._cropped(target), self._cropped(weights))
                del logits
                loss = loss / self.settings.batch
                loss.backward()
                total += loss.detach()
                for mean, seen in zip(running, _running_means(self.net), strict=True):
                    mean += seen / self.settings.batch
        except torch.cuda.OutOfMemoryError as error:
            _copy(before, self.net.buffers())
            return total, str(error).splitlines()[0]
        _copy(running, _running_means(self.net))
        return total, ""

    def _cropped(self, part: torch.Tensor) -> torch.Tensor:
        return part[..., self.rim : part.shape[-2] - self.rim, self.rim : part.shape[-1] - self.rim]

    def _save_memory(self, why: str) -> None:
        """Compute activations twice instead of keeping them; where that is not enough, take smaller tiles.

        The first changes no number, but for batch normalisation, which would count every tile twice. Raises
        `InputError` where the smallest tile is too large.
        """
        geometry, tile = self.net.geometry, self.settings.tile - 2 * self.rim
        if not (self.net.checkpointing or _running_means(self.net)):
            self.net.checkpointing = True
            logger.info(
                "tiles of %d px do not fit into the device's memory (%s): activations are computed twice "
                "instead of kept, which takes longer and gives the same model",
                tile,
                why,
            )
            return
        smaller = geometry.input_size(max(geometry.output_size(tile) * 3 // 4, 1))
        if smaller == tile:
            self.save()
            raise InputError(
                f"training: even tiles of {tile} px do not fit into the device's memory ({why}). Free the "
                "device and run the same command again, lower `network.base_channels`, or set "
                f"`training.device: cpu`.{self.kept()}"
            )
        self.rim += (tile - smaller) // 2
        logger.warning(
            "tiles of %d px do not fit into the device's memory (%s): going on with tiles of %d px, which "
            "gives another model; set `training.tile: %d` to begin with them",
            tile,
            why,
            smaller,
            smaller,
        )

    def mean_loss(self) -> float:
        """Of the iterations since the last validation; `InputError` where one's loss is not finite."""
        losses = torch.stack(self.losses).cpu()  # here the CPU does wait for the GPU
        if self.processes.first and not losses.isfinite().all():
            number = int(losses.isfinite().logical_not().nonzero()[0])
            iteration = self.iteration - len(losses) + number + 1
            raise self._diverged(f"the loss became {losses[number]:g} in iteration {iteration}")
        return losses.mean().item()

    def keep(self, training_loss: float, validation_loss: float, v_rand: float) -> None:
        """Note a validation in the history, keep the state if it is the best, save it."""
        if not math.isfinite(validation_loss):
            raise self._diverged(f"the validation loss became {validation_loss:g}")
        self.losses.clear()
        self.history.append(
            {
                "iteration": self.iteration,
                "training_loss": training_loss,
                "validation_loss": validation_loss,
                "validation_v_rand_thin": v_rand,
                "learning_rate": learning_rate(self.iteration - 1, self.settings),
            }
        )
        value = {"loss": validation_loss, "v_rand_thin": 1 - v_rand}[self.settings.best_by]
        if self.best is None or value < self.best_value:
            self.best, self.best_value = copy.deepcopy(self.net.state_dict()), value
            self.best_iteration = self.iteration
        self.save()

    def save_now_and_then(self) -> None:
        """Save the state where that takes a hundredth of the time, and every few minutes at least."""
        waited = time.monotonic() - self.saved_at
        if self.processes.first and waited >= min(100 * self.saving, SECONDS_BETWEEN_SAVES):
            self.save()

    def save(self) -> None:
        """Write the state as of the last iteration, to be resumed from.

        One that is not finite is an `InputError`, and leaves what was saved before.
        """
        began = time.monotonic()
        if self.processes.first:
            best = ("best_value", "best_iteration")
            names = ("key", "iteration", "history", *best, "smallest_tile", "versions")
            state = {name: getattr(self, name) for name in names}
            state["seconds_before"] = self.seconds_before + began - self.start
            state["losses"] = torch.stack(self.losses) if self.losses else torch.empty(0)
            if not self.finished:
                self._require_finite()
                state |= {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
            if self.best is None:
                networks.write_tensors(self.checkpoint, {"training": state})
            else:
                self.model.provenance |= self.account()
                self.model.save(self.checkpoint, state_dict=self.best, training=state)
        self.saved, self.saved_at = self.iteration, time.monotonic()
        self.saving = self.saved_at - began

    def _require_finite(self) -> None:
        if self.losses:
            self.mean_loss()
        kept = (value for of_one in self.optimizer.state.values() for value in of_one.values())
        tensors = [*self.net.state_dict().values(), *filter(torch.is_tensor, kept)]
        # by their sums, for that takes a tenth of the time
        if not all(bool(tensor.sum().isfinite()) for tensor in tensors):
            raise self._diverged(f"the network's parameters became infinite in iteration {self.iteration}")

    def _diverged(self, what: str) -> InputError:
        settings = self.settings
        return InputError(
            f"training: {what}. Lower `training.learning_rate` (now {settings.learning_rate:g}), lengthen "
            f"`training.warm_up` (now {settings.warm_up}), or set `training.precision: float32`; each has "
            f"training begin anew.{self.kept()}"
        )

    def kept(self) -> str:
        """What there is to go on from, for the end of a message."""
        if not self.saved:
            return ""
        also = f", and as a model its best state by validation, of iteration {self.best_iteration}"
        return (
            f" {self.checkpoint} has the state of iteration {self.saved}{also if self.best else ''}; copy it "
            "if you want it, for training with other settings writes over it."
        )

    def _read(self) -> dict[str, Any] | None:
        """The state of an interrupted or finished training, if there is one and it is this one's."""
        if not self.checkpoint.exists():
            return None
        try:
            found = copy.deepcopy(networks.read_tensors(self.checkpoint))  # not in the file's own pages
        except InputError as error:  # a checkpoint is only ever a saving of time
            logger.warning("%s Training starts from the beginning.", error)
            return None
        if found.get("training", {}).get("key") != self.key:
            logger.warning(
                "%s: belongs to other settings or data; starting from the beginning", self.checkpoint
            )
            return None
        return found


def _running_means(net: nn.Module) -> list[torch.Tensor]:
    """What batch normalisation averages over the updates; its number of updates is a whole number."""
    return [buffer for buffer in net.buffers() if buffer.is_floating_point()]


def _copy(source: Iterable[torch.Tensor], target: Iterable[torch.Tensor]) -> None:
    for a, b in zip(source, target, strict=True):
        b.copy_(a)


def _optimizer(net: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            net.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(net.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def _key(record: dict[str, Any]) -> str:
    """What a checkpoint belongs to: settings, data and the arithmetic.

    Neither where files lie nor the library's commit counts, nor the number of processes and threads, which
    are others on another machine: going on with them changes the result no more than beginning with them.
    """
    environment = {k: v for k, v in record["environment"].items() if k not in ("processes", "threads")}
    decisive = [record["settings"], list(record["inputs"].values()), environment]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _write_history(path: Path, rows: list[dict[str, Any]]) -> None:
    with replacing(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


class _Progress:
    """A line now and then with iteration, loss, speed and time left."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.start = self.shown = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self.shown >= SECONDS_BETWEEN_LINES

    def line(self, iteration: int, loss: torch.Tensor) -> None:
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


if __name__ == "__main__":
    work(train)
