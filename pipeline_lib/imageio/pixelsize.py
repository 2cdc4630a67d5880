"""Pixel sizes and distances that image files state, and which of these statements are believed."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any, NamedTuple
from xml.etree import ElementTree

import h5py
import numpy as np
import tifffile

from pipeline_lib import layout
from pipeline_lib.kernels.pixelsize import PixelSize

#: Largest pixel that a resolution without the metadata of a microscope can mean (um), which is 10,160 dpi.
#: Screens, printers and scanners have coarser ones, such as 72, 96 and 300 dpi, and most programs write
#: these into every image.
FINER_THAN_SCANNERS = 2.5
_UM = {
    **dict.fromkeys(("um", "\xb5m", "\u03bcm", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("micrometers", "micrometres"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre", "nanometers", "nanometres"), 1e-3),
    **dict.fromkeys(("\xe5", "\u212b", "angstrom"), 1e-4),  # in lower case
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("mm", "millimeter", "millimetre", "millimeters", "millimetres"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre", "centimeters", "centimetres"), 1e4),
    **dict.fromkeys(("m", "meter", "metre", "meters", "metres"), 1e6),
}  # length of a unit (um); inches are those of screens and scanners
_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "\xb5s", "\u03bcs", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nanosecond", "nanoseconds"), 1e-9),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
}  # length of a unit of time (s)
_INCH = 25_400.0  # um
_RESOLUTION_UNITS = {2: _INCH, 3: 1e4}  # values of the tag ResolutionUnit


class Scale(NamedTuple):
    """What a file states about lengths and times.

    Parameters
    ----------
    pixel_size : tuple of float or None
        Height and width of a pixel (um).
    section_spacing : float or None
        Distance between neighbouring sections (um).
    frame_interval : float or None
        Time between the frames of a time series (s).
    """

    pixel_size: PixelSize | None = None
    section_spacing: float | None = None
    frame_interval: float | None = None


def of_tiff(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Scale:
    """Return what a TIFF file states: its OME-XML, else ImageJ's description, else the resolution of a page.

    OME-XML and ImageJ are believed, except for pixels and inches as units.
    """
    return _lengths_of_tiff(tiff, page)._replace(frame_interval=_frame_interval(tiff))


def _lengths_of_tiff(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Scale:
    """Return the lengths that a TIFF file states."""
    y, x = _resolution(page, "YResolution"), _resolution(page, "XResolution")
    if tiff.is_ome and (stated := _of_ome(tiff.ome_metadata or "")).pixel_size:
        return stated
    if tiff.is_imagej:
        meta = tiff.imagej_metadata or {}
        unit = _um(meta.get("unit"))
        if unit and y and x:
            y_unit, z_unit = (_um(meta.get(f"{axis}unit")) or unit for axis in "yz")
            spacing = meta.get("spacing")
            z = _length(abs(spacing) * z_unit) if isinstance(spacing, int | float) else None
            return Scale(_pair(y_unit / y, unit / x), z)
    elif own := _own_size(tiff):
        return own
    unit = _RESOLUTION_UNITS.get(int(page.tags.valueof("ResolutionUnit", 1)))
    return Scale(_believed(unit / y, unit / x)) if unit and y and x else Scale()


def _frame_interval(tiff: tifffile.TiffFile) -> float | None:
    """Return the time between frames (s) that OME-XML, else ImageJ's description states."""
    if tiff.is_ome:
        stated = _ome_pixels(tiff.ome_metadata or "")
        value, unit = stated.get("TimeIncrement"), stated.get("TimeIncrementUnit", "s")
    elif not tiff.is_imagej and "frame_interval" in (own := (tiff.shaped_metadata or ({},))[0]):
        value, unit = own["frame_interval"], "s"  # of `imageio.writing`
    else:
        meta = tiff.imagej_metadata or {}
        value, unit = meta.get("finterval"), meta.get("tunit", "sec")
    with suppress(TypeError, ValueError):
        return _length(float(value) * (_known(_SECONDS, unit) or math.nan))  # type: ignore[arg-type]
    return None


def of_png(content: bytes) -> Scale:
    """Return what the chunk pHYs of a PNG states: pixels per metre, if it is finer than a scanner's."""
    if len(content) != 9 or content[8] != 1:
        return Scale()
    x, y = (int.from_bytes(content[at : at + 4], "big") for at in (0, 4))
    return Scale(_believed(1e6 / y, 1e6 / x)) if x and y else Scale()


