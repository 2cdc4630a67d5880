"""Synthesis stage: draw EM-like sections with exact instance labels, as data to try the workflow with.

The drawing imitates serial-section transmission electron microscopy of neural tissue. Touching cells of very
different sizes fill the section. Membranes are dark and vary in width and contrast. The cytoplasm is gray and
granular. Vesicles and mitochondria have outlines as dark as membranes, so that darkness is not enough to
find membranes. Illumination is uneven, and the image is blurred and noisy.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from scipy import ndimage

from pipeline_lib import imageio, provenance
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json

# gray levels, 0 = black, 1 = white
CYTOPLASM = 0.62
MITOCHONDRION = 0.42
MEMBRANE = 0.2
SYNAPSE = 0.06

# Fraction of neighbouring pairs without a membrane between their labels; the image shows a thin line there.
TOUCHING = 0.1


def draw_volume(
    images: str | Path,
    annotation: str | Path,
    *,
    sections: int = 12,
    size: int = 256,
    cell_diameter: float = 40.0,
    membrane_width: tuple[float, float] = (2.5, 6.0),
    noise: float = 0.06,
    organelles: bool | None = None,
    seed: int = 0,
) -> None:
    """Draw a volume of touching cells, and write its image and its instance labels as TIFF stacks.

    Each section depends only on the seed and its own number, so a volume with more sections starts with the
    same ones.

    Parameters
    ----------
    images : str or Path
        TIFF file to write: image (z, y, x), uint8.
    annotation : str or Path
        TIFF file to write: instance labels (z, y, x), uint16, 0 = membrane. The numbers start again at 1 in
        each section. With `organelles`, classes instead: 0 membrane, 1 cell, 2 mitochondrion, 3 synapse,
        4 glia.
    sections : int, default 12
        Number of sections.
    size : int, default 256
        Side of each square section (px). At least twice `cell_diameter`.
    cell_diameter : float, default 40.0
        Mean diameter of the cells (px).
    membrane_width : (float, float), default (2.5, 6.0)
        Width of the thinnest and of the thickest membrane (px). Less than half of `cell_diameter`.
    noise : float, default 0.06
        Standard deviation of the noise, as a fraction of the gray range.
    organelles : bool, optional
        Whether synapses and glia are drawn, too, and classes are annotated instead of cells. By default cells
        are annotated.
    seed : int, default 0
        Seed of the random numbers. The same seed gives the same files.

    Raises
    ------
    InputError
        If the membranes are too thick for the cells, or the sections too small for several cells.
    """
    narrow, wide = membrane_width
    if not 0 < narrow <= wide < cell_diameter / 2:
        raise InputError(
            f"config key `drawing.membrane_width`: found [{narrow:g}, {wide:g}] px, expected the width of "
            "the thinnest, then of the thickest membrane, both above 0 and below half of "
            f"`drawing.cell_diameter` ({cell_diameter:g} px)."
        )
    if size < 2 * cell_diameter:
        raise InputError(
            f"config key `drawing.size`: found {size} px, expected at least twice "
            f"`drawing.cell_diameter` ({cell_diameter:g} px), so that a section contains several cells."
        )
    stack, labels = np.empty((sections, size, size), np.uint8), np.empty((sections, size, size), np.uint16)
    classes = np.empty_like(stack)
    settings: Json = {
        "sections": sections,
        "size": size,
        "cell_diameter": cell_diameter,
        "membrane_width": membrane_width,
        "noise": noise,
        **({"organelles": True} if organelles else {}),
        "seed": seed,
    }
    with provenance.making("draw_volume", [images, annotation], [], **settings) as record:
        for z in range(sections):
            stack[z], labels[z], classes[z] = draw_section(
                size,
                cell_diameter=cell_diameter,
                noise=noise,
                membrane_width=membrane_width,
                organelles=bool(organelles),
                rng=np.random.default_rng([seed, z]),
            )
        imageio.write_images(images, stack, provenance=record)
        imageio.write_labels(annotation, classes if organelles else labels, provenance=record)
    cells = sum(int(section.max()) for section in labels)
    logger.info(
        "%s: drew %d sections of %d x %d px, %d cells, %.1f %% of the pixels in cells",
        images,
        *stack.shape,
        cells,
        100 * np.count_nonzero(labels) / labels.size,
    )


def draw_section(
    size: int,
    *,
    cell_diameter: float,
    membrane_width: tuple[float, float],
    noise: float,
    rng: np.random.Generator,
    organelles: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one section.

    Parameters
    ----------
    size : int
        Side of the square section (px).
    cell_diameter : float
        Mean diameter of the cells (px). The diameter of a cell is 0.4 to 2.5 times the mean.
    membrane_width : (float, float)
        Smallest and largest width of a membrane (px). It varies between pairs of neighbours.
    noise : float
        Standard deviation of the noise, as a fraction of the gray range.
    rng : numpy.random.Generator
        Source of the random numbers.
    organelles : bool, default False
        Whether synapses and glia are drawn, too. All else stays as it is.

    Returns
    -------
    image : (size, size) array of uint8
        Gray levels, cells bright and membranes dark.
    labels : (size, size) array of uint16
        Instance labels, 0 = membrane, 1..n = cells. Each cell is 4-connected. Some neighbours touch, without
        a membrane pixel between them.
    classes : (size, size) array of uint8
        0 = membrane, 1 = cell, 2 = mitochondrion, 3 = synapse, 4 = glia.
    """
    shape = (size, size)
    cells = _tessellate(size, cell_diameter, rng)
    distance, pair = _nearest_border(cells)
    kind, contrast = (values[pair] for values in rng.random((2, cells.max() + 1, cells.max() + 1)))
    touching = kind < TOUCHING
    narrow, wide = membrane_width
    width = np.where(touching, 0, narrow + (wide - narrow) * kind)
    width *= 1 + 0.2 * _smooth_noise(shape, cell_diameter / 4, rng)
    is_membrane = distance < width / 2
    labels = _whole_cells(np.where(is_membrane, 0, cells), minimum=(cell_diameter / 8) ** 2)

    darkness = np.where(touching, 0.9 * (distance < 1), is_membrane | (labels == 0)) * (0.8 + 0.2 * contrast)
    image = _cytoplasm(labels, rng)
    _add_vesicles(image, labels, rng)
    mitochondria = _add_mitochondria(image, labels, cell_diameter, rng)
    glia = synapses = np.zeros(shape, bool)
    if organelles:
        further = rng.spawn(1)[0]  # leaves the random numbers of all else as they are
        glia = _add_glia(image, labels, mitochondria, further)
    image += (MEMBRANE - image) * ndimage.gaussian_filter(darkness, 0.7)
    if organelles:
        synapses = _add_synapses(image, is_membrane & ~touching, glia, cell_diameter, further)
    found = [synapses, labels == 0, mitochondria, glia]
    classes = np.select(found, [3, 0, 2, 4], 1).astype(np.uint8)
    image += 0.05 * _smooth_noise(shape, size / 4, rng)  # uneven illumination
    image *= 1 + 0.08 * _smooth_noise(shape, size / 4, rng)
    image += noise * _smooth_noise(shape, 0.6, rng)
    return np.clip(np.rint(255 * image), 0, 255).astype(np.uint8), labels, classes


