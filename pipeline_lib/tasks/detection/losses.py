"""Loss of detection networks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NEGATIVES = 3  # default boxes of the background that are learned for each one with an object
FEWEST_NEGATIVES = 10  # in a patch, also if it shows no object


def multibox_loss(logits: Tensor, offsets: Tensor, classes: Tensor, targets: Tensor) -> Tensor:
    """Return the MultiBox loss of patches: cross entropy of the classes plus smooth L1 of the offsets.

    Default boxes with an object count, and in each patch those of the background with the largest loss: at
    most three for each one with an object, but at least 10. The paper has no such minimum, and learns nothing
    from images without objects, which are common in microscopy.

    Parameters
    ----------
    logits : (n, k, ...) Tensor of float
        Logits of the classes of each default box; class 0 is the background.
    offsets : (n, 4, ...) Tensor of float
        Predicted offsets.
    classes : (n, ...) Tensor of int64
        True class of each default box; -1 if it learns nothing.
    targets : (n, 4, ...) Tensor of float32
        True offsets.

    Returns
    -------
    () Tensor of float32
        Sum over the default boxes that count. The paper divides it by the number of those with an object.

    References
    ----------
    Section 2.2 of [1]_.

    .. [1] W. Liu, D. Anguelov, D. Erhan, C. Szegedy, S. Reed, C.-Y. Fu, A. C. Berg, "SSD: Single shot
       MultiBox detector", ECCV, LNCS 9905:21-37, 2016.

    Examples
    --------
    Two of four default boxes have an object; the others are all negatives:

    >>> import torch
    >>> from pipeline_lib.tasks.detection.losses import multibox_loss
    >>> zeros = torch.zeros(1, 4, 4)
    >>> classes = torch.tensor([[1, 0, 0, 1]])
    >>> round(float(multibox_loss(torch.zeros(1, 2, 4), zeros, classes, zeros)), 4)  # 4 ln 2
    2.7726
    """
    logits, offsets = logits.float().flatten(2), offsets.float().flatten(2)
    classes, targets = classes.flatten(1), targets.flatten(2)
    positive = classes > 0
    energies = functional.cross_entropy(logits, classes.clamp(min=0), reduction="none")
    with torch.no_grad():
        background = energies.masked_fill(classes != 0, -1.0)
        wanted = (NEGATIVES * positive.sum(1)).clamp(min=FEWEST_NEGATIVES)
        available = (classes == 0).sum(1)
        count = torch.minimum(wanted, available)
        ranked = background.argsort(dim=1, descending=True, stable=True)
        chosen = torch.arange(classes.shape[1], device=classes.device) < count[:, None]
        negative = torch.zeros_like(positive).scatter_(1, ranked, chosen)
    place = functional.smooth_l1_loss(offsets, targets, reduction="none").sum(1)
    return energies[positive | negative].sum() + place[positive].sum()
