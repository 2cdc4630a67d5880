"""The scores as pages explain them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """A score as pages explain it.

    Parameters
    ----------
    metric : str
        Its name in the table of scores.
    name : str
        Its name on a page.
    more_is_better : bool
        Whether higher values are better.
    meaning : str
        Short explanation of what it measures.
    """

    metric: str
    name: str
    more_is_better: bool
    meaning: str

    @property
    def direction(self) -> str:
        """Whether higher or lower values are better, in words."""
        return "higher is better" if self.more_is_better else "lower is better"


# Scores of detections, `metrics.detection_scores`
BOX_SCORES = (
    Score(
        "box_ap_50",
        "Box AP at 0.5",
        True,
        "area under the precision over the recall; the boxes must overlap with an IoU of at least 0.5",
    ),
    Score("box_ap_75", "Box AP at 0.75", True, "the same at an IoU of at least 0.75: are the boxes exact?"),
    Score("box_ap", "Box AP", True, "mean over required overlaps (IoU) of 0.5 to 0.95"),
    Score("box_precision", "Box precision", True, "fraction of the detections that are true"),
    Score("box_recall", "Box recall", True, "fraction of the annotated objects that are found"),
    Score("box_f1", "Box F1", True, "2 true detections / (all detections + all annotated objects)"),
    Score(
        "count_error",
        "Count error",
        False,
        "difference between the numbers of detections and of annotated objects, mean over the sections",
    ),
    Score(
        "count_error_relative",
        "Relative count error",
        False,
        "the same, as a fraction of the annotated objects of the section",
    ),
)

# Scores of instance labels, `metrics.INSTANCE_METRICS`
INSTANCE_SCORES = (
    Score(
        "seg",
        "SEG",
        True,
        "overlap (IoU) of each true cell with the segment that covers more than half of it, mean over cells",
    ),
    Score(
        "average_precision",
        "Average precision",
        True,
        "matched cells / all true and predicted cells, mean over required overlaps (IoU) of 0.5 to 0.95",
    ),
    Score("average_precision_50", "Average precision at 0.5", True, "the same at a required overlap of 0.5"),
    Score("panoptic_quality", "Panoptic quality", True, "matched cells, weighted by their overlap"),
    Score("iou", "IoU", True, "overlap of all predicted cells together with all true cells together"),
    Score("dice", "Dice", True, "F-score of the pixels inside predicted cells"),
)

# A useless prediction can have few splits and mergers, so the scores before and after must be read with them.
SCORES = (
    Score("rand_error", "Rand error", False, "pairs of pixels that are wrongly separated or wrongly joined"),
    Score(
        "v_rand_thin",
        "V-Rand after thinning",
        True,
        "pairs of pixels that are correctly separated or joined; the thickness of membranes is ignored",
    ),
    Score(
        "v_info_thin",
        "V-Info after thinning",
        True,
        "information shared by true and predicted cells; the thickness of membranes is ignored",
    ),
    Score("vi_split", "VI split", False, "true cells broken into pieces (nats)"),
    Score("vi_merge", "VI merge", False, "true cells merged with others (nats)"),
    Score("pixel_error", "Pixel error", False, "1 - F-score of the pixels inside cells"),
    Score(
        "warping_error",
        "Warping error",
        False,
        "fraction of pixels with an error of topology; a border that is slightly shifted does not count",
    ),
    Score(
        "splits_mergers_error",
        "Splits and mergers",
        False,
        "fraction of pixels that split a cell or merge two cells",
    ),
    Score(
        "brier_score",
        "Brier score",
        False,
        "mean squared difference between cell probability and truth (1 in cells); does not need a threshold",
    ),
    Score(
        "calibration_error",
        "Calibration error",
        False,
        "mean difference between cell probability and observed share of cells; does not need a threshold",
    ),
    *INSTANCE_SCORES,
    *(score for score in BOX_SCORES if score.metric in ("box_ap_50", "box_ap", "box_f1", "count_error")),
)
