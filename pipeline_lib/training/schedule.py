"""How to train: settings, learning rate and optimiser."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Settings:
    """How to train; sizes in px, lengths of time in iterations.

    An iteration is one update with the mean loss of `batch` patches of `tile` px.
    `optimizer` sgd (with `momentum`), adam or adamw; `decay` constant, linear or cosine, after `warm_up`;
    every `validation_interval` the model is scored on the validation volumes and the state saved, and the
    state best by `best_by` (one of the task's scores) becomes the model.
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


def make_optimizer(net: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimiser of `settings` for the parameters of `net`."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            net.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(net.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