def _tessellate(size: int, diameter: float, rng: np.random.Generator) -> np.ndarray:
    """Return the number of the cell at each pixel, from 1; int32 (size, size).

    Discs of different radii are placed with little overlap, the largest first. A pixel belongs to the disc
    with the nearest edge: an additively weighted Voronoi tessellation. It has curved borders, and small cells
    in the gaps between large ones. Warped coordinates make the shapes irregular and some of them long.
    """
    centres, radii = _throw_discs(size, diameter, rng)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    for scale, strength in ((1, 0.4), (0.25, 0.06), (0.08, 0.02)):  # from long bends to ripples
        y += strength * diameter * _smooth_noise(y.shape, scale * diameter, rng)
        x += strength * diameter * _smooth_noise(x.shape, scale * diameter, rng)
    cells, nearest = np.zeros(y.shape, np.int32), np.full(y.shape, np.inf, np.float32)
    for number, ((centre_y, centre_x), radius) in enumerate(zip(centres, radii, strict=True), 1):
        rim = np.hypot(y - centre_y, x - centre_x) - radius
        cells[rim < nearest] = number
        nearest = np.minimum(nearest, rim)
    slivers = _whole_cells(cells, minimum=(diameter / 5) ** 2) == 0
    whole = ndimage.distance_transform_edt(slivers, return_distances=False, return_indices=True)
    return cells[tuple(whole)]


