"""Validation: scores of a network on whole sections."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.data.patches import Volume
from pipeline_lib.inference.passes import SplitIfTooLarge, tile_outputs
from pipeline_lib.networks.module import Network
from pipeline_lib.runtime.processes import ALONE, Processes
from pipeline_lib.tasks import Task


def validate(
    net: Network | SplitIfTooLarge,
    task: Task,
    volumes: Sequence[Volume],
    normalisation: Normalisation,
    tile: int,
    device: torch.device,
    precision: torch.dtype,
    processes: Processes = ALONE,
    log_prior: Sequence[float] = (),
) -> dict[str, float]:
    """Return the validation scores of a network over all sections of the volumes.

    Parameters
    ----------
    net : Network or SplitIfTooLarge
        Network on `device`. It is in training mode afterwards.
    task : Task
        Task that decodes and scores the output.
    volumes : sequence of Volume
        Validation volumes.
    normalisation : Normalisation
        Normalisation of the images, as in training.
    tile : int
        Largest tile, given as the side of a square (px).
    device : torch.device
        Device that computes.
    precision : torch.dtype
        Type of the convolutions.
    processes : Processes, default one process
        Processes that share the sections. Each of them returns the scores over all sections.
    log_prior : sequence of float, optional
        Numbers to add to the logits of the classes, as in prediction.

    Returns
    -------
    dict of str to float
        Name of each score (see `task.scores`) to its value.
    """
    net.eval()
    sections = [(volume, z) for volume in volumes for z in range(volume.truth.shape[0])]
    decode = partial(task.decode, log_prior=log_prior)
    found = {}
    for number in processes.share(len(sections)):
        (raw, truth), z = sections[number]
        outputs = tile_outputs(net, raw, z, normalisation, tile, device, precision, decode)
        found[number] = task.validate(truth, z, outputs)
    net.train()
    return task.scores_of([*processes.merge(found).values()])
