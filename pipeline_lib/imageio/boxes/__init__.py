"""Boxes of objects: read from the files of other programs, and written as a table."""

from pipeline_lib.imageio.boxes.reading import BoxAnnotation, read_boxes
from pipeline_lib.imageio.boxes.source import COORDINATES
from pipeline_lib.imageio.boxes.writing import COLUMNS, SectionBoxes, write_detections

__all__ = ["COLUMNS", "COORDINATES", "BoxAnnotation", "SectionBoxes", "read_boxes", "write_detections"]
