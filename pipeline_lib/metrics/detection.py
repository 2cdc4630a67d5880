"""Scores of detections: boxes with a class and a score, compared with true boxes.

The detections of each section are matched once with its true boxes (`match_boxes`). The matches of several
sections are pooled (`pooled_matches`), and all scores follow from them. A score is NaN if there is nothing to
count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline_lib.kernels.boxes import Boxes
from pipeline_lib.kernels.sections import count_sections, section
from pipeline_lib.metrics.contingency import as_labels
from pipeline_lib.metrics.inputs import MapChecker
from pipeline_lib.runtime.types import Stored

#: IoU thresholds of `box_ap`: those of COCO, 0.5, 0.55, ..., 0.95, to the last digit.
BOX_IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
#: False detections per section at which FROC takes the sensitivity.
FROC_RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
#: Scores of detections in which higher is better, in the order of `detection_scores`.
DETECTION_METRICS = (
    "box_ap",
    "box_ap_50",
    "box_ap_75",
    "voc_ap_2007",
    "voc_ap_2010",
    "froc",
    "box_f1",
    "box_precision",
    "box_recall",
)
#: Errors of the number of detections per section that `detection_scores` returns.
COUNT_ERRORS = (
    "count_error",
    "count_error_relative",
    "count_difference",
    "count_limit_low",
    "count_limit_high",
)
#: Numbers of boxes that `detection_scores` returns: true, detected, and matched at an IoU of 0.5.
BOX_COUNTS = ("boxes_annotated", "boxes_found", "boxes_matched")

FALSE, TRUE, LEFT_OUT = 0, 1, -1  # what becomes of a detection
AT_50 = BOX_IOU_THRESHOLDS.index(0.5)
AT_75 = BOX_IOU_THRESHOLDS.index(0.75)
# 0.3, 0.6 and 0.7 are larger by rounding, as in the usual programs: a recall of 3/5 does not reach 0.6.
_ELEVEN = np.linspace(0, 1, 11)
_HUNDRED_AND_ONE = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class DetectionCurve:
    """Numbers of true and false detections at all score thresholds, at an IoU of 0.5.

    A detection is kept if its score is at least the threshold. The first threshold is infinite: nothing is
    kept. All others are scores of detections, so detections with equal scores are kept together.

    Parameters
    ----------
    threshold : (c,) array of float64
        Score thresholds, descending.
    matched : (c,) array of int64
        Number of kept detections that match a true object.
    false : (c,) array of int64
        Number of kept detections that match none.
    n_truth : int
        Number of true objects.
    n_sections : int
        Number of sections.

    Examples
    --------
    The first and third of four detections are true.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import match_boxes
    >>> truth = np.array([[0.0, 0, 4, 4], [0, 9, 4, 13]])
    >>> found = np.array([[0.0, 0, 4, 4], [20, 20, 24, 24], [0, 9, 4, 13], [30, 30, 34, 34]])
    >>> curve = match_boxes(truth, found, np.array([0.9, 0.8, 0.7, 0.6])).curve()
    >>> curve.recall, curve.precision.round(2)
    (array([0. , 0.5, 0.5, 1. , 1. ]), array([ nan, 1.  , 0.5 , 0.67, 0.5 ]))
    >>> curve.best_f1()
    (0.7, 0.8)
    >>> curve.false_per_section, curve.sensitivity([0.5, 1])
    (array([0., 0., 1., 1., 2.]), array([0.5, 1. ]))
    """

    threshold: npt.NDArray[np.float64]
    matched: npt.NDArray[np.int64]
    false: npt.NDArray[np.int64]
    n_truth: int
    n_sections: int

    @property
    def precision(self) -> npt.NDArray[np.float64]:
        """Fraction of the kept detections that are true; NaN where nothing is kept."""
        return _ratios(self.matched, self.matched + self.false)

    @property
    def recall(self) -> npt.NDArray[np.float64]:
        """Fraction of the true objects that are found: the sensitivity."""
        return _ratios(self.matched, self.n_truth)

    @property
    def f1(self) -> npt.NDArray[np.float64]:
        """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN)."""
        return _ratios(2 * self.matched, self.matched + self.false + self.n_truth)

    @property
    def false_per_section(self) -> npt.NDArray[np.float64]:
        """Mean number of false detections in a section: with `recall`, the FROC curve."""
        return _ratios(self.false, self.n_sections)

    def at(self, threshold: float) -> int:
        """Return the place in the arrays that holds the numbers at any score threshold.

        Parameters
        ----------
        threshold : float
            Smallest score of a detection that is kept.

        Returns
        -------
        int
            Index into the arrays of this curve.
        """
        return int(np.searchsorted(-self.threshold, -threshold, side="right")) - 1

    def best_f1(self) -> tuple[float, float]:
        """Return the score threshold with the best F1, the highest of several, and this F1.

        Returns
        -------
        threshold : float
            Score threshold; infinite if no detection is true.
        f1 : float
            F1 at this threshold, 0 to 1 (best). NaN without true objects.
        """
        best = int(np.argmax(np.nan_to_num(self.f1)))
        return float(self.threshold[best]), float(self.f1[best])

    def sensitivity(self, rates: Sequence[float] = FROC_RATES) -> npt.NDArray[np.float64]:
        """Return the fraction of true objects that are found at given rates of false detections.

        Parameters
        ----------
        rates : sequence of float, optional
            Mean numbers of false detections per section that are allowed.

        Returns
        -------
        array of float64
            For each rate, the recall at the lowest score threshold that keeps at most as many false
            detections. NaN without true objects.
        """
        places = np.searchsorted(self.false_per_section, rates, side="right") - 1
        return self.recall[places]


@dataclass(frozen=True)
class BoxMatches:
    """Detections of one or more sections, and what each becomes when it is matched with the true boxes.

    A detection is true (1), false (0) or left out (-1). It is left out if it matches an ignored object, or if
    it matches none and is itself outside the range of sizes or the annotated area. `match_boxes` describes
    the rules.

    Parameters
    ----------
    section : (m,) array of int64
        Number of the section of each detection.
    label : (m,) array of int64
        Class of each detection.
    score : (m,) array of float64
        Score of each detection.
    partner : (m,) array of int64
        Number of the true box, in its section, that each detection matches at an IoU of 0.5; -1 = none. The
        box can be an ignored one.
    coco : (r, t, m) array of int8
        Outcome of each detection by COCO's rule for each range of sizes and each of the
        `BOX_IOU_THRESHOLDS`. The first range contains all sizes.
    pascal : (r, m) array of int8
        Outcome of each detection by the rule of Pascal VOC at an IoU of 0.5, for each range of sizes.
    truth : (z, r, k) array of int64
        Number of true objects that count, for each section, range of sizes and class.
    """

    section: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    score: npt.NDArray[np.float64]
    partner: npt.NDArray[np.int64]
    coco: npt.NDArray[np.int8]
    pascal: npt.NDArray[np.int8]
    truth: npt.NDArray[np.int64]

    def of_class(self, number: int) -> BoxMatches:
        """Return the matches of one class, from which its scores follow.

        Parameters
        ----------
        number : int
            Number of the class.

        Returns
        -------
        BoxMatches
            The detections and numbers of this class.
        """
        own = self.label == number
        return BoxMatches(
            self.section[own],
            np.zeros(np.count_nonzero(own), np.int64),
            self.score[own],
            self.partner[own],
            self.coco[:, :, own],
            self.pascal[:, own],
            self.truth[:, :, [number]],
        )

    def of_size(self, number: int) -> BoxMatches:
        """Return the matches of one range of sizes, from which its scores follow.

        Parameters
        ----------
        number : int
            Number of the range in the argument `sizes` of `match_boxes`, from 0.

        Returns
        -------
        BoxMatches
            The outcomes and numbers in this range.
        """
        place = [number + 1]
        return replace(self, coco=self.coco[place], pascal=self.pascal[place], truth=self.truth[:, place])

    def average_precision(self) -> npt.NDArray[np.float64]:
        """Return the average precision of COCO at each IoU threshold.

        The precision is taken at 101 values of the recall, 0 to 1. At each, it is the best precision with at
        least this recall, or 0. The number of detections is not limited.

        Returns
        -------
        (t,) array of float64
            Average precision, 0 to 1 (best), at each of the `BOX_IOU_THRESHOLDS`: the mean over the classes
            that have true objects, NaN if none has.
        """
        score = partial(_precision_at, _HUNDRED_AND_ONE)
        return np.array([self._mean_over_classes(outcome, score) for outcome in self.coco[0]])

    def voc_average_precision(self) -> tuple[float, float]:
        """Return the average precision of Pascal VOC at an IoU of 0.5, as in 2007 and as since 2010.

        Returns
        -------
        voc_2007 : float
            Mean of the precision at 11 values of the recall, 0, 0.1, ..., 1. At each, it is the best
            precision with at least this recall, or 0. As in the usual programs, the values are multiples of
            0.1 in floating point, and a recall of exactly 0.3, 0.6 or 0.7 does not reach its value.
        voc_2010 : float
            Area under the curve of this precision over the recall. Both are the mean over the classes that
            have true objects, 0 to 1 (best), NaN if none has.
        """
        eleven = self._mean_over_classes(self.pascal[0], partial(_precision_at, _ELEVEN))
        return eleven, self._mean_over_classes(self.pascal[0], _area_under)

    def curve(self) -> DetectionCurve:
        """Return the numbers of true and false detections at all score thresholds, of all classes together.

        Returns
        -------
        DetectionCurve
            Numbers, from which precision, recall, F1 and FROC follow.
        """
        order, ends = self._by_score()
        hits = np.append(0, np.cumsum(self.coco[0, AT_50, order] == TRUE))[ends]
        return DetectionCurve(
            np.append(np.inf, self.score[order])[ends],
            hits,
            ends - hits,
            int(self.truth[:, 0].sum()),
            len(self.truth),
        )

    def counts(self, threshold: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Count the true objects and the detections of each section.

        Parameters
        ----------
        threshold : float
            Smallest score of a detection that is counted.

        Returns
        -------
        truth : (z,) array of int64
            Number of true objects.
        found : (z,) array of int64
            Number of detections that are not left out at an IoU of 0.5.
        """
        kept = (self.coco[0, AT_50] != LEFT_OUT) & (self.score >= threshold)
        found = np.bincount(self.section[kept], minlength=len(self.truth))
        return self.truth[:, 0].sum(axis=1), found

    def best_count(self) -> tuple[float, float]:
        """Return the score threshold with the smallest error of the number of detections, and this error.

        Returns
        -------
        threshold : float
            Score threshold, the highest of several; infinite if it is best to keep nothing.
        error : float
            Mean absolute error of the number of detections per section.
        """
        order, ends = self._by_score()
        truth, sections = self.truth[:, 0].sum(axis=1), self.section[order]
        # A detection improves the number of its section as long as fewer are kept than there are objects.
        grouped = np.argsort(sections, kind="stable")
        before = np.empty(len(order), np.int64)
        before[grouped] = np.arange(len(order)) - np.searchsorted(sections[grouped], sections[grouped])
        change = np.where(before < truth[sections], -1, 1)
        errors = truth.sum() + np.append(0, np.cumsum(change))[ends]
        best = int(np.argmin(errors))
        threshold = np.append(np.inf, self.score[order])[ends[best]]
        return float(threshold), float(_ratios(errors[best], len(truth)))

    def _by_score(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the detections that are not left out, by descending score, and the possible numbers of kept.

        Detections with equal scores are kept together.
        """
        kept = np.flatnonzero(self.coco[0, AT_50] != LEFT_OUT)
        order = kept[np.argsort(-self.score[kept], kind="stable")]
        return order, np.append(0, np.flatnonzero(np.diff(self.score[order], append=-np.inf)) + 1)

    def _mean_over_classes(
        self, outcome: np.ndarray, score: Callable[[np.ndarray, np.ndarray], float]
    ) -> float:
        """Return the mean of a score of recall and precision over the classes that have true objects."""
        n_truth = self.truth[:, 0].sum(axis=0)
        values = []
        for number in np.flatnonzero(n_truth):
            kept = np.flatnonzero((self.label == number) & (outcome != LEFT_OUT))
            order = kept[np.argsort(-self.score[kept], kind="stable")]
            hits = np.cumsum(outcome[order] == TRUE)
            precision = hits / np.arange(1, len(hits) + 1)
            best = np.maximum.accumulate(precision[::-1])[::-1]  # precision at this or a higher recall
            values.append(score(hits / n_truth[number], best))
        return float(np.mean(values)) if values else float("nan")


def pooled_matches(sections: Sequence[BoxMatches]) -> BoxMatches:
    """Return the matches of all sections.

    Parameters
    ----------
    sections : sequence of BoxMatches
        Matches of one or more sections each, with the same classes and ranges of sizes.

    Returns
    -------
    BoxMatches
        The detections and numbers of all, in this order.

    Examples
    --------
    The detection of the first section is true, that of the second is false.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import match_boxes, pooled_matches
    >>> box, none = np.array([[0.0, 0, 4, 4]]), np.empty((0, 4))
    >>> sections = [match_boxes(box, box, [0.8]), match_boxes(none, box, [0.9])]
    >>> float(pooled_matches(sections).average_precision()[0])
    0.5
    """
    before = np.cumsum([0, *(len(part.truth) for part in sections)])
    numbers = [part.section + start for part, start in zip(sections, before, strict=False)]
    return BoxMatches(
        np.concatenate(numbers),
        np.concatenate([part.label for part in sections]),
        np.concatenate([part.score for part in sections]),
        np.concatenate([part.partner for part in sections]),
        np.concatenate([part.coco for part in sections], axis=2),
        np.concatenate([part.pascal for part in sections], axis=1),
        np.concatenate([part.truth for part in sections]),
    )


def detection_scores(matches: BoxMatches, threshold: float) -> dict[str, float]:
    """Return all scores of detections.

    Parameters
    ----------
    matches : BoxMatches
        Matches of all sections. `BoxMatches.of_class` and `BoxMatches.of_size` select a class and a range of
        sizes.
    threshold : float
        Smallest score of a detection that is kept, for `box_f1`, `box_precision`, `box_recall` and all
        numbers of boxes. The others do not depend on it. With NaN, all are kept.

    Returns
    -------
    dict of str to float
        The `DETECTION_METRICS`, where higher is better: `box_ap` (mean over the `BOX_IOU_THRESHOLDS`),
        `box_ap_50` and `box_ap_75` (see `BoxMatches.average_precision`), `voc_ap_2007` and `voc_ap_2010`
        (see `BoxMatches.voc_average_precision`), `froc` (mean of `DetectionCurve.sensitivity` at the
        `FROC_RATES`), and `box_f1`, `box_precision` and `box_recall` (see `DetectionCurve`, at an IoU of
        0.5). The `COUNT_ERRORS` are those of `count_errors`. The `BOX_COUNTS` are numbers of boxes in all
        sections.

        AP is the mean over classes. All others count the boxes of all classes together.

    Examples
    --------
    Four of five objects are found, with two false detections.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import detection_scores, match_boxes
    >>> places = np.arange(7)[:, None] * 10.0
    >>> boxes = np.hstack([places, places, places + 4, places + 4])
    >>> matches = match_boxes(boxes[:5], boxes[[0, 5, 1, 2, 6, 3]], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    >>> for name, value in detection_scores(matches, 0.6).items():
    ...     print(name, round(value, 3))
    box_ap 0.637
    box_ap_50 0.637
    box_ap_75 0.637
    voc_ap_2007 0.659
    voc_ap_2010 0.633
    froc 0.514
    box_f1 0.667
    box_precision 0.75
    box_recall 0.6
    count_error 1.0
    count_error_relative 0.2
    count_difference -1.0
    count_limit_low nan
    count_limit_high nan
    boxes_annotated 5.0
    boxes_found 4.0
    boxes_matched 3.0
    """
    ap, curve = matches.average_precision(), matches.curve()
    threshold = -math.inf if math.isnan(threshold) else threshold
    place = curve.at(threshold)
    quality = (
        ap.mean(),
        ap[AT_50],
        ap[AT_75],
        *matches.voc_average_precision(),
        curve.sensitivity().mean(),
        curve.f1[place],
        curve.precision[place],
        curve.recall[place],
    )
    matched, false = curve.matched[place], curve.false[place]
    return {
        **{name: float(value) for name, value in zip(DETECTION_METRICS, quality, strict=True)},
        **count_errors(*matches.counts(threshold)),
        **dict(zip(BOX_COUNTS, map(float, (curve.n_truth, matched + false, matched)), strict=True)),
    }


def count_errors(truth: npt.ArrayLike, found: npt.ArrayLike) -> dict[str, float]:
    """Return the errors of the numbers of objects per section.

    Parameters
    ----------
    truth : (z,) array_like of int
        Number of true objects of each section.
    found : (z,) array_like of int
        Number of objects that were found in each section.

    Returns
    -------
    dict of str to float
        The `COUNT_ERRORS`. `count_error` is the mean of abs(found - truth), `count_error_relative` the mean
        of abs(found - truth) / truth over the sections with true objects. `count_difference` is the mean of
        found - truth; `count_limit_low` and `count_limit_high` are the limits of agreement of Bland and
        Altman [1]_, 1.96 standard deviations (n - 1) below and above it. About 95 % of the differences lie
        between them. They are NaN for a single section, and all errors are NaN without sections.

    References
    ----------
    .. [1] J. M. Bland, D. G. Altman, "Statistical methods for assessing agreement between two methods of
       clinical measurement", The Lancet 327:307-310, 1986.

    Examples
    --------
    >>> from pipeline_lib.metrics import count_errors
    >>> {name: round(value, 2) for name, value in count_errors([10, 20, 0], [9, 22, 2]).items()}
    {'count_error': 1.67, 'count_error_relative': 0.1, 'count_difference': 1.0, \
'count_limit_low': -2.39, 'count_limit_high': 4.39}
    """
    true = np.asarray(truth, np.int64)
    difference = np.asarray(found, np.int64) - true
    relative = np.abs(difference[true > 0]) / true[true > 0]
    if not difference.size:
        return dict.fromkeys(COUNT_ERRORS, float("nan"))
    mean = float(difference.mean())
    limit = 1.96 * float(difference.std(ddof=1)) if difference.size > 1 else float("nan")
    values = (
        float(np.abs(difference).mean()),
        float(relative.mean()) if relative.size else float("nan"),
        mean,
        mean - limit,
        mean + limit,
    )
    return dict(zip(COUNT_ERRORS, values, strict=True))


def boxes_of_instances(
    labels: Stored, cell_probability: Stored | None = None
) -> list[tuple[Boxes, npt.NDArray[np.float64]]]:
    """Return the box and the score of each instance, so that any segmentation can be scored as detections.

    Parameters
    ----------
    labels : (z, y, x) or (y, x) array of int
        Instance labels, 0 = background. An instance is a label within one section.
    cell_probability : array, optional
        Probability map of the same shape, from which the instances were made: floats in 0..1, or uint8.

    Returns
    -------
    list of ((n, 4) array of float64, (n,) array of float64)
        For each section, the boxes (y0, x0, y1, x1) of its instances in ascending order of their labels (px),
        and their scores: the mean probability of the pixels of each, 1 without a probability map.

    Raises
    ------
    InputError
        If the shapes differ, a label is negative or not an integer, or a probability is outside 0..1.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.metrics import boxes_of_instances
    >>> labels = np.array([[0, 3, 3], [0, 3, 0], [7, 0, 0]])
    >>> probability = np.array([[0.1, 0.9, 0.8], [0.2, 0.7, 0.1], [0.6, 0.1, 0.3]])
    >>> ((boxes, scores),) = boxes_of_instances(labels, probability)
    >>> boxes, scores.round(3)
    (array([[0., 1., 2., 3.],
           [2., 0., 3., 1.]]), array([0.8, 0.6]))
    """
    check = None if cell_probability is None else MapChecker(labels, cell_probability)
    found = []
    for z in range(count_sections(labels)):
        instances = as_labels(section(labels, z), "labels")
        probability = None
        if check is not None and cell_probability is not None:
            probability = check(z, instances, section(cell_probability, z))[1]
        found.append(_boxes_of_section(instances, probability))
    return found


def _boxes_of_section(
    labels: np.ndarray, probability: np.ndarray | None
) -> tuple[Boxes, npt.NDArray[np.float64]]:
    """Return the boxes and scores of the instances of a section."""
    # Runs of equal pixels along the rows are far fewer than pixels.
    width = labels.shape[1]
    changes = np.ones(labels.shape, bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=changes[:, 1:])
    start = np.flatnonzero(changes)
    length = np.diff(start, append=labels.size)
    run = np.flatnonzero(labels.ravel()[start])
    _, number, count = np.unique(labels.ravel()[start[run]], return_inverse=True, return_counts=True)
    rows, columns = np.divmod(start[run], width)
    boxes = np.empty((len(count), 4))
    boxes[:, :2], boxes[:, 2:] = np.inf, -np.inf
    for edge, values in enumerate((rows, columns)):
        np.minimum.at(boxes[:, edge], number, values)
    for edge, values in enumerate((rows + 1, columns + length[run]), 2):
        np.maximum.at(boxes[:, edge], number, values)
    if probability is None:
        return boxes, np.ones(len(count))
    sums = np.add.reduceat(probability.ravel(), start, dtype=np.float64)[run]
    return boxes, np.bincount(number, sums) / np.bincount(number, length[run])


def _precision_at(levels: np.ndarray, recall: np.ndarray, precision: np.ndarray) -> float:
    """Return the mean of the precision at the first detection that reaches each recall; 0 if none does."""
    return float(np.append(precision, 0)[np.searchsorted(recall, levels)].mean())


def _area_under(recall: np.ndarray, precision: np.ndarray) -> float:
    """Return the area under the precision as a function of the recall."""
    return float((np.diff(recall, prepend=0) * precision).sum())


def _ratios(numerator: np.ndarray, denominator: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the ratios, NaN for 0 / 0."""
    with np.errstate(invalid="ignore"):
        return numerator / np.asarray(denominator, np.float64)
