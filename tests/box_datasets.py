"""Boxes of drawn objects, as `build_dataset` writes them."""

import numpy as np

from pipeline_lib import layout
from pipeline_lib.data.boxes import objects_of
from pipeline_lib.tasks.detection.truth import box_writer


def add_boxes(file, labels, minimum_size=0, kinds=None, cells=("cell",)):
    """Add the boxes of labels (z, y, x) to a dataset file; `kinds` are the classes of the labels 1..n."""
    if layout.RAW.name not in file:
        layout.add(file, layout.RAW, (1, *labels.shape), np.uint8)
    append = box_writer(file, cells)
    for z in range(len(labels)):
        objects = objects_of(labels, z, file.get(layout.IGNORE.name))
        kind = np.ones(len(objects.label)) if kinds is None else np.asarray(kinds)[objects.label - 1]
        append(z, objects.boxes, kind.astype(np.uint8), objects.pixels < minimum_size)
