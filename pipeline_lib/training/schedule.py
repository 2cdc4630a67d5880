"""Schedule of a training: settings, learning rate and optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pipeline_lib.data.affinities import chosen_offsets
from pipeline_lib.networks import parts
from pipeline_lib.runtime.types import Offsets


@dataclass(frozen=True)
class Settings:
    """Settings of a training. The defaults are those of the section `training` of a config.

    An iteration is one update of the parameters with the mean loss of a batch.

    Parameters
    ----------
    tile : int, default 572
        Side of the patches (px). The output of the network is smaller by twice its context.
    batch : int, default 1
        Patches per iteration.
    sampling : {"uniform", "class_balanced"}, optional
        How centres of patches are drawn. With "uniform", and by default, all annotated pixels are equally
        likely. With "class_balanced", all classes are equally likely, and all pixels of a class (see
        `data.sampling.ClassBalanced`). The probabilities of the model are corrected (`training.prior`).
    loss : {"cross_entropy", "cross_entropy_dice", "focal"}, optional
        Loss of the classes of the pixels, see `tasks.segmentation.losses.pixel_loss`. By default the weighted
        cross entropy.
    loss_mask : float, optional
        Share of the output pixels of each patch over which the loss is averaged, drawn at random, see
        `training.randomness.loss_mask`. By default all pixels.
    deep_supervision : bool, optional
        Whether coarser levels of the expanding path also predict the classes in a training step, see
        `networks.module.Network.supervise`. By default they do not.
    affinities : bool or sequence of (int, int), optional
        Offsets (rows, columns) in px of the affinities that the network learns beside the classes, or True
        for the default (see `data.affinities.chosen_offsets`). By default it learns none.
    iterations : int, default 20000
        Number of updates.
    optimizer : {"sgd", "adam", "adamw"}, default "sgd"
        Optimiser. The paper uses `sgd`.
    learning_rate : float, default 1e-3
        Highest learning rate.
    momentum : float, default 0.99
        Momentum of `sgd`. The other optimisers ignore it.
    weight_decay : float, default 0.0
        Weight decay.
    warm_up : int, default 100
        Number of iterations in which the learning rate rises to its highest value.
    decay : {"constant", "linear", "cosine", "one_cycle"}, default "cosine"
        How the learning rate falls to 0 after the warm-up. With "constant" it does not fall. "one_cycle" has
        its own warm-up, see `learning_rate`.
    average : float, optional
        Largest weight of the average so far in an exponential moving average of the parameters, see
        `training.average.Average`. The average is validated and becomes the model. By default the parameters
        of the last iteration are.
    validation_interval : int, default 250
        Number of iterations between two validations. The state is saved at each of them.
    batch_normalisation_tiles : int, optional
        Number of training tiles over which the statistics of batch normalisation are estimated before each
        validation, see `training.statistics.estimate_statistics`. With 0 and by default, they are the
        running ones.
    start_from : str, optional
        Model file whose parameters the network starts from, see `networks.transfer`. By default they are
        drawn at random.
    keep_normalisation : bool, optional
        Whether the network also keeps the normalisation of that model. By default it does if the number of
        channels is the same.
    freeze : sequence of str, optional
        Parts of the network (`networks.parts`) that are not trained.
    learning_rate_factors : dict of str to float, optional
        Factor of the learning rate in parts of the network. That of the smallest part counts.
    best_by : str, default "loss"
        Score of the task by which the best state is selected. That state becomes the model.
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Type of the convolutions, see `inference.passes.choose_precision`.
    device : {"auto", "cpu", "cuda"}, default "auto"
        Device of the training. "auto" uses a GPU if there is one.

    References
    ----------
    Section 3 of [1]_: one large tile per batch and a momentum of 0.99.

    .. [1] O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional networks for biomedical image
       segmentation", MICCAI, LNCS 9351:234-241, 2015.
    """

    tile: int = 572
    batch: int = 1
    sampling: str | None = None
    loss: str | None = None
    loss_mask: float | None = None
    deep_supervision: bool | None = None
    affinities: bool | Sequence[Sequence[int]] | None = None
    iterations: int = 20_000
    optimizer: str = "sgd"
    learning_rate: float = 1e-3
    momentum: float = 0.99
    weight_decay: float = 0.0
    warm_up: int = 100
    decay: str = "cosine"
    average: float | None = None
    validation_interval: int = 250
    batch_normalisation_tiles: int | None = None
    start_from: str | None = None
    keep_normalisation: bool | None = None
    freeze: Sequence[str] | None = None
    learning_rate_factors: Mapping[str, float] | None = None
    best_by: str = "loss"
    precision: str = "auto"
    device: str = "auto"

    @property
    def offsets(self) -> Offsets:
        """Offsets of the affinities that the network learns, empty if it learns none."""
        return chosen_offsets(self.affinities)


def learning_rate(iteration: int, settings: Settings) -> float:
    """Return the learning rate of an iteration.

    The rate rises linearly during the warm-up. Afterwards it is constant, or falls to 0 linearly or like half
    a period of a cosine. With `decay="one_cycle"` it rises from 1/25 of its highest value during the first
    30 % of the iterations, then falls to 1/250,000 of it, both like half a period of a cosine, whatever the
    warm-up is.

    Parameters
    ----------
    iteration : int
        Number of the iteration, from 0.
    settings : Settings
        Settings of the training.

    Returns
    -------
    float
        Learning rate.

    References
    ----------
    One cycle: [1]_, with the numbers of `torch.optim.lr_scheduler.OneCycleLR`.

    .. [1] L. N. Smith, N. Topin, "Super-convergence: very fast training of neural networks using large
       learning rates", arXiv:1708.07120, 2017.

    Examples
    --------
    >>> from pipeline_lib.training.schedule import Settings, learning_rate
    >>> settings = Settings(learning_rate=0.1, warm_up=2, iterations=6, decay="linear")
    >>> [round(learning_rate(i, settings), 3) for i in range(6)]
    [0.05, 0.1, 0.1, 0.075, 0.05, 0.025]
    """
    if settings.decay == "one_cycle":
        highest = max(0.3 * settings.iterations - 1, 0.0)  # iteration of the highest rate
        if iteration < highest:
            start, progress = 1 / 25, 1 - iteration / highest
        else:
            start, progress = 1 / 250_000, (iteration - highest) / max(settings.iterations - 1 - highest, 1)
        return settings.learning_rate * (start + (1 - start) * (1 + math.cos(math.pi * progress)) / 2)
    if iteration < settings.warm_up:
        return settings.learning_rate * (iteration + 1) / settings.warm_up
    progress = (iteration - settings.warm_up) / max(settings.iterations - settings.warm_up, 1)
    factor = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[
        settings.decay
    ]
    return settings.learning_rate * factor


def make_optimizer(net: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return the optimiser for the parameters of a network.

    Parameters with the same factor of the learning rate are one group, whose `factor` is that number.
    Frozen parameters have no gradient, so the optimiser does not change them.

    Parameters
    ----------
    net : torch.nn.Module
        Network to train.
    settings : Settings
        Settings of the training.

    Returns
    -------
    torch.optim.Optimizer
        SGD, Adam or AdamW.
    """
    factors = settings.learning_rate_factors or {}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        groups.setdefault(parts.value_of(name, factors, 1.0), []).append(parameter)
    trained = [{"params": group, "factor": factor} for factor, group in groups.items()]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            trained, settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(trained, settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of an optimiser, times the factor of each group of parameters.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Result of `make_optimizer`.
    rate : float
        Learning rate of parameters without a factor.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)  # unfinished trainings of older versions have none
