"""Whether gray levels have the scale of the training images, and which offset or factor gives it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from pipeline_lib.runtime.doubts import doubt
from pipeline_lib.runtime.types import Json

#: Upper ends of the usual gray scales: floats from 0 to 1, and integers of 8, 12 and 16 bits.
FULL_SCALES = (1, 255, 4095, 65535)
#: Upper end of percentages, which are floats.
PERCENT = 100
#: What Fiji and some microscopes add to signed gray levels of 16 bits, and subtract from unsigned ones.
SIGNED = 32768


def compare(training: Json, gray: Json) -> Json | None:
    """Compare the gray scale of a volume with that of the training images.

    Range and standard deviation of the gray levels are compared. Images differ in brightness, and images
    without cells are dark. So the scale is only certain to differ if

    - range and standard deviation are at least 8 times those of the training images, or
    - both are at most 1/8, the gray levels are not just noise (a roughness above 0.5), and the user stated a
      factor, or they fill more than a quarter of a scale (0 to 1 or 0 to 255) that the training images exceed
      at least 32 times, or
    - more than an eighth of the range is negative, and the training images have no negative gray levels, or
    - the ranges are more than 3 times their width apart, more than another brightness explains.

    8-bit images have the same scale, unless they contain only 0 and 1. All channels are compared together.

    Parameters
    ----------
    training : dict
        Summary of the training images: `low`, `high`, `mean` and `std` of each channel, and `dtype`.
    gray : dict
        Summary of the volume, see `layout.findings`. If its `scale` is 1, the user states that the gray scale
        is that of the training images, and it is not certain to differ.

    Returns
    -------
    dict or None
        A doubt: `name`, `weight` and `text`. The weight is 1 if the scale is certain to differ, and 0.5 if
        the images may also be darker or brighter. None if there is no doubt.

    Examples
    --------
    >>> from pipeline_lib.data.gray_scale import compare
    >>> training = {"low": [0], "high": [1], "mean": [0.4], "std": [0.2], "dtype": "float32"}
    >>> volume = {"low": [5], "high": [250], "mean": [90], "std": [50], "dtype": "float32", "scale": None}
    >>> compare(training, volume)["text"][:85]
    'gray levels from 5 to 250, but the training images have 0 to 1, another gray scale. W'
    """
    stated = gray["scale"]
    old, new = _joint(training), _joint(gray)
    found = f"gray levels from {new.low:.5g} to {new.high:.5g}"
    trained = f"{old.low:.5g} to {old.high:.5g}"
    ratio, std_ratio = _ratio(new.high - new.low, old.high - old.low), _ratio(new.std, old.std)
    moved = 0.0 if ratio is None or std_ratio is None else _moved(old, new, ratio, gray)
    if moved:
        columns = _columns(old, new, ratio or 1.0, stated or 1.0, gray.get("offset") or 0.0)
        fix = f"Write into the table of volumes: {columns}, or only `scale`: 1 if gray levels mean the same."
    else:
        factors = _factors(old.high, new.high, ratio, stated or 1.0, (training["dtype"], gray["dtype"]))
        fix = (
            f"Write the factor between the scales into the column `scale` of the table of volumes: {factors}"
        )
        fix += "." if factors == "1" else ", or 1 if gray levels mean the same."
    if stated is None and gray["dtype"] != training["dtype"]:
        text = f"{gray['dtype']} {found}, but the training images are {training['dtype']} and have {trained}."
        return doubt("gray_scale", 1.0, f"{text} {fix}")
    if ratio is None or std_ratio is None:
        return None
    if gray["dtype"] == training["dtype"] == "uint8" and (new.high > 1) == (old.high > 1):
        return None
    larger = ratio >= 8 and std_ratio >= 8
    smaller = (
        max(ratio, std_ratio) <= 1 / 8
        and max(gray["roughness"]) <= 0.5  # above it is the noise of a dark image
        and (
            stated is not None
            or any(old.high >= 32 * end and end / 4 <= new.high <= end * 1.001 for end in (1, 255))
        )
    )
    if larger or smaller or moved == 1:
        weight = 0.5 if stated == 1 and gray.get("offset") is None else 1.0
        text = f"{found}, but the training images have {trained}, another gray scale."
        return doubt("gray_scale", weight, f"{text} {fix}")
    if moved or max(ratio, std_ratio) >= 8 or max(ratio, std_ratio) <= 1 / 8:
        text = (
            f"{found}, but the training images have {trained}. The gray scale may differ, or the brightness."
        )
        return doubt("gray_scale", 0.5, f"{text} {fix}")
    return None


class _Levels(NamedTuple):
    low: float
    high: float
    mean: float
    std: float


def _joint(gray: Json) -> _Levels:
    """Return range, mean and standard deviation of all channels together."""
    std = float(np.sqrt(np.mean(np.square(gray["std"]))))
    return _Levels(min(gray["low"]), max(gray["high"]), float(np.mean(gray["mean"])), std)


def _ratio(new: float, old: float) -> float | None:
    """Return `new / old`, or None if one is 0: images of one single gray level have no scale."""
    return new / old if new > 0 and old > 0 else None


def _moved(old: _Levels, new: _Levels, ratio: float, gray: Json) -> float:
    """Return 1 if an offset of gray levels is certain, 0.5 if it is possible, and 0 otherwise."""
    span, new_span = old.high - old.low, new.high - new.low
    if gray.get("offset") is None:  # the user did not state how negative gray levels come about
        if old.low >= 0 > new.low + new_span / 100:
            return 1.0 if -new.low > new_span / 8 else 0.5
        if new.low >= 0 > old.low + span / 8:
            return 0.5
    # another brightness multiplies the gray levels, and adds little
    gap = max(new.low - ratio * old.high, old.low - new.high / ratio) / max(span, new_span)
    return 1.0 if gap > 3 else 0.5 if gap > 1 else 0.0


def _columns(old: _Levels, new: _Levels, ratio: float, scale: float, offset: float) -> str:
    """Return `offset` and `scale` that give a volume about the gray levels of the training images."""
    low, high, mean = (level / scale + offset for level in (new.low, new.high, new.mean))  # in the file
    end = next((end for end in FULL_SCALES if old.high <= end * 1.001), old.high)
    if 1 / 8 < ratio < 8 and min(old.low, new.low) >= 0:
        factor = scale
        moved = low - old.low / factor
    else:  # negative gray levels are often made by a normalisation to mean 0 and standard deviation 1
        factor = old.std / new.std * scale
        moved = mean - old.mean / factor
    if 1 / 8 < factor < 8 and abs(abs(moved) - SIGNED) < max(old.high - old.low, high - low) / 2:
        moved, factor = math.copysign(SIGNED, moved), 1.0
    elif -1.001 <= low < 0 <= old.low and high <= 1.001 and (high - low) * end / 2 < 8 * (old.high - old.low):
        moved, factor = -1.0, end / 2
    return f"`offset`: {moved:.6g}" + (f" and `scale`: {factor:.6g}" if factor != 1 else "")


def _factors(
    high: float, new_high: float, ratio: float | None, stated: float, dtypes: tuple[str, str]
) -> str:
    """Return the factors from a gray scale to that of the training, from the ends of usual scales."""
    measured = (ratio or 1.0) / stated
    ends = []
    for value, dtype in zip((high, new_high / stated), dtypes, strict=True):
        ends.append([end for end in FULL_SCALES if value <= end * 1.001][:1])
        if dtype[0] == "f" and PERCENT / 2 < value <= PERCENT * 1.001:
            ends[-1].append(PERCENT)
    pairs = [(a, b) for a in ends[0] for b in ends[1] if 1 / 8 < (measured if ratio else b / a) * a / b < 8]
    if not pairs:
        return f"{1 / measured:.6g}"
    pairs.sort(key=lambda pair: abs(math.log(measured * pair[0] / pair[1])))
    if len(pairs) == 1:
        return f"{pairs[0][0] / pairs[0][1]:.6g}"
    return ", ".join(f"{a / b:.6g} if {b} here means {a} there" for a, b in pairs)
