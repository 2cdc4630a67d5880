"""Pictures of volumes (PNG) and charts of training and scores (SVG). The same inputs give the same bytes.

Every picture contains a description of itself (`describe`), so that a report can arrange its panels freely
and show its counts. The drawing functions are in separate modules, because reading a picture needs no
matplotlib.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import cast
from xml.etree import ElementTree

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from pipeline_lib.runtime.types import Json


def describe(picture: str | Path) -> Json:
    """Return the description that a picture of this package contains.

    Parameters
    ----------
    picture : str or Path
        PNG or SVG file written by this package.

    Returns
    -------
    dict
        At least `title` and `provenance`. A sheet of panels also has its `size` [width, height] (px), its
        `panels`, and the facts that were given to `save_sheet`. Each panel has a title, a box
        [x, y, width, height] (px from the top left), a legend, and a scale with its colours or None.
    """
    if Path(picture).suffix == ".svg":
        described = next(ElementTree.parse(picture).iter("{http://purl.org/dc/elements/1.1/}description"))
        text = described.text or ""
    else:
        with Image.open(picture) as image:
            text = cast(PngImageFile, image).text["Description"]
    description: Json = json.loads(text)
    return description


def inline(chart: str | Path) -> str:
    """Return a chart as an element for an HTML page, as wide as its place.

    Parameters
    ----------
    chart : str or Path
        SVG file written by this package.

    Returns
    -------
    str
        The `svg` element, without metadata and without names that another chart of the page could have.
    """
    text = Path(chart).read_text(encoding="utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # its style would be that of the whole page
    text = re.sub(r"<style[^>]*>\*\{(.*?)\}</style>", "", text, flags=re.DOTALL)
    text = text.replace("<svg", '<svg style="stroke-linejoin: round; stroke-linecap: butt"', 1)
    text = re.sub(r' id="(?![pm][0-9a-f]{10})[^"]*"', "", text)
    # those of clips and markers are hashes, which another chart could have
    text = re.sub(r'([#"])([pm][0-9a-f]{10})(?=[")])', rf"\1{Path(chart).stem}-\2", text)
    text = re.sub(r"(<svg[^>]*?) (?:width|height)=\"[^\"]*\"", r"\1", text)
    return re.sub(r"(<svg[^>]*?) (?:width|height)=\"[^\"]*\"", r"\1", text)
