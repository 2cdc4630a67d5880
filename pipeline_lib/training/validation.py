"""Scores of a network on whole validation volumes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.data.patches import Volume
from pipeline_lib.inference.passes import InHalves, tile_outputs
from pipeline_lib.networks.module import Network
from pipeline_lib.runtime.processes import ALONE, Processes
from pipeline_lib.tasks import Task


def validate(
    net: Network | InHalves,
    task: Task,
    volumes: Sequence[Volume],
    normalisation: Normalisation,
    tile: int,
    device: torch.device,
    precision: torch.dtype,
    processes: Processes = ALONE,
) -> dict[str, float]:
    """The task's scores of `net` over the whole sections of `volumes`.

    Parameters
    ----------
    net : Network or InHalves
        Left in training mode.
    task : Task
        What is validated and how.
    volumes : sequence of Volume
    normalisation, tile, device, precision
        As in training; `tile` in px.
    processes : Processes
        Each of them scores its share of the sections; all return the scores of all sections.

    Returns
    -------
    dict of str to float
        By the names in `task.scores`.
    """
    net.eval()
    sections = [(volume, z) for volume in volumes for z in range(volume.truth.shape[0])]
    found = {}
    for number in processes.share(len(sections)):
        (raw, truth), z = sections[number]
        outputs = tile_outputs(net, raw, z, normalisation, tile, device, precision, task.decode)
        found[number] = task.validate(truth, z, outputs)
    net.train()
    return task.scores_of([*processes.merge(found).values()])
