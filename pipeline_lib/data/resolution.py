"""Pixel sizes of the volumes of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import cast

from pipeline_lib.kernels.pixelsize import ROUNDING, PixelSize, differs, require_ratio, text, typical
from pipeline_lib.runtime.errors import InputError


def chosen(
    stated: Mapping[str, PixelSize | None], in_files: Mapping[str, PixelSize | None]
) -> tuple[dict[str, PixelSize | None], list[str]]:
    """Return the pixel size of each volume, and what the user should know about it.

    Parameters
    ----------
    stated : dict of str to tuple of float or None
        Height and width of a pixel (um) that the user stated, by the names of all volumes.
    in_files : dict of str to tuple of float or None
        What the files of the images state. Volumes can be missing.

    Returns
    -------
    sizes : dict of str to tuple of float or None
        The stated size of each volume, or else that of its file.
    warnings : list of str
        Contradictions between both, in one line.
    """
    sizes = {name: size or in_files.get(name) for name, size in stated.items()}
    wrong = [name for name in stated if differs(stated[name], in_files.get(name), ROUNDING)]
    if not wrong:
        return sizes, []
    first = wrong[0]
    return sizes, [
        f"volume {first}: its file states pixels of {text(in_files[first])}, but `pixel_size` is "
        f"{text(stated[first])}, which is used.{_same(wrong[1:])}"
    ]


def of_training(
    sizes: Mapping[str, PixelSize | None],
    training: Collection[str],
    needed: Sequence[str] = (),
    matched: bool = False,
    of_model: PixelSize | None = None,
) -> tuple[PixelSize | None, list[str]]:
    """Return the pixel size of the training volumes, and which volumes differ from it.

    Parameters
    ----------
    sizes : dict of str to tuple of float or None
        Pixel size (um) of each volume, see `chosen`.
    training : collection of str
        Names of the training volumes. If there are none, all volumes count as such.
    needed : sequence of str, optional
        Settings that need the pixel size of all volumes, for the message.
    matched : bool, default False
        Whether volumes of another pixel size are resampled for prediction, which also needs all sizes.
    of_model : tuple of float, optional
        Pixel size (um) of the training images of a model that is used instead of training volumes.

    Returns
    -------
    size : tuple of float or None
        Median height and width (um). None if the size of a training volume is not known.
    warnings : list of str
        Volumes whose pixels differ by more than 10 % from the median, in one line.

    Raises
    ------
    InputError
        If the size is needed and that of a volume is not known, or one is too different to be resampled.
    """
    needed = [*needed, *(["prediction.match_pixel_size"] if matched else [])]
    unknown = [name for name, size in sizes.items() if size is None]
    if needed and unknown:
        raise InputError(
            f"config key `{needed[0]}`: needs the pixel size of all volumes, but that of {unknown[0]} is not "
            f"known.{_same(unknown[1:])} Write it (um) into the column `pixel_size` of the table of volumes, "
            "or set for all, for instance, `dataset: {pixel_size: 0.5}`."
        )
    size = of_model or typical({name: sizes[name] for name in training or sizes})
    other = [name for name in sizes if differs(sizes[name], size)]
    for name in other if matched else ():
        require_ratio(cast(PixelSize, sizes[name]), cast(PixelSize, size), f"volume {name}")
    if matched:  # the network learns from training volumes as they are
        other = [name for name in other if name in training]
    if not other:
        return size, []
    remedy = (
        "Train on images of one pixel size."
        if matched
        else "Use one pixel size. To resample the others for prediction, set `prediction: {match_pixel_size: "
        "true}`."
    )
    return size, [
        f"volume {other[0]}: pixels of {text(sizes[other[0]])}, but those of the training volumes are "
        f"{text(size)}.{_same(other[1:])} {remedy}"
    ]


def _same(names: Sequence[str]) -> str:
    """Return a sentence about further volumes, at most five of them."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f" The same holds for {', '.join(names[:5])}{more}." if names else ""
