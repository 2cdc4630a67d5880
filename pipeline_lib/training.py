"""Training stage: datasets and weight maps in, `model.pt` and `history.csv` out.

The workflow starts one process for each GPU it is given, on one machine. Over several machines, which share a
disk, type on each of them, where HOST is one of them,

    python -m torch.distributed.run --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d \\
        --rdzv-endpoint HOST:29500 -m pipeline_lib.training ARGUMENTS.json

with the arguments of `train` in a JSON file; `log_file` may be added. GPUs are not claimed then: nobody else
should be at work on them. A training that was interrupted resumes in any number of processes.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
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

from pipeline_lib import devices, inference, metrics, networks, provenance
from pipeline_lib.augment import Augmentation
from pipeline_lib.errors import InputError
from pipeline_lib.files import read_json, replacing
from pipeline_lib.labels import cells_apart, target_class
from pipeline_lib.log import logger
from pipeline_lib.losses import weighted_cross_entropy
from pipeline_lib.normalisation import Normalisation
from pipeline_lib.patches import Patches, open_volumes
from pipeline_lib.processes import ALONE, Processes, work

SECONDS_BETWEEN_LINES = 15
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

    `history` (CSV) grows by a line per validation. An interrupted training resumes from
    `<model>.checkpoint.pt`, which lies beside the model until that is written, and ends on the CPU with the
    same bytes as an uninterrupted one. Raises `InputError` for a tile the network cannot take, a loss that is
    not finite, and settings that do not fit the data.

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
    record = processes.from_first(
        lambda: provenance.record(
            inputs, network=network, training=training, augmentation=augmentation, seed=seed
        )
    )
    record["environment"] = {
        "torch": str(torch.__version__),
        "device": device.type,
        "precision": str(precision),
        "threads": threads,
        "processes": processes.number,
    }
    run = _Run(settings, net, seed, Path(model).with_suffix(".checkpoint.pt"), _key(record), processes)
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
        patches = Patches(
            open_volumes(stack, train, train_weight_maps),
            normalisation,
            net.geometry,
            settings.tile,
            Augmentation(**augmentation),
            seed,
        )
        held_out = open_volumes(stack, validation, validation_weight_maps)
        in_halves = inference.InHalves(net)  # a device too small for a training tile is so for validation
        for path, (raw, *_) in zip([*train, *validation], [*patches.volumes, *held_out], strict=True):
            normalisation.check(raw, path)
        if run.history and processes.first:
            _write_history(history, run.history)  # a failed job has lost it
        progress = _Progress(run.iteration, settings.iterations)
        losses = []
        shares = (run.share(iteration) for iteration in range(run.iteration, settings.iterations))
        for share in patches.batches(shares, device):
            loss = run.step(share, device, precision)
            losses.append(loss)
            if run.iteration % settings.validation_interval == 0 or run.iteration == settings.iterations:
                mean_loss = _finite(torch.stack(losses).mean().item(), run.iteration, settings)
                losses.clear()
                validation_loss, v_rand = validate(
                    in_halves, held_out, normalisation, settings.tile, device, precision, processes
                )
                _finite(validation_loss, run.iteration, settings)
                run.keep(mean_loss, validation_loss, v_rand, progress.rate(run.iteration))
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
            progress.line(run.iteration, loss)

    if not processes.first:
        return
    net.load_state_dict(run.best)
    record["best_iteration"] = run.best_iteration
    networks.Model(name, arguments, net.cpu(), normalisation, record).save(model)
    run.checkpoint.unlink(missing_ok=True)


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
    """The state of a training, and the file that survives an interruption."""

    def __init__(
        self,
        settings: Settings,
        net: nn.Module,
        seed: int,
        checkpoint: Path,
        key: str,
        processes: Processes = ALONE,
    ) -> None:
        self.settings, self.net, self.seed = settings, net.train(), seed
        self.checkpoint, self.key, self.processes = checkpoint, key, processes
        self.optimizer = _optimizer(net, settings)
        self.iteration, self.history = 0, []
        self.rim = 0  # px taken off each side of a patch that the device's memory does not hold
        self.best, self.best_value, self.best_iteration = None, math.inf, 0
        if state := processes.from_first(self._read):
            self.net.load_state_dict(state.pop("net"))
            self.optimizer.load_state_dict(state.pop("optimizer"))
            vars(self).update(state)

    def share(self, iteration: int) -> list[int]:
        """The numbers of this process's patches in the batch of `iteration`."""
        batch = self.settings.batch
        return [iteration * batch + k for k in self.processes.share(batch)]

    def step(
        self,
        patches: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
        device: torch.device,
        precision: torch.dtype,
    ) -> torch.Tensor:
        """One update with this process's share of a batch: image, target and weights of each patch.

        Returns the mean loss of the whole batch, which stays on the device, so that the CPU need not wait for
        it. Where a device's memory does not hold a patch, all processes begin again with less: see
        `_save_memory`.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.iteration, self.settings)
        loss, out_of_memory = self._gradients(patches, device, precision)
        if self.processes.any(bool(out_of_memory)):
            self._save_memory(out_of_memory or "that of another process")
            return self.step(patches, device, precision)
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        self.processes.sum_([*gradients, *_running_means(self.net), loss])
        self.optimizer.step()
        self.iteration += 1
        return loss

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
            raise InputError(
                f"training: even tiles of {tile} px do not fit into the device's memory ({why}). Lower "
                "`network.base_channels`, free the device, or set `training.device: cpu`."
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

    def keep(self, training_loss: float, validation_loss: float, v_rand: float, rate: float) -> None:
        """Note a validation in the history, keep the state if it is the best, write the checkpoint."""
        self.history.append(
            {
                "iteration": self.iteration,
                "training_loss": training_loss,
                "validation_loss": validation_loss,
                "validation_v_rand_thin": v_rand,
                "learning_rate": learning_rate(self.iteration - 1, self.settings),
                "iterations_per_second": rate,
            }
        )
        value = {"loss": validation_loss, "v_rand_thin": 1 - v_rand}[self.settings.best_by]
        if self.best is None or value < self.best_value:
            self.best, self.best_value = copy.deepcopy(self.net.state_dict()), value
            self.best_iteration = self.iteration
        if self.processes.first:
            names = ("key", "iteration", "history", "best", "best_value", "best_iteration")
            state = {name: getattr(self, name) for name in names}
            state |= {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
            networks.write_tensors(self.checkpoint, state)

    def _read(self) -> dict[str, Any] | None:
        """The state of an interrupted training, if there is one and it is this one's."""
        if not self.checkpoint.exists():
            return None
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever is wrong with it, a checkpoint is only ever a saving of time
            logger.warning("%s: not readable (%s); starting from the beginning", self.checkpoint, error)
            return None
        if state["key"] != self.key:
            logger.warning(
                "%s: belongs to other settings or data; starting from the beginning", self.checkpoint
            )
            return None
        logger.info("resuming at iteration %d", state["iteration"])
        return state


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

    Neither where files lie nor the library's commit counts, nor the number of processes; that of threads only
    where it changes the result.
    """
    environment = {name: value for name, value in record["environment"].items() if name != "processes"}
    if environment["device"] != "cpu":
        del environment["threads"]
    decisive = [record["settings"], list(record["inputs"].values()), environment]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _write_history(path: Path, rows: list[dict[str, Any]]) -> None:
    with replacing(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def _finite(loss: float, iteration: int, settings: Settings) -> float:
    if not math.isfinite(loss):
        raise InputError(
            f"training: the loss became {loss} before iteration {iteration}. Lower `training.learning_rate` "
            f"(now {settings.learning_rate:g}), lengthen `training.warm_up` (now {settings.warm_up}), or set "
            "`training.precision: float32`."
        )
    return loss


class _Progress:
    """A line now and then with iteration, loss, speed and time left."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.start = self.shown = time.monotonic()

    def rate(self, iteration: int) -> float:
        return (iteration - self.first) / (time.monotonic() - self.start)

    def line(self, iteration: int, loss: torch.Tensor) -> None:
        now = time.monotonic()
        if now - self.shown < SECONDS_BETWEEN_LINES:
            return
        self.shown = now
        rate = self.rate(iteration)
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
