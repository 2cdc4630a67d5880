"""Divide annotated images into the splits train, validation and test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline_lib.data.volumes import SPLITS
from pipeline_lib.projects.layouts import Found
from pipeline_lib.runtime.errors import InputError

TEST, VALIDATION = 0.2, 0.16  # shares; the rest is for training
BAND = {3: 0.2, 2: 0.3}  # share of the rows of each band but the first, by the number of bands
FEWEST_ROWS = 32  # of a band
WHOLE = 5  # number of images from which on none is divided


@dataclass(frozen=True)
class Row:
    """A row of the table of volumes.

    Parameters
    ----------
    volume, images : str
        Name, and path of the images.
    annotation : str or None
        Path of the annotation.
    split : str
        Use of the volume.
    sections, rows : str, default ""
        Selected sections, and rows of their pixels; empty for all.
    """

    volume: str
    images: str
    annotation: str | None
    split: str
    sections: str = ""
    rows: str = ""


def split_images(found: Sequence[tuple[Found, tuple[int, int, int]]], context: int, cell: float) -> list[Row]:
    """Divide images into splits by contiguous blocks.

    Neighbours in time, depth or position look alike, so each split is a block of consecutive images, or of
    consecutive sections if there are fewer than 5 images. Images of each size are divided separately if there
    are at least 5 of each, so that all splits have all sizes. Fewer than 3 sections are cut into bands of
    rows. Between two bands, as many rows as the context of the network are left out. A use that a folder
    states is kept.

    Parameters
    ----------
    found : sequence of (Found, tuple of int)
        Images, and the shape (z, y, x) of each.
    context : int
        Context of the network (px).
    cell : float
        Typical diameter of a cell (px). A band has at least as many rows.

    Returns
    -------
    list of Row
        Rows of the table, first those of the split train. Images without annotation have the split predict.

    Raises
    ------
    InputError
        If an image is too small to be cut into bands.
    """
    annotated = [(image, shape) for image, shape in found if image.annotation]
    stated = {image.split for image, _ in annotated} & {"validation", "test"}
    # a single name, as in `stage1_train`, does not state how to divide the images
    pool = [(image, shape) for image, shape in annotated if not stated or image.split in (None, "train")]
    rows = [_row(image, image.split) for image, _ in annotated if stated and image.split in stated]
    splits = [split for split in ("train", "validation", "test") if split not in stated]
    if stated and "test" in splits:
        splits.remove("test")  # the folders say which images are for training and validation
    if not pool:
        raise InputError(
            f"{annotated[0][0].images}: no annotated images are left for training, because the folders of "
            "all say validation or test. Rename a folder, or give --images and --annotations."
        )
    for group in _groups(pool):
        rows += _divided(group, splits, context, cell)
    rows += [_row(image, "predict") for image, _ in found if not image.annotation]
    return sorted(rows, key=lambda row: SPLITS.index(row.split))


def _row(image: Found, split: str | None) -> Row:
    return Row(image.name, image.images, image.annotation, split or "train")


def _groups(pool: Sequence[tuple[Found, tuple[int, int, int]]]) -> list[list[tuple[Found, int, int]]]:
    """Return name, number of sections and height of images, by size if there are enough of each."""
    sizes: defaultdict[tuple[int, int, int], list[tuple[Found, int, int]]] = defaultdict(list)
    for image, shape in pool:
        sizes[shape].append((image, shape[0], shape[1]))
    if min(map(len, sizes.values())) >= WHOLE:
        return [*sizes.values()]
    return [[(image, shape[0], shape[1]) for image, shape in pool]]


def _divided(
    images: Sequence[tuple[Found, int, int]], splits: Sequence[str], context: int, cell: float
) -> Iterator[Row]:
    """Yield the rows of images that are divided among `splits`."""
    if len(splits) == 1:
        yield from (_row(image, splits[0]) for image, _, _ in images)
        return
    if len(images) >= WHOLE:
        cuts = _cuts(len(images), splits)
        for split, first, stop in zip(splits, [0, *cuts], [*cuts, len(images)], strict=True):
            yield from (_row(image, split) for image, _, _ in images[first:stop])
        return
    total = sum(sections for _, sections, _ in images)
    if total < 3:
        for image, _, height in images:
            yield from _bands(image, height, splits, context, cell)
        return
    cuts = _cuts(total, splits)
    start = 0  # number of the first section of the image among all sections
    for image, sections, _ in images:
        parts = []
        for split, first, stop in zip(splits, [0, *cuts], [*cuts, total], strict=True):
            low, high = max(first, start) - start, min(stop, start + sections) - start
            if low < high:
                text = "" if sections == 1 else f"{low}-{high - 1}" if high - low > 1 else f"{low}"
                parts.append(replace(_row(image, split), sections=text))
        if len(parts) == 1:
            yield replace(parts[0], sections="")
        else:
            yield from (replace(part, volume=f"{image.name}_{part.split}") for part in parts)
        start += sections


def _cuts(number: int, splits: Sequence[str]) -> list[int]:
    """Return where to cut `number` things so that each of `splits` has its share, at least one."""
    sizes = {"test": max(round(TEST * number), 1), "validation": max(round(VALIDATION * number), 1)}
    cuts: list[int] = []
    for split in reversed(splits[1:]):
        cuts.insert(0, (cuts[0] if cuts else number) - sizes[split])
    return cuts


def _bands(image: Found, height: int, splits: Sequence[str], context: int, cell: float) -> Iterator[Row]:
    """Yield a row for each band of rows of an image; without a band for testing if it is too small."""
    fewest = max(FEWEST_ROWS, cell)
    for used in (splits, [split for split in splits if split != "test"]):
        gaps = context * (len(used) - 1)
        size = round(BAND[len(used)] * (height - gaps))
        if size >= fewest:
            first = height
            bands = []
            for split in reversed(used[1:]):
                bands.append((split, first - size, first))
                first -= size + context
            bands.append((used[0], 0, first))
            for split, start, stop in reversed(bands):
                yield replace(_row(image, split), volume=f"{image.name}_{split}", rows=f"{start}-{stop - 1}")
            return
    raise InputError(
        f"{image.images}: has {height} rows, too few to cut it into bands for training and validation with "
        f"{context} rows between them. Annotate a second and a third image, or a larger one."
    )
