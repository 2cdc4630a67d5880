"""The training energy."""

from __future__ import annotations

from torch import Tensor


def weighted_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Pixel-wise soft-max cross entropy times the weight map, averaged over pixels.

    Ronneberger et al. 2015, equation 1.

    `logits` (n, k, y, x), `target` (n, y, x) int64 in 0..k-1, `weights` (n, y, x); a float32 scalar.
    E = -mean w log p_l, with log p_l = a_l - log sum_k exp a_k in one pass that neither overflows nor takes
    the logarithm of a rounded zero.
    """
    logits = logits.float()  # half precision has too few digits for a sum over exponentials
    own = logits.gather(1, target[:, None])[:, 0]
    return (weights * (logits.logsumexp(1) - own)).mean()
