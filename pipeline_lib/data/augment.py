"""Augmentation of training patches: rotation, mirroring, elastic deformation and variation of gray values.

It follows section 3.1 of the U-Net paper (see `Augmentation`). A transform is a few numbers that are drawn on
the CPU. The pixels are moved on the device of the training.

Images are interpolated bicubically. Bilinear interpolation blurs, and a network trained on blurred patches
would see sharper images in prediction. Labels and weights are not interpolated: each pixel takes the value of
the nearest pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# How far bicubic interpolation can overshoot: the largest sum of absolute weights (a = -0.75) of one axis,
# 1.375, squared
_BICUBIC_OVERSHOOT = 1.375**2


@dataclass(frozen=True)
class Augmentation:
    """Ranges from which transforms are drawn.

    Parameters
    ----------
    rotate : bool, default True
        Whether to rotate by any angle.
    mirror : bool, default True
        Whether to mirror half of the patches.
    elastic_std : float, default 10.0
        Standard deviation in px of the Gaussian displacement of each node.
    elastic_grid : int, default 3
        Nodes along each side of the square grid of displacements that covers a patch.
    gain : float, default 0.2
        Gray values are multiplied by a factor from 1 / (1 + `gain`) to 1 + `gain`.
    offset : float, default 0.2
        A number from -`offset` to `offset`, in units of the normalised image, is added to gray values.
    gamma : float, default 0.2
        Gray values within the range of the patch are raised to a power from 1 / (1 + `gamma`) to 1 + `gamma`.
    noise : float, default 0.1
        Largest standard deviation of the Gaussian noise, in units of the normalised image.
    interpolation : {"bicubic", "bilinear"}, optional
        How gray values between pixels are computed. By default bicubically.
    section_jitter : float, optional
        Standard deviation in px of the Gaussian shift of each neighbouring section against the section in the
        middle, for networks that see several. By default none is shifted.
    blur : float, optional
        Largest standard deviation in px of the Gaussian that blurs the patch. By default it is not blurred.

    References
    ----------
    Section 3.1 of [1]_: displacements on a grid of 3 x 3 with a standard deviation of 10 px.

    .. [1] O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional networks for biomedical image
       segmentation", MICCAI, LNCS 9351:234-241, 2015.
    """

    rotate: bool = True
    mirror: bool = True
    elastic_std: float = 10.0
    elastic_grid: int = 3
    gain: float = 0.2
    offset: float = 0.2
    gamma: float = 0.2
    noise: float = 0.1
    interpolation: str | None = None
    section_jitter: float | None = None
    blur: float | None = None


@dataclass(frozen=True)
class Transform:
    """One random transform; `draw` creates it.

    Parameters
    ----------
    matrix : (2, 2) array of float64
        Rotation and mirroring: maps (row, column) relative to the centre of a patch to (row, column) relative
        to its centre in the image.
    nodes : (2, grid, grid) array of float64
        Displacement (row, column) of each node in px.
    gain, offset, gamma : float
        Factor, summand and power of the gray values.
    noise : float
        Standard deviation of the Gaussian noise.
    shifts : (sections, 2) array of float64, optional
        Shift (row, column) in px of each section that the network sees; that of the middle one is 0. By
        default none is shifted.
    blur : float, default 0.0
        Standard deviation (px) of the Gaussian that blurs the patch.
    """

    matrix: np.ndarray
    nodes: np.ndarray
    gain: float
    offset: float
    gamma: float
    noise: float
    shifts: np.ndarray | None = None
    blur: float = 0.0


def draw(settings: Augmentation, rng: np.random.Generator, sections: int = 1) -> Transform:
    """Draw a random transform.

    The same numbers are drawn for all settings, so that changing one setting does not change the others'
    random numbers.

    Parameters
    ----------
    settings : Augmentation
        Ranges to draw from.
    rng : numpy.random.Generator
        Source of the random numbers.
    sections : int, default 1
        Number of sections that the network sees, an odd number.

    Returns
    -------
    Transform
        The transform of one patch.
    """
    angle = settings.rotate * rng.uniform(0, 2 * math.pi)
    flip = -1.0 if rng.random() < 0.5 and settings.mirror else 1.0
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    nodes = rng.normal(0, 1, (2, settings.elastic_grid, settings.elastic_grid)) * settings.elastic_std
    gain, gamma = ((1 + limit) ** rng.uniform(-1, 1) for limit in (settings.gain, settings.gamma))
    shifts, blur = None, 0.0
    if settings.section_jitter or settings.blur:
        of_jitter, of_blur = rng.spawn(2)  # so that neither changes any other number
        if settings.section_jitter and sections > 1:
            shifts = of_jitter.normal(0, settings.section_jitter, (sections, 2))
            shifts[sections // 2] = 0
        blur = (settings.blur or 0.0) * of_blur.random()
    return Transform(
        rotation @ np.diag([flip, 1.0]),
        nodes,
        gain,
        settings.offset * rng.uniform(-1, 1),
        gamma,
        settings.noise * rng.random(),
        shifts,
        blur,
    )


def reach(transform: Transform, tile: int) -> int:
    """Return how far the pixels of a patch lie from its centre in the image.

    Parameters
    ----------
    transform : Transform
        Transform of the patch.
    tile : int
        Side of the patch in px.

    Returns
    -------
    int
        Upper limit in px of the distance along rows and along columns.
    """
    half = tile / 2 + _BICUBIC_OVERSHOOT * np.abs(transform.nodes).max(initial=0)
    shift = 0.0 if transform.shifts is None else np.abs(transform.shifts).max()
    return math.ceil(np.abs(transform.matrix).sum(axis=1).max() * half + shift) + 1


@lru_cache(maxsize=4)
def basis(tile: int, grid: int, device: torch.device) -> Tensor:
    """Return the functions of one coordinate from which the positions of a patch are computed.

    With the coefficients C of `placement`, `basis @ C @ basis.T` is the (2, tile, tile) array of row and
    column in the image of each pixel of the patch.

    Parameters
    ----------
    tile : int
        Side of the patch in px.
    grid : int
        Nodes of the elastic deformation along each side.
    device : torch.device
        Device of the result.

    Returns
    -------
    (tile, grid + 2) Tensor of float32
        For each row (or column) of the patch: the bicubic weight of each node, the distance from the centre
        pixel in px, and 1.
    """
    cubic = functional.interpolate(
        torch.eye(grid)[None, None], size=(tile, grid), mode="bicubic", align_corners=True
    )[0, 0]
    distance = torch.arange(tile)[:, None] - tile // 2
    return torch.cat([cubic, distance, torch.ones(tile, 1)], dim=1).to(device)


def keep_centre(transform: Transform, tile: int) -> Transform:
    """Return a transform whose elastic deformation leaves the centre of a patch in place.

    All displacements are changed by the same vector, so the patch has the same deformation at another place.
    The centre pixel of the patch then shows the pixel that was chosen as its centre, and no neighbour of it.

    Parameters
    ----------
    transform : Transform
        Any transform.
    tile : int
        Side of the patch in px.

    Returns
    -------
    Transform
        The transform with other displacements.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from pipeline_lib.data.augment import Augmentation, basis, draw, keep_centre, placement
    >>> transform = draw(Augmentation(), np.random.default_rng(0))
    >>> kept = keep_centre(transform, 9)
    >>> functions = basis(9, 3, torch.device("cpu")).numpy()
    >>> (functions @ placement(kept, (20, 30)) @ functions.T)[:, 4, 4].round(3)
    array([20., 30.])
    """
    grid = transform.nodes.shape[-1]
    weights = basis(tile, grid, torch.device("cpu"))[tile // 2, :grid].double().numpy()
    displacement = weights @ transform.nodes @ weights
    return replace(transform, nodes=transform.nodes - displacement[:, None, None])


def placement(transform: Transform, centre: tuple[float, float]) -> np.ndarray:
    """Return the coefficients of the positions of a patch.

    They are the array C for which `basis @ C @ basis.T` has the row and the column in the image of each pixel
    of the patch, where `basis` is the result of the function `basis`.

    Parameters
    ----------
    transform : Transform
        Transform of the patch.
    centre : tuple of float
        Row and column in the image of the centre of the patch.

    Returns
    -------
    (2, grid + 2, grid + 2) array of float64
        Coefficients of the row and of the column.

    Examples
    --------
    Without rotation and deformation, a patch of 3 px at (5, 7) has the rows 4 to 6 and the columns 6 to 8.

    >>> import numpy as np
    >>> import torch
    >>> from pipeline_lib.data.augment import Transform, basis, placement
    >>> transform = Transform(np.eye(2), np.zeros((2, 3, 3)), gain=1.0, offset=0.0, gamma=1.0, noise=0.0)
    >>> functions = basis(3, 3, torch.device("cpu")).numpy()
    >>> rows, columns = functions @ placement(transform, (5, 7)) @ functions.T
    >>> rows[:, 0], columns[0]
    (array([4., 5., 6.]), array([6., 7., 8.]))
    """
    grid = transform.nodes.shape[-1]
    terms = np.zeros((2, grid + 2, grid + 2))
    terms[:, :grid, :grid] = transform.nodes
    terms[0, grid, -1] = terms[1, -1, grid] = 1
    terms = np.tensordot(transform.matrix, terms, 1)
    terms[:, -1, -1] += centre
    return terms


def shifted(terms: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return the coefficients of the positions of a patch that is shifted in the image.

    Parameters
    ----------
    terms : (2, grid + 2, grid + 2) array of float64
        Coefficients from `placement`.
    shift : (2,) array of float64
        Number of rows and columns (px).

    Returns
    -------
    (2, grid + 2, grid + 2) array of float64
        Coefficients of positions that are moved by the shift.
    """
    terms = terms.copy()
    terms[:, -1, -1] += shift
    return terms


