"""Read annotations as regions or as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np

from pipeline_lib.imageio.headers import require_whole, size
from pipeline_lib.imageio.images import Images, open_chosen
from pipeline_lib.imageio.kinds import Given, check_settings, count_values, masks_of_cells
from pipeline_lib.imageio.lossy import two_values
from pipeline_lib.imageio.regions import BORDER, AnnotationRegions, grow
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json


@dataclass(frozen=True)
class Annotation:
    """An annotation in memory; `read_annotation` creates it.

    Parameters
    ----------
    kind : {"membranes", "instances", "classes", "masks"}
        What the file contains.
    labels : (z, y, x) array of unsigned int
        Instance labels, 0 = background. For "membranes", the 4-connected components of each section.
    ignore : (z, y, x) array of bool, or None
        True where the image is not annotated; None if all pixels are annotated.
    description : str
        What was found in the file and what was inferred, for the log.
    doubts : list of dict, default ()
        What looks wrong, although it is allowed; see `AnnotationRegions`.
    blank : tuple of int, default ()
        Sections that are one single cell in the file, and probably not annotated; `labels` are 0 there.
    """

    kind: str
    labels: np.ndarray
    ignore: np.ndarray | None
    description: str
    doubts: Sequence[Json] = ()
    blank: tuple[int, ...] = ()


class AnnotationSettings(TypedDict, total=False):
    """Optional arguments of `open_annotation`, which describes them."""

    sections: str | None
    rows: str | None
    kind: str
    classes: Mapping[str, int | Sequence[int]] | None
    background: int
    ignore: int | None
    ignore_mask: str | Path | None
    relabel: bool
    masks: bool
    slices: Sequence[Path | None] | None
    mask_slices: Sequence[Path | None] | None


@contextmanager
def open_annotation(
    path: str | Path,
    *,
    sections: str | None = None,
    rows: str | None = None,
    kind: str = "auto",
    classes: Mapping[str, int | Sequence[int]] | None = None,
    background: int = 0,
    ignore: int | None = None,
    ignore_mask: str | Path | None = None,
    relabel: bool = False,
    masks: bool = False,
    slices: Sequence[Path | None] | None = None,
    mask_slices: Sequence[Path | None] | None = None,
) -> Iterator[AnnotationRegions]:
    """Open an annotation to read regions of it, and find out what its values mean. Context manager.

    All values are read once when the annotation is opened. Black and white are what Fiji displays: with
    `WhiteIsZero`, zeros are white. Instance labels are never inverted. Colours (RGB, 8 bits) are the numbers
    0xRRGGBB, and `kind` must say what they mean. Of a JPEG, values are read as black or white, which must be
    clear.

    Parameters
    ----------
    path : str or Path
        Image file, folder of slices, or `file.h5:/dataset`.
    sections : str, optional
        Selected sections, for instance `0-3,8` (see `parse_sections`); all by default.
    rows : str, optional
        Selected rows, for instance `0-255`; all by default.
    kind : {"auto", "black_membranes", "white_membranes", "instances", "classes"}, default "auto"
        Meaning of the values:

        - "black_membranes": membranes are 0 and cells another value, as in the ISBI 2012 challenge.
        - "white_membranes": cells are 0 and membranes another value.
        - "instances": 0 is background, each other value one cell.
        - "classes": see `classes`.
        - "auto": two values, one of them 0, are cells and membranes or background: cells are the value that
          forms many compact areas. More values are instances if most values form one area. Anything else is
          an error that lists the values, their shares and areas, and the settings to choose from.
    classes : mapping of str to int or list of int, optional
        Values of each class, for "classes". Each connected area of a class is a cell, except for the classes
        "background" and "border".
    background : int, default 0
        Value of the background of instance labels. If it is not 0, a pixel that is 0 belongs to a cell.
    ignore : int, optional
        Value that means "not annotated".
    ignore_mask : str or Path, optional
        Image of the same size, in the same formats; its pixels other than 0 are not annotated.
    relabel : bool, default False
        Whether each connected area of an instance label is a separate cell.
    masks : bool, default False
        Whether the file or folder has one binary slice for each cell of a single section.
    slices, mask_slices : sequence of Path or None, optional
        Files of the folder `path` and of the folder `ignore_mask` in the order in which to read them, as
        returned by `matching_slices`.

    Yields
    ------
    AnnotationRegions
        The selected sections. They can be read inside the `with` statement.

    Raises
    ------
    InputError
        As `open_images`, if the values do not fit `kind`, or if "auto" finds no clear meaning.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from pipeline_lib.imageio import open_annotation, write_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "membranes.tif")
    ...     write_images(path, np.array([[[255, 0, 255, 255]]], np.uint8))
    ...     with open_annotation(path, kind="black_membranes") as annotation:
    ...         print(annotation.kind, annotation.read(0, slice(0, 1), slice(0, 3)))
    membranes [[1 0 1]]
    """
    check_settings(kind, classes)
    with ExitStack() as stack:
        images = stack.enter_context(
            open_chosen(
                path,
                None if masks else sections,
                1,
                rows=rows,
                annotation=True,
                slices=slices,
                colours=True,
            )
        )
        if images.info.lossy and images.info.colours:
            raise InputError(
                f"{path}: found colours, which JPEG changes, especially at edges; expected exact colours. "
                "Save the annotation as PNG or TIFF with the program that drew it, without anti-aliasing."
            )
        if images.info.lossy and ignore is not None:
            raise InputError(
                f"{path}: JPEG changes values, so that the value {ignore} of `dataset.ignore` cannot be "
                "found. Save the annotation as PNG or TIFF with the program that drew it, or mark these "
                "pixels in another image (`ignore_mask`)."
            )
        images, told = two_values(images)
        if background:
            images, ignore = _with_background(images, background, ignore)
        mask = None
        if ignore_mask is not None:
            mask = stack.enter_context(
                open_mask(ignore_mask, sections=sections, rows=rows, slices=mask_slices)
            )
            if mask.shape[1 + masks :] != images.shape[1 + masks :]:
                raise InputError(
                    f"{ignore_mask}: the mask of ignored pixels has {size(mask.shape[1:])}, but {path} has "
                    f"{size(images.shape[1:])}. Both must show the same sections."
                )
        if masks:
            regions = masks_of_cells(images, mask)
        else:
            found = count_values(images, ignore, mask)
            regions = Given(images, found, kind, classes or {}, ignore, mask, relabel).regions()
        yield replace(regions, description="; ".join(filter(None, (regions.description, told))))


@contextmanager
def open_mask(
    path: str | Path,
    *,
    sections: str | None = None,
    rows: str | None = None,
    slices: Sequence[Path | None] | None = None,
) -> Iterator[Images]:
    """Open an image whose pixels other than 0 are not annotated. Context manager.

    Parameters
    ----------
    path : str or Path
        Image file, folder of slices, or `file.h5:/dataset`.
    sections : str, optional
        Selected sections, for instance `0-3,8`; all by default.
    rows : str, optional
        Selected rows, for instance `0-255`; all by default.
    slices : sequence of Path or None, optional
        Files of a folder in the order in which to read them, as returned by `matching_slices`.

    Yields
    ------
    Images
        The values as they are stored, those of one bit as they are displayed. JPEGs have two values.

    Raises
    ------
    InputError
        As `open_images`.
    """
    with open_chosen(path, sections, 1, rows=rows, annotation=True, slices=slices) as images:
        yield as_mask(images)


def as_mask(images: Images) -> Images:
    """Return a mask whose pixels other than 0 count, whatever 0 is displayed as in a file of one bit.

    Parameters
    ----------
    images : Images
        An open image.

    Returns
    -------
    Images
        The same without the changes of JPEG. In a file of one bit, white is 1. If 0 is displayed as white in
        another file, a warning is logged.
    """
    if images.info.white_is_zero and images.info.dtype.kind == "b":
        stored = images.decode
        info = replace(images.info, white_is_zero=False)
        return replace(images, info=info, decode=lambda *region: 1 - stored(*region))
    if images.info.white_is_zero:
        logger.warning(
            "%s: 0 is displayed as white (inverting LUT). The pixels that count are those shown as black.",
            images.path,
        )
    return two_values(images)[0]


def _with_background(images: Images, value: int, ignore: int | None) -> tuple[Images, int | None]:
    """Return images in which `value` becomes 0, and the number that `ignore` becomes.

    Each number remains one cell: those below `value` become the next larger one; all are moved up if it is
    negative.
    """
    if images.dtype.kind in "iu" and value > np.iinfo(images.dtype).max:
        raise InputError(
            f"{images.path}: no pixel has the value {value} of `dataset.background`, because the file has "
            f"{images.dtype}. Correct it."
        )

    def moved(region: np.ndarray) -> np.ndarray:
        if value < 0:
            return region.astype(np.int64) - value
        if images.info.colours:  # black becomes the number of the background
            exchanged = np.where(region == 0, value, region)
            return np.where(region == value, 0, exchanged).astype(region.dtype)
        below = region < value
        return np.where(region == value, 0, region + below.astype(region.dtype)).astype(region.dtype)

    def decode(z: int, rows: slice, columns: slice) -> np.ndarray:  # rows of the file
        return moved(images.decode(z, rows, columns))

    info = replace(images.info, dtype=np.dtype(np.int64)) if value < 0 else images.info
    if value < 0 or value == info.nodata:  # the background is stated
        info = replace(info, nodata=None)
    ignore = None if ignore is None else int(moved(np.array(ignore)))
    return replace(images, info=info, decode=decode), ignore


def read_annotation(path: str | Path, **settings: Unpack[AnnotationSettings]) -> Annotation:
    """Read an annotation as a whole, and find out what its values mean.

    Parameters
    ----------
    path : str or Path
        Image file, folder of slices, or `file.h5:/dataset`.
    **settings
        `kind` and other arguments of `open_annotation`.

    Returns
    -------
    Annotation
        The selected sections.

    Raises
    ------
    InputError
        As `open_annotation`, and if the sections do not fit into the memory of this machine.
    """
    from pipeline_lib.kernels.components import equal_components  # imports numba, which the dry run avoids

    with open_annotation(path, **settings) as regions:
        require_whole(path, regions.images.info, math.prod(regions.shape) * regions.dtype.itemsize)
        everything = slice(None), slice(None)
        array = np.stack([regions.read(z, *everything) for z in range(regions.shape[0])])
        ignore = None
        if regions.may_ignore:
            ignore = np.stack([regions.read_ignore(z, *everything) for z in range(regions.shape[0])])
        if regions.separate:
            border = (array == BORDER) & (regions.kind == "classes")
            array = equal_components(np.where(border, 0, array)).astype(np.uint32)
            array = np.stack([grow(own, at) for own, at in zip(array, border, strict=True)])
        return Annotation(regions.kind, array, ignore, regions.description, regions.doubts, regions.blank)
