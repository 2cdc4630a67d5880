"""Outlines of cells along the edges of their pixels."""

from __future__ import annotations

from collections import defaultdict
from typing import TypeAlias

import numpy as np

Corner: TypeAlias = tuple[int, int]
"""A corner of a pixel (x, y), px from the upper left corner of the image."""

Ring: TypeAlias = list[Corner]
"""Corners of a closed line, the first one only once."""

_RIGHT, _DOWN, _LEFT, _UP = (1, 0), (0, 1), (-1, 0), (0, -1)
_TO_THE_LEFT = {_RIGHT: _UP, _UP: _LEFT, _LEFT: _DOWN, _DOWN: _RIGHT}
#: Edges of a pixel: the neighbour (y, x) beyond it, where it starts (x, y), and its direction. The pixel is
#: on its right side, so outer rings are clockwise.
_EDGES = (
    ((-1, 0), (0, 0), _RIGHT),
    ((0, 1), (1, 0), _DOWN),
    ((1, 0), (1, 1), _LEFT),
    ((0, -1), (0, 1), _UP),
)


def pixel_outlines(mask: np.ndarray) -> list[list[Ring]]:
    """Return the outlines of a cell as polygons that contain exactly its pixels.

    Parameters
    ----------
    mask : (y, x) array of bool
        Pixels of the cell.

    Returns
    -------
    list of list of Ring
        For each 4-connected part, the largest first: its outer ring (clockwise, y points down), and the rings
        of its holes (counterclockwise). No ring touches itself. The first pixel has the corners 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.kernels.outlines import pixel_outlines
    >>> pixel_outlines(np.array([[True, True], [True, False]]))
    [[[(2, 0), (2, 1), (1, 1), (1, 2), (0, 2), (0, 0)]]]
    """
    from scipy import ndimage

    parts, number = ndimage.label(np.pad(np.asarray(mask, bool), 1))
    outgoing: dict[tuple[int, Corner], list[Corner]] = defaultdict(list)
    for (dy, dx), (x0, y0), step in _EDGES:
        beyond = np.roll(parts, (-dy, -dx), (0, 1))
        rows, columns = np.nonzero((parts > 0) & (beyond != parts))
        for y, x, part in zip(rows.tolist(), columns.tolist(), parts[rows, columns].tolist(), strict=True):
            outgoing[part, (x + x0 - 1, y + y0 - 1)].append(step)
    polygons: list[tuple[list[Ring], list[Ring]]] = [([], []) for _ in range(number)]
    left = {(part, corner, step) for (part, corner), steps in outgoing.items() for step in steps}
    for edge in sorted(left):
        if edge not in left:
            continue
        part, corner, step = edge
        ring: Ring = []
        twice_area = 0
        while (part, corner, step) in left:
            left.remove((part, corner, step))
            x, y = corner
            corner = x + step[0], y + step[1]
            twice_area += x * corner[1] - corner[0] * y
            # where a part touches itself at a corner, a ring turns so that it does not
            steps = outgoing[part, corner]
            turned = _TO_THE_LEFT[step] if _TO_THE_LEFT[step] in steps else steps[0]
            if turned != step:
                ring.append(corner)
            step = turned
        polygons[part - 1][twice_area < 0].append(ring)
    sizes = np.bincount(parts.ravel(), minlength=number + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    return [[*polygons[k][0], *polygons[k][1]] for k in order]