def of_hdf5(dataset: h5py.Dataset, axes: str) -> Scale:
    """Return what the attribute `element_size_um` (z, y, x) states, or those of a file of bordure.

    `axes` has a letter for each dimension. Fiji and PlantSeg write 1 for all axes if nothing is known.
    """
    values = np.ravel(dataset.attrs.get("element_size_um", ()))
    ordered = [axis for axis in axes if axis in "zyx"] == [*"zyx"][-sum(axis in "zyx" for axis in axes) :]
    if len(values) in (2, 3) and values.dtype.kind in "uif" and ordered and (values != 1).any():
        sizes = [float(value) for value in values]
        return Scale(_pair(*sizes[-2:]), _length(sizes[0]) if len(sizes) == 3 else None)
    with suppress(OSError, KeyError, ValueError, TypeError):
        if dataset.file.attrs.get("format") == b"bordure":
            file = dataset.file
            return Scale(layout.pixel_size(file), layout.section_spacing(file), layout.frame_interval(file))
    return Scale()


def of_lengths(lengths: dict[str, tuple[float, str | None]]) -> Scale:
    """Return what lengths with units state; the keys are the axes, of which t, z, y and x count."""
    sizes = {
        axis: length * (_known(_SECONDS if axis == "t" else _UM, unit) or math.nan)
        for axis, (length, unit) in lengths.items()
    }
    t, z, y, x = (sizes.get(axis, math.nan) for axis in "tzyx")
    return Scale(_pair(y, x), _length(z), _length(t))


def _of_ome(xml: str) -> Scale:
    """Return the physical sizes of the first image of OME-XML."""
    pixels = _ome_pixels(xml)
    with suppress(ValueError):
        z, y, x = (
            float(pixels.get(f"PhysicalSize{axis}", "nan"))
            * (_um(pixels.get(f"PhysicalSize{axis}Unit", "um")) or math.nan)
            for axis in "ZYX"
        )
        return Scale(_pair(y, x), _length(z))
    return Scale()


def _ome_pixels(xml: str) -> dict[str, str]:
    """Return what OME-XML states about the pixels of its first image."""
    with suppress(ElementTree.ParseError):
        for part in ElementTree.fromstring(xml).iter():
            if part.tag.endswith("}Pixels"):
                return part.attrib
    return {}


def _own_size(tiff: tifffile.TiffFile) -> Scale | None:
    """Return what `imageio.writing` wrote into the description of a file that ImageJ's cannot describe."""
    meta: dict[str, Any] = (tiff.shaped_metadata or ({},))[0]
    with suppress(KeyError, TypeError, ValueError):
        y, x = meta["pixel_size"]
        spacing = meta.get("section_spacing")
        return Scale(_pair(float(y), float(x)), spacing if spacing is None else _length(float(spacing)))
    return None


def _um(unit: object) -> float | None:
    """Return the length of a unit (um); None if it is not known."""
    return _known(_UM, unit)


def _known(units: dict[str, float], unit: object) -> float | None:
    """Return the size of one of these units; None if it is none of them."""
    with suppress(ValueError):
        return units.get(json.loads(f'"{unit}"').strip().lower())  # ImageJ writes \u00B5m
    return None


def _resolution(page: tifffile.TiffPage, tag: str) -> float | None:
    """Return the pixels per unit of a page; None if they are not stated."""
    with suppress(TypeError, ValueError, ZeroDivisionError):
        counter, denominator = page.tags.valueof(tag, (0, 1))
        return _length(counter / denominator)
    return None


def _believed(y: float, x: float) -> PixelSize | None:
    """Return the size of a pixel unless a screen, printer or scanner may have it."""
    return _pair(y, x) if max(y, x) <= FINER_THAN_SCANNERS else None


def _pair(y: float, x: float) -> PixelSize | None:
    """Return the size of a pixel, without the rounding errors of a ratio, if both lengths make sense."""
    return (float(f"{y:.9g}"), float(f"{x:.9g}")) if _length(y) and _length(x) else None


def _length(value: float) -> float | None:
    """Return a positive finite number, else None."""
    return value if math.isfinite(value) and value > 0 else None
