"""Boxes in the formats of other programs: ImageJ and Fiji (ROI zip), QuPath (GeoJSON), COCO (JSON).

All functions take the sections of one volume, in the form of `write_detections`, one at a time. Coordinates
are px; the edges of the first pixel are 0 and 1. Positions of sections are those in the volume.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

from pipeline_lib.imageio.boxes.writing import SectionBoxes, rows_of
from pipeline_lib.runtime.files import replacing
from pipeline_lib.runtime.types import Json

ROI_VERSION = 228  # of the format of ImageJ 1.53; sub-pixel rectangles exist since 223


def write_rois(path: str | Path, sections: Iterable[tuple[str, int, SectionBoxes]]) -> None:
    """Write boxes as rectangles for the ROI Manager of ImageJ and Fiji (zip), completely or not at all.

    A rectangle has sub-pixel edges, in single precision, and the position of its section, from 1. Its name is
    that position, its number in the section, its class and its score: `0003-0017 cell 0.912`.

    Parameters
    ----------
    path : str or Path
        File to write, whose name ends with `.zip`.
    sections : iterable of (str, int, SectionBoxes)
        Name of the volume, number of the section (from 0), and its boxes.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.

    Examples
    --------
    >>> import tempfile, zipfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from pipeline_lib.imageio.boxes import SectionBoxes, write_rois
    >>> boxes = SectionBoxes(np.array([[2.0, 0, 6, 3]]), ["cell"], np.array([False]), np.array([0.9]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "rois.zip")
    ...     write_rois(path, [("a", 2, boxes)])
    ...     zipfile.ZipFile(path).namelist()
    ['0003-0001 cell 0.900.roi']
    """
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for _, section, found in sections:
            for number, (name, x0, y0, x1, y1, score) in enumerate(rows_of(found), 1):
                shown = "" if math.isnan(score) else f" {score:.3f}"
                label = f"{section + 1:04}-{number:04} {name}{shown}"
                roi = ImagejRoi(
                    version=ROI_VERSION,
                    roitype=ROI_TYPE.RECT,
                    options=ROI_OPTIONS.SUB_PIXEL_RESOLUTION,
                    name=label,
                    position=section + 1,
                    left=math.floor(x0),  # whole pixels, for programs that do not read the edges below
                    top=math.floor(y0),
                    right=math.ceil(x1),
                    bottom=math.ceil(y1),
                    xd=x0,
                    yd=y0,
                    widthd=x1 - x0,
                    heightd=y1 - y0,
                )
                # ImageJ shows the name of the entry. Without a date, equal boxes give equal bytes.
                entry = zipfile.ZipInfo(label.replace("/", "_") + ".roi")
                archive.writestr(entry, roi.tobytes(), zipfile.ZIP_DEFLATED)


def write_geojson(
    path: str | Path, sections: Iterable[tuple[str, int, SectionBoxes]], *, frames: bool = False
) -> None:
    """Write boxes as detections for QuPath (GeoJSON), completely or not at all.

    Each box is a polygon with a classification, the measurement `score`, and its section as the plane z.

    Parameters
    ----------
    path : str or Path
        File to write, whose name ends with `.geojson`.
    sections : iterable of (str, int, SectionBoxes)
        Name of the volume, number of the section (from 0), and its boxes.
    frames : bool, default False
        Whether sections are the frames of a time series, so that their plane is t.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from pipeline_lib.imageio.boxes import SectionBoxes, write_geojson
    >>> boxes = SectionBoxes(np.array([[2.0, 0, 6, 3]]), ["cell"], np.array([False]), np.array([0.9]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "cells.geojson")
    ...     write_geojson(path, [("a", 0, boxes)])
    ...     (feature,) = json.loads(path.read_text())["features"]
    >>> feature["geometry"]["coordinates"]
    [[[0.0, 2.0], [3.0, 2.0], [3.0, 6.0], [0.0, 6.0], [0.0, 2.0]]]
    """
    features = (
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]],
                # an addition of QuPath; -1 means all channels
                "plane": {"c": -1, "z": 0, "t": 0} | {"t" if frames else "z": section},
            },
            "properties": {
                "objectType": "detection",
                "classification": {"name": name},
                "measurements": {} if math.isnan(score) else {"score": score},
            },
        }
        for _, section, found in sections
        for name, x0, y0, x1, y1, score in rows_of(found)
    )
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        write_items(file, features)
        file.write("]}\n")


def write_coco(
    path: str | Path,
    sections: Iterable[tuple[str, int, SectionBoxes]],
    *,
    shape: Sequence[int],
    classes: Sequence[str],
    provenance: Json,
) -> None:
    """Write boxes as a data set of COCO (JSON), completely or not at all.

    The boxes are annotations with a `score`, as in COCO's lists of results. `read_boxes` reads the file.

    Parameters
    ----------
    path : str or Path
        File to write, whose name ends with `.json`.
    sections : iterable of (str, int, SectionBoxes)
        Name of the volume, number of the section (from 0), and its boxes. Each section becomes an image, also
        without boxes. Its name is that of the volume and, if there are several sections, the number of the
        section: `VOLUME_0000.tif`. Its id is the number of the section + 1.
    shape : sequence of int
        Shape of the volume, (z, y, x).
    classes : sequence of str
        Names of all classes of objects. Their ids are 1, 2, ...
    provenance : dict
        Record of how the file is made, for the key of this name.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from pipeline_lib.imageio.boxes import SectionBoxes, read_boxes, write_coco
    >>> boxes = SectionBoxes(np.array([[2.0, 0, 6, 3]]), ["cell"], np.array([False]), np.array([0.9]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "coco.json")
    ...     write_coco(path, [("a", 0, boxes)], shape=(1, 8, 9), classes=["cell"], provenance={})
    ...     read_boxes(path, ["a.tif"], (1, 8, 9)).sections[0].boxes
    array([[2., 0., 6., 3.]])
    """
    ids = {name: number for number, name in enumerate(classes, 1)}
    images = []

    def annotations() -> Iterator[Json]:
        count = 0
        for volume, section, found in sections:
            name = f"{volume}_{section:04}.tif" if shape[0] > 1 else f"{volume}.tif"
            images.append(
                {"id": section + 1, "file_name": name, "height": int(shape[1]), "width": int(shape[2])}
            )
            for kind, x0, y0, x1, y1, score in rows_of(found):
                count += 1
                yield {
                    "id": count,
                    "image_id": section + 1,
                    "category_id": ids[kind],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    **({} if math.isnan(score) else {"score": score}),
                }

    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"annotations": [')
        write_items(file, annotations())
        file.write('],\n"images": [')
        write_items(file, images)
        file.write('],\n"categories": [')
        write_items(file, ({"id": number, "name": name} for name, number in ids.items()))
        file.write(f'],\n"provenance": {json.dumps(provenance)}}}\n')


def write_items(file: TextIO, items: Iterable[Json]) -> None:
    """Write the items of a JSON list, one in each line."""
    for place, item in enumerate(items):
        file.write(f"{',' if place else ''}\n{json.dumps(item)}")
