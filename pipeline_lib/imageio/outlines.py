"""Outlines of cells in the formats of other programs: ImageJ and Fiji (ROI zip), QuPath (GeoJSON).

Both functions take the cells of one volume, one at a time. Coordinates are px; the edges of the first pixel
are 0 and 1.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from roifile import ROI_TYPE, ImagejRoi

from pipeline_lib.imageio.boxes.exporting import ROI_VERSION, write_items
from pipeline_lib.kernels.outlines import Ring
from pipeline_lib.runtime.files import replacing
from pipeline_lib.runtime.types import Json

#: The ROI Manager of ImageJ becomes slow with more cells than this.
MOST_ROIS = 20_000
#: Largest coordinate in a ROI, which has 16 bits.
LARGEST_COORDINATE = 32_767


class Outline(NamedTuple):
    """The outline of a cell in a section.

    Parameters
    ----------
    section : int
        Number of the section, from 0.
    label : int
        Label of the cell.
    polygons : sequence of sequence of Ring
        Parts of the cell, the largest first, each with its outer ring and the rings of its holes (px of the
        section), as `instances.outlines.pixel_outlines` returns them.
    kind : str
        Class of the cell.
    measurements : dict of str to float
        Measurements of the cell.
    """

    section: int
    label: int
    polygons: Sequence[Sequence[Ring]]
    kind: str
    measurements: dict[str, float]


class Simplified(NamedTuple):
    """Numbers of cells, and of those that a format cannot show completely.

    Parameters
    ----------
    cells : int
        Cells that were written.
    holes : int
        Cells whose holes were filled.
    parts : int
        Cells of several parts, of which only the largest was written.
    """

    cells: int
    holes: int = 0
    parts: int = 0


def write_cell_rois(path: str | Path, outlines: Iterable[Outline]) -> Simplified:
    """Write cells as polygons for the ROI Manager of ImageJ and Fiji (zip), completely or not at all.

    The name of a ROI is its section, from 1, and the label of its cell: `0003-000017`. In ImageJ, the ROI has
    exactly the pixels of the cell, except that a ROI has no holes and one part.

    Parameters
    ----------
    path : str or Path
        File to write, whose name ends with `.zip`.
    outlines : iterable of Outline
        The cells.

    Returns
    -------
    Simplified
        Number of cells, and of those with holes and several parts.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.

    Examples
    --------
    >>> import tempfile, zipfile
    >>> from pathlib import Path
    >>> from pipeline_lib.imageio.outlines import Outline, write_cell_rois
    >>> square = [[[(0, 0), (2, 0), (2, 2), (0, 2)]]]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "rois.zip")
    ...     write_cell_rois(path, [Outline(2, 17, square, "cell", {})])
    ...     zipfile.ZipFile(path).namelist()
    Simplified(cells=1, holes=0, parts=0)
    ['0003-000017.roi']
    """
    cells = holes = parts = 0
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for outline in outlines:
            cells += 1
            holes += len(outline.polygons[0]) > 1
            parts += len(outline.polygons) > 1
            corners = np.array(outline.polygons[0][0])
            left, top = corners.min(axis=0).tolist()
            right, bottom = corners.max(axis=0).tolist()
            name = f"{outline.section + 1:04}-{outline.label:06}"
            roi = ImagejRoi(
                version=ROI_VERSION,
                roitype=ROI_TYPE.POLYGON,
                name=name,
                position=outline.section + 1,
                left=left,
                top=top,
                right=right,
                bottom=bottom,
                n_coordinates=len(corners),
                integer_coordinates=(corners - [left, top]).astype(np.int32),
            )
            # ImageJ shows the name of the entry. Without a date, equal cells give equal bytes.
            archive.writestr(zipfile.ZipInfo(name + ".roi"), roi.tobytes(), zipfile.ZIP_DEFLATED)
    return Simplified(cells, holes, parts)


def write_cell_geojson(path: str | Path, outlines: Iterable[Outline], *, frames: bool = False) -> Simplified:
    """Write cells as detections for QuPath (GeoJSON), completely or not at all.

    Each cell is a polygon, with its holes, or several polygons. It has a classification, its measurements and
    its section as the plane z, or as the time t.

    Parameters
    ----------
    path : str or Path
        File to write, whose name ends with `.geojson`.
    outlines : iterable of Outline
        The cells.
    frames : bool, default False
        Whether sections are the frames of a time series.

    Returns
    -------
    Simplified
        Number of cells. All are complete.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from pipeline_lib.imageio.outlines import Outline, write_cell_geojson
    >>> square = [[[(0, 0), (2, 0), (2, 2), (0, 2)]]]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "cells.geojson")
    ...     write_cell_geojson(path, [Outline(0, 17, square, "cell", {"area": 4.0})])
    ...     (feature,) = json.loads(path.read_text())["features"]
    Simplified(cells=1, holes=0, parts=0)
    >>> feature["geometry"]["coordinates"]
    [[[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]]]
    """
    cells, axis = 0, "t" if frames else "z"

    def features() -> Iterable[Json]:
        nonlocal cells
        for cells, outline in enumerate(outlines, 1):  # noqa: B007
            closed = [[[*ring, ring[0]] for ring in rings] for rings in outline.polygons]
            yield {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon" if len(closed) == 1 else "MultiPolygon",
                    "coordinates": closed[0] if len(closed) == 1 else closed,
                    "plane": {"c": -1, "z": 0, "t": 0, axis: outline.section},  # an addition of QuPath
                },
                "properties": {
                    "objectType": "detection",
                    "name": str(outline.label),
                    "classification": {"name": outline.kind},
                    "measurements": outline.measurements,
                },
            }

    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        write_items(file, features())
        file.write("]}\n")
    return Simplified(cells)