def sample(image: Tensor, terms: np.ndarray, basis: Tensor, mode: str) -> Tensor:
    """Return the values of an image at the positions of a patch. Outside its edges the image is mirrored.

    Parameters
    ----------
    image : (c, y, x) Tensor of float32
        Image to sample.
    terms : (2, grid + 2, grid + 2) array of float64
        Coefficients from `placement`.
    basis : (tile, grid + 2) Tensor of float32
        Functions from `basis`, or some rows of them for the middle of a patch.
    mode : {"bicubic", "bilinear", "nearest"}
        Interpolation; "nearest" does not change values.

    Returns
    -------
    (c, tile, tile) Tensor of float32
        Values of the patch.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from pipeline_lib.data.augment import Transform, basis, placement, sample
    >>> transform = Transform(np.eye(2), np.zeros((2, 3, 3)), gain=1.0, offset=0.0, gamma=1.0, noise=0.0)
    >>> image = torch.arange(25.0).reshape(1, 5, 5)
    >>> functions = basis(3, 3, torch.device("cpu"))
    >>> sample(image, placement(transform, (2, 3)), functions, "nearest")
    tensor([[[ 7.,  8.,  9.],
             [12., 13., 14.],
             [17., 18., 19.]]])
    """
    last = np.maximum(np.array(image.shape[1:]) - 1, 1)[:, None, None]
    terms = terms * (2 / last)
    terms[:, -1, -1] -= 1  # from 0..last to -1..1, and columns first, as grid_sample needs them
    grid = basis @ torch.as_tensor(terms[::-1].copy(), dtype=torch.float32, device=image.device) @ basis.T
    return functional.grid_sample(
        image[None], grid.permute(1, 2, 0)[None], mode, padding_mode="reflection", align_corners=True
    )[0]


