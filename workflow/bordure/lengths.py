"""Settings in physical units, which are converted to pixels before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache

from jsonschema import Draft202012Validator as Validator

from bordure.settings import length, limits, of_volume, power, read_schema
from pipeline_lib.data import resolution
from pipeline_lib.data.volumes import Volume
from pipeline_lib.kernels.pixelsize import PixelSize, is_square, pair, side, text
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Json


def physical_keys(settings: Json) -> list[str]:
    """Return the names of the keys whose values are lengths or areas in physical units.

    Parameters
    ----------
    settings : dict
        Settings that `complete` returned.

    Returns
    -------
    list of str
        Names such as `weight_map.sigma`.

    Examples
    --------
    >>> from bordure.settings import complete
    >>> physical_keys(complete({"volumes": "my.tsv", "weight_map": {"sigma": "0.5 um"}}))
    ['weight_map.sigma']
    """
    return [
        f"{section}.{key}" for section, key, _ in _physical_parts() if _is_physical(settings, section, key)
    ]


def convert(
    settings: Json,
    volumes: Sequence[Volume],
    in_files: Mapping[str, PixelSize | None],
    *,
    of_model: PixelSize | None = None,
    unused: Collection[str] = (),
) -> tuple[Json, list[str]]:
    """Return settings with lengths and areas in physical units as numbers of pixels of training volumes.

    Parameters
    ----------
    settings : dict
        Settings that `complete` returned.
    volumes : sequence of Volume
        Rows of the table of volumes.
    in_files : dict of str to tuple of float or None
        Height and width of a pixel (um) that the files of volumes state, by the names of the volumes.
    of_model : tuple of float, optional
        Pixel size of the training images of a model that the run uses, instead of that of training volumes.
    unused : collection of str, optional
        Sections of the config that the run does not use.

    Returns
    -------
    settings : dict
        Settings with numbers of pixels.
    lines : list of str
        What the user should know: pixel size of the training volumes, what was converted, warnings.

    Raises
    ------
    InputError
        If a pixel size is needed and not known, or a length cannot be converted.
    """
    dataset = settings["dataset"]
    stated = {row.volume: of_volume(dataset, row.dataset, row.row).get("pixel_size") for row in volumes}
    sizes, warnings = resolution.chosen({name: pair(size) for name, size in stated.items()}, in_files)
    train = [row.volume for row in volumes if row.split == "train"]
    used = {key: value for key, value in settings.items() if key not in unused}
    matched = settings["prediction"]["match_pixel_size"]
    size, more = resolution.of_training(sizes, train, physical_keys(used), matched, of_model)
    converted, lines = in_pixels(used, size) if size else (used, [])
    known = ["; ".join([f"pixel size: {text(size)}", *lines])] if size else []
    return settings | converted, [*known, *(f"warning: {warning}" for warning in warnings + more)]


def in_pixels(settings: Json, pixel_size: PixelSize) -> tuple[Json, list[str]]:
    """Return settings in which lengths and areas in physical units are numbers of pixels.

    Parameters
    ----------
    settings : dict
        Settings that `complete` returned.
    pixel_size : tuple of float
        Height and width of a pixel (um).

    Returns
    -------
    settings : dict
        A copy with numbers of pixels. Integers are rounded; a width is at least the smallest that is allowed.
    lines : list of str
        What was converted, for the user.

    Raises
    ------
    InputError
        If a number of pixels is out of the range of its key, or pixels are not square and a length is given.

    Examples
    --------
    >>> from bordure.settings import complete
    >>> given = complete({"volumes": "my.tsv", "weight_map": {"sigma": "0.5 um"}})
    >>> converted, lines = in_pixels(given, (0.25, 0.25))
    >>> converted["weight_map"]["sigma"], lines
    (2.0, ['weight_map.sigma: 0.5 um = 2 px'])
    """
    converted, lines = dict(settings), []
    for section, key, part in _physical_parts():
        if not _is_physical(settings, section, key):
            continue
        given, name = settings[section][key], f"config key `{section}.{key}`"
        if part["physical"] == "um" and not is_square(pixel_size):
            raise InputError(
                f"{name}: found `{given}`, but pixels of {text(pixel_size)} are not square, so a length "
                "is no single number of pixels. Write it in px."
            )
        value = length(given, part) / side(pixel_size) ** power(part)
        if part["type"] == "integer":
            value = max(round(value), part.get("minimum", 0))
        if not Validator(part).is_valid(value):
            raise InputError(
                f"{name}: `{given}` is {value:.4g} px with pixels of {text(pixel_size)}, expected "
                f"{limits(part)}. Correct it, or the pixel size."
            )
        converted[section] = converted[section] | {key: value}
        lines.append(f"{section}.{key}: {given} = {value:.4g} px")
    return converted, lines


@cache
def _physical_parts() -> list[tuple[str, str, Json]]:
    """Return section, key and schema of each setting that can be given in physical units."""
    sections = read_schema("config")["properties"].items()
    return [
        (section, key, part)
        for section, schema in sections
        for key, part in schema.get("properties", {}).items()
        if "physical" in part
    ]


def _is_physical(settings: Json, section: str, key: str) -> bool:
    return isinstance(settings.get(section, {}).get(key), str)
