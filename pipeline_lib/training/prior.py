"""Correction of probabilities for how much each class counted in the training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pipeline_lib.data.patches import Patches
from pipeline_lib.tasks import PixelwiseTask

PATCHES = 256  # in which the classes are counted


def log_prior(true: npt.ArrayLike, trained: npt.ArrayLike, weights: npt.ArrayLike = 1.0) -> list[float]:
    """Return what to add to the logits of a network to undo how much each class counted in its training.

    If pixels of class k are drawn with the share q_k instead of pi_k, and all pixels of a class with the same
    probability, a network that learns the probabilities of the drawn pixels has the odds o_net = o_true
    (q_1 / q_0) / (pi_1 / pi_0) of class 1 against class 0 [1]_. A weight w_k in the loss acts as if pixels of
    class k were drawn w_k times as often [2]_. So log(pi_k / q_k) - log(w_k) is added to the logit of each
    class k.

    Parameters
    ----------
    true : (k,) array_like
        Share pi_k of each class in the images, or numbers of pixels.
    trained : (k,) array_like
        Share q_k of each class in the pixels of the training.
    weights : (k,) array_like, default 1.0
        Weight w_k of each class in the loss.

    Returns
    -------
    list of float
        The number log(pi_k / q_k) - log(w_k) of each class, where the first term is 0 for classes that do not
        occur.

    References
    ----------
    .. [1] M. Saerens, P. Latinne, C. Decaestecker, "Adjusting the outputs of a classifier to new a priori
       probabilities: a simple procedure", Neural Computation 14(1):21-41, 2002.

    .. [2] C. Elkan, "The foundations of cost-sensitive learning", IJCAI, 973-978, 2001.

    Examples
    --------
    78 % of the pixels are cells, and half of those in the training were. Where the network then says .22, the
    probability of a cell is one half.

    >>> import numpy as np
    >>> from pipeline_lib.training.prior import log_prior
    >>> logits = np.log([0.78, 0.22]) + log_prior([0.22, 0.78], [0.5, 0.5])
    >>> (np.exp(logits) / np.exp(logits).sum()).round(6)
    array([0.5, 0.5])

    The same with all pixels and the weights 1 / (2 * share):

    >>> logits = np.log([0.78, 0.22]) + log_prior([0.22, 0.78], [0.22, 0.78], [1 / 0.44, 1 / 1.56])
    >>> (np.exp(logits) / np.exp(logits).sum()).round(6)
    array([0.5, 0.5])
    """
    pi, q = np.asarray(true, float), np.asarray(trained, float)
    occurs = pi > 0
    ratio = np.divide(pi / pi.sum(), q, where=occurs, out=np.ones_like(pi))
    return [float(value) for value in np.log(ratio) - np.log(weights)]


def trained_shares(patches: Patches, task: PixelwiseTask) -> npt.NDArray[np.float64]:
    """Return the share of each class in the pixels of class-balanced patches from which a network learns.

    With an output of one pixel, it is the share of the class in the centres, exactly. With a larger output,
    the neighbours of the centres count, too. They are counted in the first `PATCHES` patches of the training,
    separately for each class of the centre.

    Parameters
    ----------
    patches : Patches
        Patches of the training, with `balanced`.
    task : PixelwiseTask
        Task of the training.

    Returns
    -------
    (classes,) array of float64
        Share of each class. The shares add up to 1.
    """
    assert patches.balanced is not None
    middle = patches.tile // 2 - patches.context
    counts = np.zeros(2 * [len(task.class_names)])  # class of the centre, class of the pixel
    for number in range(PATCHES):
        truth = patches.move(patches.read(number), torch.device("cpu")).truth
        centre = task.count_classes(truth[..., middle : middle + 1, middle : middle + 1])
        own = task.count_classes(truth).numpy()  # of annotated pixels; the loss is their mean in each patch
        counts += np.outer(centre.numpy(), own / max(own.sum(), 1))
    totals = counts.sum(axis=1, keepdims=True)
    found = patches.balanced.shares @ np.divide(counts, totals, where=totals > 0, out=np.zeros_like(counts))
    return np.asarray(found / found.sum())