def vary_gray(image: Tensor, transform: Transform, generator: torch.Generator) -> Tensor:
    """Vary the gray values of a patch: blur, gamma within its own range, gain, offset and Gaussian noise.

    Parameters
    ----------
    image : (c, y, x) Tensor of float32
        Normalised patch.
    transform : Transform
        Transform of the patch.
    generator : torch.Generator
        Source of the noise, on the device of `image`.

    Returns
    -------
    (c, y, x) Tensor of float32
        The varied patch.
    """
    if transform.blur:
        image = blurred(image, transform.blur)
    low, high = image.aminmax()
    span = (high - low).clamp(min=1e-6)
    gain, offset = transform.gain, transform.offset
    noise = torch.randn(image.shape, generator=generator, device=image.device).mul_(transform.noise)
    varied = image.sub(low).div_(span).pow_(transform.gamma).mul_(span * gain)
    return varied.add_(low * gain + offset).add_(noise)


def blurred(image: Tensor, std: float) -> Tensor:
    """Convolve an image with a Gaussian, which is cut off at 3 standard deviations. Its edges are repeated.

    Parameters
    ----------
    image : (c, y, x) Tensor of float32
        Image.
    std : float
        Standard deviation of the Gaussian (px), above 0.

    Returns
    -------
    (c, y, x) Tensor of float32
        The blurred image.

    Examples
    --------
    >>> import torch
    >>> from pipeline_lib.data.augment import blurred
    >>> blurred(torch.tensor([[[0.0, 0, 1, 0, 0]]]), 0.5).round(decimals=2)
    tensor([[[0.0000, 0.1100, 0.7900, 0.1100, 0.0000]]])
    """
    radius = math.ceil(3 * std)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=image.device) / std) ** 2)
    kernel /= kernel.sum()
    found = functional.pad(image[:, None], 4 * [radius], mode="replicate")  # each channel for itself
    for shape in ((1, 1, 1, -1), (1, 1, -1, 1)):
        found = functional.conv2d(found, kernel.reshape(shape))
    return found[:, 0]
