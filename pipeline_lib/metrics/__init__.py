"""Scores of a segmentation, each defined in docs/metrics.md.

`isbi_scores` scores a probability map as the ISBI 2012 challenge did, `instance_scores` labels against labels, `error_map`
shows where the errors are. The functions below them are the single scores and the steps they are made of.
"""

from pipeline_lib.metrics.challenge import CHALLENGE_THRESHOLDS, challenge_summary, isbi_scores
from pipeline_lib.metrics.components import connected_components
from pipeline_lib.metrics.contingency import ContingencyTable, contingency_table, contingency_tables
from pipeline_lib.metrics.instances import (
    IOU_THRESHOLDS,
    adapted_rand_error,
    average_precision,
    dice,
    instance_scores,
    iou,
    panoptic_quality,
    rand_error,
    seg,
    v_info,
    v_rand,
    vi_merge,
    vi_split,
)
from pipeline_lib.metrics.thinning import thin_borders
from pipeline_lib.metrics.warping import Mismatch, error_map, warp

__all__ = [
    "CHALLENGE_THRESHOLDS",
    "IOU_THRESHOLDS",
    "ContingencyTable",
    "Mismatch",
    "adapted_rand_error",
    "average_precision",
    "challenge_summary",
    "connected_components",
    "contingency_table",
    "contingency_tables",
    "dice",
    "error_map",
    "instance_scores",
    "iou",
    "isbi_scores",
    "panoptic_quality",
    "rand_error",
    "seg",
    "thin_borders",
    "v_info",
    "v_rand",
    "vi_merge",
    "vi_split",
    "warp",
]