def _throw_discs(size: int, diameter: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return centres (n, 2) and radii (n,) of discs that cover the section and a margin; float32, px."""
    margin = 1.5 * diameter
    expected = int(1.2 * ((size + 2 * margin) / diameter) ** 2)
    candidates = diameter / 2 * np.clip(rng.lognormal(-0.1, 0.5, expected), 0.4, 2.5)
    centres, radii = np.empty((0, 2), np.float32), np.empty(0, np.float32)
    for radius in np.sort(candidates.astype(np.float32))[::-1]:
        tries = rng.uniform(-margin, size + margin, (30, 2)).astype(np.float32)
        distance = np.linalg.norm(tries[:, None] - centres, axis=2)
        fitting = tries[(distance > 0.8 * (radii + radius)).all(axis=1)]
        if len(fitting):
            centres, radii = np.vstack([centres, fitting[:1]]), np.append(radii, radius)
    return centres, radii


def _nearest_border(cells: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return the distance (px) of each pixel to the nearest border between two cells, and these two cells.

    Borders run between pixels. The cell with the smaller number comes first.
    """
    across = np.zeros_like(cells)  # the cell across the border, on the pixels along it
    for here, there in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        differ = cells[here] != cells[there]
        across[here][differ] = cells[there][differ]
        across[there][differ] = cells[here][differ]
    distance, border = ndimage.distance_transform_edt(across == 0, return_indices=True)
    one, other = cells[tuple(border)], across[tuple(border)]
    return distance + 0.5, (np.minimum(one, other), np.maximum(one, other))


def _whole_cells(cells: np.ndarray, minimum: float) -> np.ndarray:
    """Label 4-connected regions of equal non-zero value 1..n (uint16), but not those below `minimum` px."""
    labels, count = np.zeros(cells.shape, np.uint16), 0
    for value, window in enumerate(ndimage.find_objects(cells), 1):
        if window is None:
            continue
        pieces, _ = ndimage.label(cells[window] == value)
        for piece in np.flatnonzero(np.bincount(pieces.ravel())[1:] >= minimum) + 1:
            count += 1
            labels[window][pieces == piece] = count
    return labels


def _cytoplasm(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the gray levels of the cytoplasm: one level per cell, with fine and coarse grains."""
    level = CYTOPLASM + 0.04 * rng.standard_normal(int(labels.max()) + 1)
    fine, coarse = (_smooth_noise(labels.shape, sigma, rng) for sigma in (1.0, 4.0))
    return level[labels] + 0.05 * fine + 0.03 * coarse


def _add_vesicles(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    """Draw dark rings of 3 to 7 px diameter where a cell has room for them; one attempt per 400 px."""
    room = _depth_in_cell(labels)
    rows, columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
    for _ in range(labels.size // 400):
        radius = rng.uniform(1.5, 3.5)
        y, x = centre = tuple(rng.integers(0, labels.shape))
        if room[centre] > radius + 2:
            near_y, near_x = slice(max(0, y - 6), y + 7), slice(max(0, x - 6), x + 7)
            from_rim = np.hypot(rows[near_y] - y, columns[:, near_x] - x) - radius
            image[near_y, near_x] -= 0.2 * np.exp(-(from_rim**2))


def _add_glia(
    image: np.ndarray, labels: np.ndarray, mitochondria: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Make the cytoplasm of a fifth of the cells bright, with dark grains of glycogen; return these cells."""
    glia = np.append(False, rng.random(int(labels.max())) < 0.2)[labels]
    grains = _smooth_noise(labels.shape, 0.8, rng) > 1.7
    image[glia & ~mitochondria] += 0.13
    image[glia & grains] -= 0.25
    return glia


def _add_synapses(
    image: np.ndarray, membrane: np.ndarray, glia: np.ndarray, diameter: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw dark, thick pieces of membrane, one attempt per 3000 px, but none of glia; return their pixels."""
    drawn, near_glia = np.zeros(image.shape, bool), ndimage.binary_dilation(glia, iterations=6)
    places = np.argwhere(membrane & ~near_glia)
    thick = ndimage.distance_transform_edt(~membrane) < 3
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    side = math.ceil(0.25 * diameter)  # the largest radius
    for y, x in (
        rng.choice(places, min(image.size // 3000, len(places)), replace=False) if len(places) else ()
    ):
        near = slice(max(0, y - side), y + side + 1), slice(max(0, x - side), x + side + 1)
        radius = rng.uniform(0.12, 0.25) * diameter
        drawn[near] |= thick[near] & (np.hypot(rows[near[0]] - y, columns[:, near[1]] - x) < radius)
    image += (SYNAPSE - image) * 0.9 * ndimage.gaussian_filter(drawn.astype(float), 0.7)
    return drawn


def _add_mitochondria(
    image: np.ndarray, labels: np.ndarray, diameter: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw a dark ellipse with a darker rim and stripes (cristae) in half of the cells that have room.

    Returns the pixels of the ellipses.
    """
    room, drawn = _depth_in_cell(labels), np.zeros(labels.shape, bool)
    for number, window in enumerate(ndimage.find_objects(labels), 1):
        depth = np.where(labels[window] == number, room[window], 0)
        if depth.max() < diameter / 5 or rng.random() < 0.5:
            continue
        y, x = rng.choice(np.argwhere(depth > 0.8 * depth.max()))
        radius = 0.7 * min(depth.max(), 0.4 * diameter)
        angle = rng.uniform(0, np.pi)
        rows, columns = np.ogrid[: depth.shape[0], : depth.shape[1]]
        along = (rows - y) * np.sin(angle) + (columns - x) * np.cos(angle)
        across = (columns - x) * np.sin(angle) - (rows - y) * np.cos(angle)
        below_rim = radius * (1 - np.hypot(along / (1.5 * radius), across / radius))
        body = (below_rim > 0) & (depth > 2.5)
        part = image[window]
        part[body] += (MITOCHONDRION - CYTOPLASM + 0.06 * np.sin(1.4 * along))[body]
        part[body & (below_rim < 1.5)] -= 0.14
        drawn[window] |= body
    return drawn


def _depth_in_cell(labels: np.ndarray) -> np.ndarray:
    """Return the distance (px) of each pixel to the border of its cell; 0 on background."""
    distance, _ = _nearest_border(labels)
    return np.where(labels > 0, distance, 0)


def _smooth_noise(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return Gaussian noise blurred by `sigma` px, with mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return (noise - noise.mean()) / noise.std()
