"""Loss functions of the segmentation task."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_cross_entropy(
    logits: Tensor, target: Tensor, weights: Tensor, mask: Tensor | None = None
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
        Pixels over which the loss is averaged, at least one in each image. By default all pixels.

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
    losses = weights * (logits.logsumexp(1) - own)
    if mask is None:
        return losses.mean()
    return ((losses * mask).sum((1, 2)) / mask.sum((1, 2))).mean()
