"""Loss functions of the segmentation task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline_lib.networks.module import crop_centre
from pipeline_lib.runtime.types import Offsets

SMALLEST = 1e-6  # px, so that no coefficient is 0 / 0
LOSSES = ("cross_entropy", "cross_entropy_dice", "focal")
FOCUSING = 2.0  # exponent of the focal loss


def pixel_loss(
    kind: str,
    logits: Tensor,
    target: Tensor,
    weights: Tensor,
    cells: Sequence[int],
    mask: Tensor | None = None,
) -> Tensor:
    """Return the loss of the classes of the pixels, averaged over images.

    With the kind "cross_entropy" it is `weighted_cross_entropy`. With "focal" it is the same, but the weight
    of each pixel is multiplied by (1 - p)^2, where p is the predicted probability of its true class: the
    focal loss of [1]_ with a focusing parameter of 2. With "cross_entropy_dice" it is the sum of the weighted
    cross entropy and the Dice loss of being in a cell, in each image: 1 minus the mean of two Dice
    coefficients, of the cells and of everything else, over the pixels of a weight above 0. The Dice loss is
    that of `affinity_loss`, with the probability of being in a cell in place of the affinity.

    Neither the focal nor the Dice loss is smallest where the network states the true probabilities. So a
    correction of the probabilities for class weights (`training.prior`) is not exact after such a training.

    Parameters
    ----------
    kind : {"cross_entropy", "cross_entropy_dice", "focal"}
        Which loss.
    logits : (n, k, y, x) Tensor of float64, float32, bfloat16 or float16
        Output of the network for k classes.
    target : (n, y, x) Tensor of int64
        True class of each pixel, 0 to k - 1.
    weights : (n, y, x) Tensor of float32
        Weight map.
    cells : sequence of int
        Classes whose pixels belong to cells.
    mask : (n, y, x) Tensor of bool, optional
        Pixels that count. By default all pixels.

    Returns
    -------
    () Tensor of float32, or float64 for such logits
        Scalar loss.

    References
    ----------
    .. [1] T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollar, "Focal loss for dense object detection", ICCV,
       2980-2988, 2017.

    Examples
    --------
    With equal logits, p is 1/2 everywhere, so the focal loss is a quarter of the cross entropy:

    >>> import torch
    >>> from pipeline_lib.tasks.segmentation.losses import pixel_loss
    >>> patch = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]), torch.ones(1, 1, 2)
    >>> [round(pixel_loss(kind, *patch, cells=[1]).item(), 3) for kind in ("cross_entropy", "focal")]
    [0.693, 0.173]
    """
    loss = weighted_cross_entropy(logits, target, weights, mask, FOCUSING if kind == "focal" else 0.0)
    if kind == "cross_entropy_dice":
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        probability = logits.softmax(1)[:, [*cells]].sum(1, keepdim=True)
        counted = weights > 0 if mask is None else (weights > 0) & mask
        true = torch.stack([target == cell for cell in cells]).any(0)
        loss = loss + dice_loss(dice_sums(probability, true[:, None], counted[:, None])) / len(logits)
    return loss


def weighted_cross_entropy(
    logits: Tensor, target: Tensor, weights: Tensor, mask: Tensor | None = None, focusing: float = 0.0
) -> Tensor:
    """Return the soft-max cross entropy of each pixel times its weight, averaged over all pixels.

    A pixel of weight 0 contributes nothing. It still counts in the mean, so that a pixel with a weight counts
    the same in every patch, however many other pixels of the patch are annotated.

    The loss is E = -mean(w(x) log p_l(x)), where l is the true class of pixel x, and p_k is the soft-max
    exp(a_k) / sum_j exp(a_j) of the logits a_k. The formula in the paper has no minus sign, but E is
    minimised.

    log p_l is computed as a_l - log sum_j exp(a_j). So large logits do not overflow, and a small p_l is not
    rounded to 0 before the logarithm.

    With a mask M, the mean is that over the pixels of the mask, -sum(M(x) w(x) log p_l(x)) / sum(M(x)) of
    each image, and then over the images. If all pixels are equally likely to be in the mask, its expectation
    is the loss without a mask.

    Parameters
    ----------
    logits : (n, k, y, x) Tensor of float64, float32, bfloat16 or float16
        Output of the network for k classes.
    target : (n, y, x) Tensor of int64
        True class of each pixel, 0 to k - 1.
    weights : (n, y, x) Tensor of float32
        Weight map.
    mask : (n, y, x) Tensor of bool, optional
        Pixels over which the loss is averaged. By default all pixels. The loss of an image without such a
        pixel is 0.
    focusing : float, default 0.0
        Exponent g of a factor (1 - p_l(x))^g of each pixel. With 0 there is no such factor.

    Returns
    -------
    () Tensor of float32, or float64 for such logits
        Scalar loss.

    References
    ----------
    Section 3, equation 1 of [1]_.

    .. [1] O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional networks for biomedical image
       segmentation", MICCAI, LNCS 9351:234-241, 2015.

    Examples
    --------
    With equal logits, each of two classes has the probability 1/2. The loss is the mean weight, 2, times
    log 2 = 0.693:

    >>> import torch
    >>> from pipeline_lib.tasks.segmentation.losses import weighted_cross_entropy
    >>> logits = torch.zeros(1, 2, 1, 3)
    >>> target = torch.tensor([[[0, 1, 1]]])
    >>> weights = torch.tensor([[[1.0, 1.0, 4.0]]])
    >>> round(weighted_cross_entropy(logits, target, weights).item(), 3)
    1.386
    """
    # half precision has too few digits for a sum of exponentials
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = logits.gather(1, target[:, None])[:, 0]
    entropy = logits.logsumexp(1) - own
    losses = weights * entropy
    if focusing:
        losses = losses * (1 - (-entropy).exp()) ** focusing
    if mask is None:
        return losses.mean()
    return ((losses * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)).mean()


def at_coarse_pixels(logits: Tensor, truth: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Return the logits of a coarser level and the truth at its pixels, for deep supervision.

    The coarser level has the same centre as the output and reaches at least as far. Each of its pixels is a
    square of `stride` px. Squares that are not completely inside the output are left out. The truth of the
    others is that of one pixel of the square, the one below and right of its centre: as in nearest-neighbour
    interpolation, no class or weight is mixed.

    Parameters
    ----------
    logits : (n, k, y', x') Tensor
        Output of the coarser level.
    truth : (n, m, y, x) Tensor
        Truth of the pixels of the output.
    stride : int
        Side of a pixel of the coarser level (px), an even number.

    Returns
    -------
    logits : (n, k, y", x") Tensor
        Logits of the pixels that are left.
    truth : (n, m, y", x") Tensor
        Their truth.

    Examples
    --------
    Three pixels of 4 px have the centre of 10 px. The first and last of them are not completely inside.

    >>> import torch
    >>> from pipeline_lib.tasks.segmentation.losses import at_coarse_pixels
    >>> truth = torch.arange(10).expand(1, 1, 10, 10)
    >>> logits, at = at_coarse_pixels(torch.arange(3.0).expand(1, 1, 3, 3), truth, 4)
    >>> logits, at
    (tensor([[[[1.]]]]), tensor([[[[5]]]]))
    """
    sides = []
    for fine, coarse in zip(truth.shape[2:], logits.shape[2:], strict=True):
        beyond = (stride * coarse - fine) // 2  # px on each side
        left_out = -(-beyond // stride)
        first = stride * left_out - beyond + stride // 2
        sides.append(slice(first, first + stride * (coarse - 2 * left_out), stride))
    at = truth[:, :, *sides]
    return crop_centre(logits, at), at


def true_affinities(labels: Tensor, known: Tensor, offsets: Offsets) -> tuple[Tensor, Tensor]:
    """Return the true affinities of pixels: whether they and the pixels at offsets belong to the same cell.

    The background belongs to no cell, so its affinities are all 0, as in [1]_.

    Parameters
    ----------
    labels : (n, y, x) Tensor
        Instance labels, 0 = background.
    known : (n, y, x) Tensor of bool
        Whether the label of a pixel is known.
    offsets : tuple of (int, int)
        The k offsets (rows, columns) in px.

    Returns
    -------
    affinities : (n, k, y, x) Tensor of bool
        True if both pixels belong to the same cell.
    counted : (n, k, y, x) Tensor of bool
        True if both pixels are known and in the patch.

    References
    ----------
    .. [1] S. C. Turaga et al., "Convolutional networks can learn to generate affinity graphs for image
       segmentation", Neural Computation 22(2):511-538, 2010.

    Examples
    --------
    >>> import torch
    >>> from pipeline_lib.tasks.segmentation.losses import true_affinities
    >>> labels = torch.tensor([[[3, 3, 7, 0, 0]]])
    >>> affinities, counted = true_affinities(labels, labels >= 0, ((0, -1),))
    >>> affinities[0, 0].int(), counted[0, 0].int()
    (tensor([[0, 1, 0, 0, 0]], dtype=torch.int32), tensor([[0, 1, 1, 1, 1]], dtype=torch.int32))
    """
    count, height, width = labels.shape
    shape = count, len(offsets), height, width
    affinities, counted = (torch.zeros(shape, dtype=torch.bool, device=labels.device) for _ in range(2))
    for k, (dy, dx) in enumerate(offsets):
        rows, rows_there = _overlap(dy, height)
        columns, columns_there = _overlap(dx, width)
        here, there = (slice(None), rows, columns), (slice(None), rows_there, columns_there)
        affinities[:, k, rows, columns] = (labels[here] == labels[there]) & (labels[here] > 0)
        counted[:, k, rows, columns] = known[here] & known[there]
    return affinities & counted, counted


def _overlap(offset: int, size: int) -> tuple[slice, slice]:
    """Return the pixels of a row whose partner at an offset is in it, too, and these partners."""
    return slice(max(-offset, 0), max(size - max(offset, 0), 0)), slice(
        max(offset, 0), max(size + min(offset, 0), 0)
    )


def affinity_loss(logits: Tensor, affinities: Tensor, counted: Tensor) -> Tensor:
    """Return the Soerensen-Dice loss of affinities, averaged over the offsets and summed over the patches.

    For each patch and each offset, the loss is 1 minus the mean of two Dice coefficients,
    D(p, t) = 2 sum(p t) / (sum(p^2) + sum(t^2)): that of the affinities, D(p, t), and that of the
    separations, D(1 - p, 1 - t). So pixels that belong together and pixels that do not count the same,
    whichever are rare. [1]_ uses the second coefficient only, because cells fill its images.

    Parameters
    ----------
    logits : (n, k, y, x) Tensor of float64, float32, bfloat16 or float16
        Output of the network for k offsets. The predicted affinity p is its sigmoid.
    affinities : (n, k, y, x) Tensor of bool
        True affinities t.
    counted : (n, k, y, x) Tensor of bool
        Pixels that count. The loss of an offset without such a pixel is 0.

    Returns
    -------
    () Tensor of float32, or float64 for such logits
        Loss, 0 to n.

    References
    ----------
    .. [1] S. Wolf, A. Bailoni, C. Pape, N. Rahaman, A. Kreshuk, U. Koethe, F. A. Hamprecht, "The Mutex
       Watershed and its objective: efficient, parameter-free graph partitioning", IEEE Transactions on
       Pattern Analysis and Machine Intelligence 43(10):3724-3738, 2021.

    Examples
    --------
    With p = 1/2 everywhere and one of two affinities true, both coefficients are 2/3.

    >>> import torch
    >>> from pipeline_lib.tasks.segmentation.losses import affinity_loss
    >>> true = torch.tensor([True, False]).reshape(1, 1, 1, 2)
    >>> round(affinity_loss(torch.zeros(1, 1, 1, 2), true, torch.ones_like(true)).item(), 3)
    0.333
    """
    # channels of a pixel are adjacent in the output of a network, which would make the sums slow
    logits = logits.contiguous().to(torch.promote_types(logits.dtype, torch.float32))
    return dice_loss(dice_sums(logits.sigmoid(), affinities, counted))


def dice_sums(predicted: Tensor, affinities: Tensor, counted: Tensor) -> Tensor:
    """Return the sums over pixels of which the coefficients of `affinity_loss` consist.

    Parameters
    ----------
    predicted : (n, k, y, x) Tensor of float
        Predicted affinities p.
    affinities, counted : (n, k, y, x) Tensor of bool
        True affinities t, and pixels that count.

    Returns
    -------
    (2, 3, n, k) Tensor of float
        Sums of p t, p^2 and t^2, and those of 1 - p and 1 - t. The sums of parts of a section can be added.
    """
    truth, own = (affinities & counted).to(predicted.dtype), counted.to(predicted.dtype)
    joined = predicted * own
    pairs = ((joined, truth), (own - joined, own - truth))
    return torch.stack(
        [torch.stack([(p * t).sum((2, 3)), (p * p).sum((2, 3)), t.sum((2, 3))]) for p, t in pairs]
    )


def dice_loss(sums: Tensor) -> Tensor:
    """Return the loss that follows from sums over pixels, averaged over offsets and summed over patches.

    Parameters
    ----------
    sums : (2, 3, n, k) Tensor of float
        Result of `dice_sums`, or the sum of several ones.

    Returns
    -------
    () Tensor of float
        Loss, see `affinity_loss`.
    """
    both, of_prediction, of_truth = sums.unbind(1)
    coefficients = (2 * both + SMALLEST) / (of_prediction + of_truth + SMALLEST)
    return (1 - coefficients.mean(0)).mean(1).sum()
