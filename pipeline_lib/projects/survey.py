"""What the images and annotations of a folder contain: types, sizes, kind of annotation, cells, gaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline_lib import imageio
from pipeline_lib.data.labels import BORDER_WIDTH, count_pixels, separation_border
from pipeline_lib.imageio.kinds import UnclearAnnotation
from pipeline_lib.imageio.meaning import AROUND
from pipeline_lib.imageio.regions import BORDER, AnnotationRegions, grow
from pipeline_lib.kernels.pixelsize import PixelSize
from pipeline_lib.kernels.sections import frame
from pipeline_lib.projects.layouts import Found
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.tasks.segmentation.weights import weight_map

IMAGES, SECTIONS, WINDOW = 24, 4, 1024  # images, sections of each, and side (px) of the window that are read
SPECK = 4  # px; smaller areas of an annotation of membranes are not cells
#: Kinds among which a person can choose if the values of an annotation have no clear meaning.
CHOICES = ("instances", "black_membranes", "white_membranes")


@dataclass(frozen=True)
class Survey:
    """What the images and annotations of a folder contain; `survey` creates it.

    Parameters
    ----------
    shapes : list of tuple of int
        Shape (z, y, x) of each image.
    channels : int
        Number of channels of all images.
    dtype : str
        Type of their gray levels, with the number of bits if not all are used.
    kind : str
        Value for `dataset.annotation_kind`.
    evidence : str
        How the kind is known.
    cells : int
        Number of annotated cells; an estimate if not all annotations were read.
    exact : bool
        Whether `cells` is no estimate.
    diameter : float
        Median diameter of the cells: of a circle with the same area (px).
    smallest : float
        Area of small cells that do not touch the edge of an image: the 2nd percentile (px).
    share : float
        Share of the pixels in cells.
    gap : float
        Sum of the distances to the nearest and the second-nearest cell in narrow gaps (px): the 10th
        percentile of background pixels at which it is at most one diameter. NaN if there are none.
    touching : float
        Share of cells that touch another one.
    contrast : float
        Mean gray level in cells minus that outside, in standard deviations. NaN without background.
    exposure : float
        Largest divided by smallest mean gray level of the images above their darkest level.
    pixel_sizes : list of tuple of float
        Different sizes of pixels (height, width; um) that the files state, smallest first.
    """

    shapes: list[tuple[int, int, int]]
    channels: int
    dtype: str
    kind: str
    evidence: str
    cells: int
    exact: bool
    diameter: float
    smallest: float
    share: float
    gap: float
    touching: float
    contrast: float
    exposure: float
    pixel_sizes: list[PixelSize]


@dataclass
class _Cells:
    """What was measured in the windows that were read."""

    areas: list[np.ndarray] = field(default_factory=list)  # of all cells (px)
    inner: list[np.ndarray] = field(default_factory=list)  # of cells that do not touch the edge (px)
    touching: int = 0
    inside: int = 0  # px
    total: int = 0  # px
    around: float = 0.0  # largest share of the frame of a window that one cell has
    gaps: list[np.ndarray] = field(default_factory=list)
    contrasts: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)


def survey(
    folder: Path,
    found: Sequence[Found],
    settings: imageio.AnnotationSettings,
    choose: Callable[[str, Sequence[str]], str] | None = None,
) -> Survey:
    """Read the headers of all images, and samples of images and annotations.

    Parameters
    ----------
    folder : Path
        Folder that the paths in `found` start from.
    found : sequence of Found
        Images and annotations.
    settings : dict
        Stated meaning of the annotations: `kind`, `classes`, `background`, `ignore` and `relabel` of
        `imageio.open_annotation`.
    choose : callable, optional
        Function that asks a person which of several kinds an annotation has: takes the evidence and the
        kinds. Without it, an annotation whose meaning is not clear is an error.

    Returns
    -------
    Survey
        What was found.

    Raises
    ------
    InputError
        If a file cannot be read, images differ in type or channels, or the meaning of the annotations is not
        clear.
    """
    infos = {image.name: imageio.inspect(folder / image.images) for image in found}
    channels = _channels(folder, found, infos)
    first = found[0]
    for image in found:
        if infos[image.name].dtype != infos[first.name].dtype:
            raise InputError(
                f"{folder / image.images}: found {infos[image.name].dtype} gray levels, but {first.images} "
                f"has {infos[first.name].dtype}. Choose images of one type: --images 'GLOB' --annotations "
                "'GLOB'."
            )
    annotated = [image for image in found if image.annotation]
    sample = [annotated[n] for n in _spread(len(annotated), IMAGES)]
    kind, evidence = _kind(folder, sample, infos, settings, choose)
    measured = _Cells()
    numbers: list[float] = []
    exact = len(sample) == len(annotated)
    for image in sample:
        info = infos[image.name]
        sections = _spread(info.sections, SECTIONS)
        before = sum(map(len, measured.areas))
        area = _measure(folder, image, info, channels, {**settings, "kind": kind}, measured)
        numbers.append(
            (sum(map(len, measured.areas)) - before) / area * info.sections * info.height * info.width
        )
        exact &= len(sections) == info.sections and area == info.sections * info.height * info.width
    areas, inner = np.concatenate(measured.areas), np.concatenate(measured.inner)
    if not len(areas):
        raise InputError(
            f"{folder / sample[0].annotation if sample[0].annotation else folder}: found no cells in "
            f"{len(sample)} annotations. Check that they were saved after drawing."
        )
    if kind == "instances" and measured.inside == measured.total and measured.around > AROUND:
        raise InputError(
            f"{folder / str(sample[0].annotation)}: every pixel belongs to a cell, and one surrounds the "
            "others, so the background is not 0. Name its value: `dataset: {background: N}`."
        )
    gaps = np.concatenate([np.empty(0), *measured.gaps])  # none if no image has two cells
    info = infos[first.name]
    darkest = min(measured.means)
    return Survey(
        shapes=[infos[image.name].shape[1:] for image in found],
        channels=channels,
        dtype=f"{info.dtype}{f' of {info.bits} bits' if info.bits else ''}",
        kind=kind,
        evidence=evidence,
        cells=round(float(np.mean(numbers)) * len(annotated)),
        exact=exact,
        diameter=float(2 * np.sqrt(np.median(areas) / np.pi)),
        smallest=float(np.percentile(inner if len(inner) else areas, 2)),
        share=measured.inside / measured.total,
        gap=float(np.percentile(gaps, 10)) if len(gaps) else float("nan"),
        touching=measured.touching / len(areas),
        contrast=float(np.median(measured.contrasts)) if measured.contrasts else float("nan"),
        exposure=max(measured.means) / darkest if darkest > 0 else float("inf"),
        pixel_sizes=sorted({image.pixel_size for image in infos.values() if image.pixel_size}),
    )


def _spread(number: int, most: int) -> list[int]:
    """Return at most `most` of `number` places, evenly spread."""
    return sorted({int(n) for n in np.linspace(0, number - 1, min(number, most)).round()})


def _channels(folder: Path, found: Sequence[Found], infos: dict[str, imageio.ImageInfo]) -> int:
    """Return the number of channels; 1 for RGB whose colours are gray in the images that are read."""
    numbers = {image.name: infos[image.name].channels for image in found}
    for image in (found[n] for n in _spread(len(found), IMAGES)):
        info = infos[image.name]
        if info.rgb:
            window = _window(info)
            with imageio.open_images(folder / image.images, sections="0", channels=info.channels) as images:
                pixels = images.read(0, *window)
            if (pixels != pixels[:1]).any():
                break
    else:
        numbers = {name: 1 if infos[name].rgb else number for name, number in numbers.items()}
    first = found[0]
    for image in found:
        if numbers[image.name] != numbers[first.name]:
            raise InputError(
                f"{folder / image.images}: found {numbers[image.name]} channels, but {first.images} has "
                f"{numbers[first.name]}. Choose images of one kind: --images 'GLOB' --annotations 'GLOB'."
            )
    return numbers[first.name]


def _window(info: imageio.ImageInfo) -> tuple[slice, slice]:
    """Return a window in the middle of a section."""
    rows, columns = (
        slice((length - min(length, WINDOW)) // 2, (length + min(length, WINDOW)) // 2)
        for length in (info.height, info.width)
    )
    return rows, columns


def _settings(
    folder: Path, image: Found, info: imageio.ImageInfo, settings: imageio.AnnotationSettings
) -> tuple[Path, imageio.AnnotationSettings]:
    """Return the path of an annotation, and how to open sections of it."""
    path = folder / (image.annotation or "")
    masks = info.sections == 1 < imageio.inspect(path).sections
    numbers = ",".join(map(str, _spread(info.sections, SECTIONS)))
    return path, {**settings, "sections": numbers, "masks": masks}


def _kind(
    folder: Path,
    sample: Sequence[Found],
    infos: dict[str, imageio.ImageInfo],
    settings: imageio.AnnotationSettings,
    choose: Callable[[str, Sequence[str]], str] | None,
) -> tuple[str, str]:
    """Return the kind of all annotations, and how it is known."""
    if (stated := settings.get("kind", "auto")) != "auto":
        return stated, "stated"
    kinds: Counter[str] = Counter()
    first: dict[str, Path] = {}
    single = True  # whether annotations of two values have a single cell
    unclear: list[UnclearAnnotation] = []
    for image in sample:
        path, own = _settings(folder, image, infos[image.name], settings)
        try:
            with imageio.open_annotation(path, **own) as truth:
                kind = _setting(truth)
                kinds[kind] += 1
                first.setdefault(kind, path)
                if kind == "black_membranes":
                    single &= _is_one_cell(truth)
        except UnclearAnnotation as error:
            unclear.append(error)
    if {*kinds} == {"instances", "black_membranes"} and single:  # some images have a single cell
        kinds = Counter(instances=kinds.total())
    # others may show a single cell, or nothing; with several values they contradict
    contrary = [error for error in unclear if len(error.found.values) > 2]
    if len(contrary) >= kinds.total():
        kinds.clear()
    if len(kinds) == 1:
        kind, number = kinds.most_common()[0]
        if number == len(sample) == 1:
            return kind, "inferred"
        number_read = f"all {number}" if number == len(sample) else f"{number} of {len(sample)}"
        return kind, f"inferred, clear in {number_read} that were read"
    if not kinds:
        question = (contrary or unclear)[0]
        if choose is not None:
            return choose(str(question), CHOICES), "chosen"
        raise question
    listed = " and ".join(f"{kind} ({first[kind]})" for kind in sorted(kinds))
    message = f"{folder}: annotations of several kinds were found: {listed}."
    if choose is not None:
        return choose(message, sorted(kinds)), "chosen"
    raise InputError(
        f"{message} If all are of one kind, add --annotation-kind {kinds.most_common()[0][0]}; if not, "
        "choose those of one kind with --images and --annotations."
    )


def _setting(truth: AnnotationRegions) -> str:
    """Return the value of `dataset.annotation_kind` that gives this meaning."""
    if truth.kind == "membranes":
        # black and white are what Fiji displays
        white = truth.cells_are_zero != truth.images.info.white_is_zero
        return "white_membranes" if white else "black_membranes"
    return "instances" if truth.kind == "masks" else truth.kind


def _is_one_cell(truth: AnnotationRegions) -> bool:
    """Return whether each section has at most one connected area of cell."""
    from scipy import ndimage

    window = _window(truth.images.info)
    return all(ndimage.label(truth.read(z, *window))[1] <= 1 for z in range(truth.shape[0]))


def _measure(
    folder: Path,
    image: Found,
    info: imageio.ImageInfo,
    channels: int,
    settings: imageio.AnnotationSettings,
    cells: _Cells,
) -> int:
    """Measure the cells of sections of an image, and return the number of pixels that were read."""
    path, own = _settings(folder, image, info, settings)
    window = _window(info)
    numbers = own["sections"]
    inside, outside, lowest = [], [], []
    area = 0
    with (
        imageio.open_images(folder / image.images, sections=numbers, channels=channels) as images,
        imageio.open_annotation(path, **own) as truth,
    ):
        if truth.shape != images.shape[1:]:
            raise InputError(
                f"{path}: has {truth.shape[1]} x {truth.shape[2]} px, but {images.path} has "
                f"{images.shape[2]} x {images.shape[3]}. Name an annotation of the same size."
            )
        for z in range(truth.shape[0]):
            labels = _labels(truth, z, window)
            _add_section(labels, cells)
            gray = images.read(z, *window).mean(axis=0, dtype=np.float32)
            inside.append(gray[labels > 0])
            outside.append(gray[labels == 0])
            lowest.append(float(np.percentile(gray, 1)))
            area += labels.size
    within, around = np.concatenate(inside), np.concatenate(outside)
    everything = np.concatenate([within, around])
    if len(within) and len(around) and (spread := float(everything.std())) > 0:
        cells.contrasts.append(float(within.mean() - around.mean()) / spread)
    cells.means.append(float(everything.mean()) - min(lowest))
    return area


def _labels(truth: AnnotationRegions, z: int, window: tuple[slice, slice]) -> np.ndarray:
    """Return the cells of a window, numbered from 1."""
    from pipeline_lib.kernels.components import equal_components

    values = truth.read(z, *window)
    if not truth.separate:
        return values.astype(np.uint32)
    border = (values == BORDER) & (truth.kind == "classes")
    labels = equal_components(np.where(border, 0, values)[None])[0].astype(np.uint32)
    return grow(labels, border)


def _add_section(labels: np.ndarray, cells: _Cells) -> None:
    """Add the cells of a window to what was measured."""
    values, counts = count_pixels(labels)
    known = (values > 0) & (counts >= SPECK)
    values, areas = values[known], counts[known]
    cells.areas.append(areas)
    at_frame, pixels = count_pixels(frame(labels))
    cells.inner.append(areas[~np.isin(values, at_frame)])
    cells.around = max(cells.around, float(pixels[at_frame > 0].max(initial=0)) / pixels.sum())
    border = separation_border(labels, BORDER_WIDTH)
    cells.touching += len(np.intersect1d(labels[border], values))
    cells.inside += int(counts[known].sum())
    cells.total += labels.size
    if len(areas) > 1:
        farthest = float(2 * np.sqrt(np.median(areas) / np.pi))
        cells.gaps.append(_gaps(np.where(border, 0, labels), farthest))


def _gaps(labels: np.ndarray, farthest: float) -> np.ndarray:
    """Return d1 + d2 (px) of the background pixels at which it is at most `farthest`."""
    w_c = 1e-6
    term = weight_map(labels, [w_c, w_c], 1.0, farthest)[labels == 0].astype(float) - w_c
    distances: np.ndarray = farthest * np.sqrt(-2 * np.log(term[term >= np.exp(-0.5)].clip(max=1)))
    return distances
