"""Pictures of volumes, errors, training and scores as PNG files. The same inputs give the same bytes.

Every picture contains a description of itself (`describe`), so that a report can arrange its panels freely
and show its counts. The drawing functions are in separate modules, because reading a picture needs no
matplotlib.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from pipeline_lib.runtime.types import Json


def describe(picture: str | Path) -> Json:
    """Return the description that a picture of this package contains.

    Parameters
    ----------
    picture : str or Path
        PNG file written by this package.

    Returns
    -------
    dict
        At least `title` and `provenance`. A sheet of panels also has its `size` [width, height] (px), its
        `panels`, and the facts that were given to `save_sheet`. Each panel has a title, a box
        [x, y, width, height] (px from the top left), a legend, and a scale with its colours or None.
    """
    with Image.open(picture) as image:
        description: Json = json.loads(cast(PngImageFile, image).text["Description"])
        return description
