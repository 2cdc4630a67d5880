"""Scores of a segmentation, compared with the truth.

`isbi_scores` returns all scores of a probability map, as in the ISBI 2012 challenge. `instance_scores`
returns all scores of instance labels. `error_map` shows where the errors are. The other functions are single
scores and the steps to compute them.

Arrays are (z, y, x) or (y, x). Numpy arrays, memory maps and HDF5 datasets are read one section at a time.
Nothing is connected across sections: an object is a label within one section.

The *reference* is the challenge's own software, Fiji's Trainable Segmentation. Where scores differ from it,
their documentation states so.

The page :doc:`/explanation/scores` explains with pictures what each score punishes and what it forgives.
"""

from pipeline_lib.kernels.components import connected_components
from pipeline_lib.metrics.calibration import Reliability, reliability
from pipeline_lib.metrics.causes import CAUSES_OF, Cause, SectionCauses, section_causes
from pipeline_lib.metrics.challenge import CHALLENGE_THRESHOLDS, challenge_summary, isbi_scores, summary_table
from pipeline_lib.metrics.classes import class_confusion, class_scores
from pipeline_lib.metrics.contingency import ContingencyTable, Foreground, contingency_tables
from pipeline_lib.metrics.detection import (
    BOX_COUNTS,
    BOX_IOU_THRESHOLDS,
    COUNT_ERRORS,
    DETECTION_METRICS,
    FROC_RATES,
    BoxMatches,
    DetectionCurve,
    boxes_of_instances,
    count_errors,
    detection_scores,
    pooled_matches,
)
from pipeline_lib.metrics.information import v_info, vi_merge, vi_split
from pipeline_lib.metrics.instances import (
    CELL_COUNTS,
    INSTANCE_METRICS,
    IOU_THRESHOLDS,
    average_precision,
    dice,
    instance_scores,
    iou,
    panoptic_quality,
    seg,
)
from pipeline_lib.metrics.matching import match_boxes
from pipeline_lib.metrics.mismatches import (
    Mismatch,
    error_map,
    error_maps,
    error_regions,
    splits_mergers_error,
)
from pipeline_lib.metrics.pixel import constant_pixels, pixel_error
from pipeline_lib.metrics.rand import adapted_rand_error, rand_error, v_rand
from pipeline_lib.metrics.repairs import CAUSE_COLUMNS, error_causes
from pipeline_lib.metrics.thinning import thin_borders
from pipeline_lib.metrics.warping import warp, warping_error

__all__ = [
    "BOX_COUNTS",
    "BOX_IOU_THRESHOLDS",
    "CAUSES_OF",
    "CAUSE_COLUMNS",
    "CELL_COUNTS",
    "CHALLENGE_THRESHOLDS",
    "COUNT_ERRORS",
    "DETECTION_METRICS",
    "FROC_RATES",
    "INSTANCE_METRICS",
    "IOU_THRESHOLDS",
    "BoxMatches",
    "Cause",
    "ContingencyTable",
    "DetectionCurve",
    "Foreground",
    "Mismatch",
    "Reliability",
    "SectionCauses",
    "adapted_rand_error",
    "average_precision",
    "boxes_of_instances",
    "challenge_summary",
    "class_confusion",
    "class_scores",
    "connected_components",
    "constant_pixels",
    "contingency_tables",
    "count_errors",
    "detection_scores",
    "dice",
    "error_causes",
    "error_map",
    "error_maps",
    "error_regions",
    "instance_scores",
    "iou",
    "isbi_scores",
    "match_boxes",
    "panoptic_quality",
    "pixel_error",
    "pooled_matches",
    "rand_error",
    "reliability",
    "section_causes",
    "seg",
    "splits_mergers_error",
    "summary_table",
    "thin_borders",
    "v_info",
    "v_rand",
    "vi_merge",
    "vi_split",
    "warp",
    "warping_error",
]
