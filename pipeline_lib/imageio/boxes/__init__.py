"""Boxes of objects: read from the files of other programs, and written as tables and for other programs."""

from pipeline_lib.imageio.boxes.exporting import write_coco, write_geojson, write_rois
from pipeline_lib.imageio.boxes.pairs import box_files, read_pair, read_predicted
from pipeline_lib.imageio.boxes.reading import BoxAnnotation, are_boxes, number_within_volume, read_boxes
from pipeline_lib.imageio.boxes.source import COORDINATES
from pipeline_lib.imageio.boxes.writing import (
    COLUMNS,
    COUNT_COLUMNS,
    EXPORTS,
    SectionBoxes,
    write_counts,
    write_detections,
)

__all__ = [
    "COLUMNS",
    "COORDINATES",
    "COUNT_COLUMNS",
    "EXPORTS",
    "BoxAnnotation",
    "SectionBoxes",
    "are_boxes",
    "box_files",
    "number_within_volume",
    "read_boxes",
    "read_pair",
    "read_predicted",
    "write_coco",
    "write_counts",
    "write_detections",
    "write_geojson",
    "write_rois",
]
