"""Pictures of volumes, errors, training and scores as PNG files: same inputs, same bytes.

Every picture describes itself (`describe`), so that a report can lay out its panels anew and tell its counts.
The drawing functions are in modules of their own, for whoever reads a picture needs no matplotlib.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def describe(picture: Path) -> dict[str, Any]:
    """What a picture of this package tells about itself, first of all its `title`.

    A sheet has a `size` [width, height], `panels`, each with title, box [x, y, width, height] in px from the
    top left, legend, and scale with its colours or None; and the facts that `save_sheet` was given.
    """
    with Image.open(picture) as image:
        return json.loads(image.text["Description"])
