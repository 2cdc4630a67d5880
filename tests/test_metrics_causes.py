"""Each cause is found where it was drawn, every wrong pixel has one cause, and repairs give the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline_lib import metrics
from pipeline_lib.data.labels import cells_apart, separation_border
from pipeline_lib.kernels.components import equal_components
from pipeline_lib.metrics import CAUSES_OF, Cause, error_causes, section_causes
from pipeline_lib.metrics.repairs import AS_FOUND, REPAIRED_SCORES
from pipeline_lib.metrics.thinning import thin_labels
from pipeline_lib.runtime.errors import InputError

CELL, GAP, CELLS = 14, 4, 4
GRAY = {True: 200, False: 60}
shapes = st.tuples(st.integers(1, 7), st.integers(1, 8))
sections = shapes.flatmap(
    lambda shape: st.tuples(*[arrays(np.uint8, shape, elements=st.integers(0, 3))] * 2, st.integers(0, 99))
)


def corner(number):
    """Return row and column of the first pixel of a cell, 1..16."""
    return tuple(3 + (CELL + GAP) * place for place in divmod(number - 1, CELLS))


def cell(number, grow=0):
    """Return a window with a cell, which is larger by `grow` px on each side."""
    y, x = corner(number)
    return np.s_[y - grow : y + CELL + grow, x - grow : x + CELL + grow]


@pytest.fixture
def drawn():
    """Sixteen bright squares with gaps of 4 px, found perfectly: image, truth and found labels."""
    side = 2 * 3 + CELLS * CELL + (CELLS - 1) * GAP
    labels = np.zeros((side, side), np.int32)
    for number in range(1, 17):
        labels[cell(number)] = number
    return labels_to_gray(labels), labels, labels.copy()


def labels_to_gray(labels):
    return np.where(labels > 0, GRAY[True], GRAY[False]).astype(np.float32)


def causes_of(raw, labels, found, **arguments):
    """Return the number of errors of each cause, by name; causes without errors are left out."""
    causes = section_causes(raw, labels, found, **arguments)
    return {cause.name.lower(): number for cause, number in causes.cells.items() if number}


def gap(first, second):
    """Return the window between two neighbouring cells of one row."""
    (y, x), (_, right) = corner(first), corner(second)
    return np.s_[y : y + CELL, x + CELL : right]


def join(found, first, second):
    found[gap(first, second)] = first
    found[found == second] = first


class TestDrawnErrors:
    def test_a_perfect_segmentation_has_no_errors(self, drawn):
        assert causes_of(*drawn) == {}

    def test_other_labels_are_no_error(self, drawn):
        raw, labels, _ = drawn
        names = np.random.default_rng(0).permutation(np.arange(1, 200))[:17]
        names[0] = 0
        assert causes_of(raw, labels, names[labels]) == {}

    def test_cells_that_touch_in_the_annotation(self, drawn):
        raw, labels, found = drawn
        y, x = corner(6)
        labels[y : y + CELL, x + CELL : x + CELL + GAP] = 6
        found[y : y + CELL, x : x + 2 * CELL + GAP] = 6
        raw[gap(6, 7)] = GRAY[True]
        assert causes_of(raw, labels, found) == {"merged_touching": 1}

    def test_thin_separation(self, drawn):
        raw, labels, found = drawn
        y, x = corner(6)
        labels[y : y + CELL, x + CELL : x + CELL + 3] = 6  # 1 px is left
        raw[...] = labels_to_gray(labels)
        found[labels == 6] = 6
        join(found, 6, 7)
        assert causes_of(raw, labels, found) == {"merged_thin": 1}

    def test_faint_separation(self, drawn):
        raw, labels, found = drawn
        raw[gap(6, 7)] = GRAY[True] - 20
        join(found, 6, 7)
        assert causes_of(raw, labels, found) == {"merged_faint": 1}

    def test_faint_separation_of_dark_cells(self, drawn):
        raw, labels, found = drawn
        raw[gap(6, 7)] = GRAY[True] - 20
        join(found, 6, 7)
        assert causes_of(255 - raw, labels, found) == {"merged_faint": 1}

    def test_separation_like_all_others(self, drawn):
        raw, labels, found = drawn
        join(found, 6, 7)
        assert causes_of(raw, labels, found) == {"merged_other": 1}

    def test_three_cells_that_are_joined_are_two_errors(self, drawn):
        raw, labels, found = drawn
        y, x = corner(8)
        labels[y + CELL : y + CELL + 2, x : x + CELL] = 8  # the largest of the three stays
        found[labels == 8] = 8
        raw[...] = labels_to_gray(labels)
        raw[gap(6, 7)] = GRAY[True] - 20
        found[gap(6, 7)] = found[gap(7, 8)] = 8  # the second separation is like all others
        found[(found == 6) | (found == 7)] = 8
        assert causes_of(raw, labels, found) == {"merged_faint": 1, "merged_other": 1}

    def test_cut_at_a_neck(self, drawn):
        raw, labels, found = drawn
        y, x = corner(6)
        labels[gap(6, 7)] = 0
        labels[y + 6 : y + 8, x + CELL : x + CELL + GAP] = 6  # 2 px wide, joins 6 and 7 to one cell
        labels[labels == 7] = 6
        raw[...] = labels_to_gray(labels)
        assert causes_of(raw, labels, found) == {"split_neck": 1}

    def test_cut_along_a_dark_structure(self, drawn):
        raw, labels, found = drawn
        y, x = corner(6)
        found[y : y + CELL, x + 6 : x + 8] = 0
        found[y : y + CELL, x + 8 : x + CELL] = 99
        raw[y : y + CELL, x + 5 : x + 9] = GRAY[False]
        assert causes_of(raw, labels, found) == {"split_structure": 1}

    def test_cut_without_a_reason_in_the_image(self, drawn):
        raw, labels, found = drawn
        y, x = corner(6)
        found[y : y + CELL, x + 7 :][:, : CELL - 7] = 99  # the pieces touch
        assert causes_of(raw, labels, found) == {"split_other": 1}

    def test_missed_at_the_edge(self, drawn):
        raw, labels, found = drawn
        labels[:10, :17] = 1
        raw[...] = labels_to_gray(labels)
        found[found == 1] = 0
        assert causes_of(raw, labels, found) == {"missed_edge": 1}

    def test_missed_at_pixels_that_are_not_annotated(self, drawn):
        raw, labels, found = drawn
        ignored = np.zeros(labels.shape, bool)
        ignored[cell(6)[0], cell(6)[1].start : cell(6)[1].start + 2] = True
        found[found == 6] = 0
        assert causes_of(raw, labels, found, ignored=ignored) == {"missed_edge": 1}

    def test_missed_because_dim(self, drawn):
        raw, labels, found = drawn
        raw[labels == 6] = GRAY[False] + 20
        found[found == 6] = 0
        assert causes_of(raw, labels, found) == {"missed_dim": 1}

    def test_missed_because_small(self, drawn):
        raw, labels, found = drawn
        y, x = corner(6)
        labels[labels == 6] = 0
        labels[y : y + 3, x : x + 3] = 6
        raw[...] = labels_to_gray(labels)
        found[found == 6] = 0
        assert causes_of(raw, labels, found) == {"missed_small": 1}

    def test_missed_like_all_others(self, drawn):
        raw, labels, found = drawn
        found[found == 6] = 0
        assert causes_of(raw, labels, found) == {"missed_other": 1}

    @pytest.mark.parametrize("bright", [True, False])
    def test_false_cell(self, drawn, bright):
        raw, labels, found = drawn
        labels[labels == 6] = 0
        raw[cell(6)] = GRAY[bright]
        expected = "false_like_cell" if bright else "false_other"
        assert causes_of(raw, labels, found) == {expected: 1}

    def test_border_that_is_not_given_back(self, drawn):
        raw, labels, found = drawn
        labels[gap(6, 7)] = 6
        border = separation_border(labels, 2)
        found[labels == 6] = 6
        found[border] = 0
        assert causes_of(raw, labels, found, border=border) == {"outline_border": 2}
        assert causes_of(raw, labels, found) == {"outline_rim_missing": 2}

    @pytest.mark.parametrize(
        ("grow", "expected"),
        [
            (-1, {"outline_rim_missing": 1}),
            (-2, {"outline_rim_missing": 1, "outline_deep_missing": 1}),
            (1, {"outline_rim_extra": 1}),
            (2, {"outline_rim_extra": 1, "outline_deep_extra": 1}),
        ],
    )
    def test_outline(self, drawn, grow, expected):
        raw, labels, found = drawn
        found[found == 6] = 0
        found[cell(6, grow)] = 6
        assert causes_of(raw, labels, found) == expected

    def test_a_hole_is_not_a_rim(self, drawn):
        raw, labels, found = drawn
        y, x = corner(6)
        found[y + 4 : y + 8, x + 4 : x + 8] = 0
        assert causes_of(raw, labels, found) == {"outline_deep_missing": 1}

    @pytest.mark.parametrize("dim", [True, False])
    def test_few_cells_are_neither_dim_nor_small(self, drawn, dim):
        raw, labels, found = drawn
        labels[labels > 3] = 0
        if dim:
            raw[labels == 3] = GRAY[False] + 20
        else:
            labels[cell(3)][5:] = 0
        found[found > 2] = 0
        assert causes_of(raw, labels, found) == {"missed_other": 1}

    def test_an_image_that_shows_nothing_gives_no_reasons(self, drawn):
        raw, labels, found = drawn
        join(found, 6, 7)
        found[cell(11)][:, 7:] = 99
        found[found == 9] = 0
        labels[labels == 16] = 0
        expected = dict.fromkeys(["merged_other", "split_other", "missed_other", "false_other"], 1)
        assert causes_of(np.ones_like(raw), labels, found) == expected

    def test_a_cut_is_compared_with_the_cell_that_it_cuts(self, drawn):
        """A dim cell whose cut is not darker than the cell, although it is darker than most cells."""
        raw, labels, found = drawn
        raw[cell(6)] = GRAY[False] + 40
        found[cell(6)][:, 7:] = 99
        assert causes_of(raw, labels, found) == {"split_other": 1}

    def test_gray_levels_that_are_not_annotated_are_not_used(self, drawn):
        raw, labels, found = drawn
        raw[gap(6, 7)] = GRAY[True] - 20
        join(found, 6, 7)
        ignored = np.zeros(labels.shape, bool)
        for first in (1, 5, 9, 13):  # one row in the middle of each gap
            ignored[gap(first, first + 1)][7] = True
        ignored[gap(6, 7)][[0, 7]] = True
        raw[ignored] = -100_000
        assert causes_of(raw, labels, found, ignored=ignored) == {"merged_faint": 1}

    def test_wide_gaps_are_no_separations(self, drawn):
        """The gaps are 12 px wide, so there is nothing to compare the faint one with."""
        raw, _, found = drawn
        raw[gap(6, 7)] = GRAY[True] - 20
        join(found, 6, 7)
        large = (np.kron(array, np.ones((3, 3), array.dtype)) for array in drawn)
        assert causes_of(*large) == {"merged_other": 1}

    def test_touching_cells_are_no_thin_separations(self, drawn):
        """Many cells touch and are kept apart. They do not decide about what is thin."""
        raw, labels, found = drawn
        for first in (1, 2, 3, 9, 10, 11, 13, 14, 15):
            labels[gap(first, first + 1)] = first
        labels[gap(6, 7)][:, :3] = 6
        found[...] = labels
        raw[...] = labels_to_gray(labels)
        join(found, 6, 7)
        assert causes_of(raw, labels, found) == {"merged_thin": 1}

    def test_channels_are_averaged(self, drawn):
        raw, labels, found = drawn
        raw[labels == 6] = GRAY[False] + 20
        found[found == 6] = 0
        two = np.stack([raw + 50, raw - 50])
        assert causes_of(two, labels, found) == {"missed_dim": 1}

    def test_examples_are_where_cells_were_joined_and_cut(self, drawn):
        raw, labels, found = drawn
        join(found, 6, 7)
        y, x = corner(11)
        found[y : y + CELL, x + 6 : x + 8] = 0
        found[y : y + CELL, x + 8 : x + CELL] = 99
        found[found == 1] = 0
        examples = section_causes(raw, labels, found).examples
        merged, split = examples[Cause.MERGED_OTHER], examples[Cause.SPLIT_OTHER]
        rows, columns = gap(6, 7)
        assert rows.start <= merged.y < rows.stop and columns.start <= merged.x < columns.stop
        assert merged.pixels == CELL * (CELL + GAP)  # the cell and the way to it
        assert y <= split.y < y + CELL and x + 6 <= split.x < x + 8
        assert split.pixels == CELL * 8
        missed, middle = examples[Cause.MISSED_OTHER], 3 + (CELL - 1) / 2
        assert (missed.y, missed.x) == (pytest.approx(middle, abs=0.5),) * 2
        assert (missed.pixels, missed.box) == (CELL * CELL, (3, 3, 3 + CELL, 3 + CELL))


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_repair_of_a_split_closes_the_cut(drawn, axes, turned):
    """V-Rand counts 4-connected areas, so the cut must be closed, too."""
    _, _, found = drawn
    found[cell(6)][:, 6:9] = 0
    found[cell(6)][:, 9:] = 99
    raw, labels, found = (np.flip(array.T if turned else array, axes) for array in drawn)
    table = error_causes(raw, labels, found, labels > 0).set_index("cause")
    assert table.v_rand_thin[AS_FOUND] < table.v_rand_thin["split"] == 1
    assert table.seg["split_other"] == 1


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_repair_of_a_merger_opens_the_gap(drawn, axes, turned):
    join(drawn[2], 6, 7)
    raw, labels, found = (np.flip(array.T if turned else array, axes) for array in drawn)
    table = error_causes(raw, labels, found, labels > 0).set_index("cause")
    for score in ("v_rand_thin", "seg", "average_precision"):
        assert table[score][AS_FOUND] < table[score]["merged"] == 1
    assert table.rand_error[AS_FOUND] > table.rand_error["merged"] == 0


def test_a_cause_is_repaired_alone(drawn):
    raw, labels, found = drawn
    join(found, 6, 7)
    found[found == 1] = 0
    table = error_causes(raw, labels, found, labels > 0).set_index("cause")
    assert table.cells[AS_FOUND] == 2 and table.pixels[AS_FOUND] == CELL * (CELL + GAP) + CELL * CELL
    # of 16 cells, the repair leaves the other error
    assert table.seg["missed"] == pytest.approx((14 + 2 * CELL / (2 * CELL + GAP)) / 16)
    assert table.seg["merged"] == pytest.approx(15 / 16)
    assert table.seg["split"] == table.seg[AS_FOUND]


def matches(labels, found):
    """Return the matched and all linked pairs of labels, one cell at a time."""
    true, predicted = ([v for v in np.unique(a).tolist() if v] for a in (labels, found))
    shared = {(t, p): int(((labels == t) & (found == p)).sum()) for t in true for p in predicted}
    linked = {
        pair: number
        for pair, number in shared.items()
        if number and 2 * number >= min((labels == pair[0]).sum(), (found == pair[1]).sum())
    }

    def partner(label, side):
        other = found if side == 0 else labels

        def rank(pair):  # most shared pixels, then the smallest partner
            return linked[pair], -(other == pair[1 - side]).sum(), -pair[1 - side]

        return max((pair for pair in linked if pair[side] == label), key=rank, default=None)

    best_of_true, best_of_found = {t: partner(t, 0) for t in true}, {p: partner(p, 1) for p in predicted}
    mutual = {pair for pair in best_of_true.values() if pair and best_of_found[pair[1]] == pair}
    return mutual, linked


@given(sections)
def test_every_wrong_pixel_has_one_cause_and_every_unmatched_cell_is_one_error(case):
    labels, found, seed = case
    raw = np.random.default_rng(seed).random(labels.shape)
    causes = section_causes(raw, labels, found)
    mutual, linked = matches(labels, found)
    right = (labels == 0) & (found == 0)
    for t, p in mutual:
        right |= (labels == t) & (found == p)
    np.testing.assert_array_equal(causes.codes == 0, right)

    number = {kind: sum(causes.cells[cause] for cause in own) for kind, own in CAUSES_OF.items()}
    true, predicted = ({*np.unique(a[a > 0]).tolist()} for a in (labels, found))
    unmatched = true - {t for t, _ in mutual}
    assert number["merged"] == len(unmatched & {t for t, _ in linked})
    assert number["missed"] == len(unmatched - {t for t, _ in linked})
    unmatched = predicted - {p for _, p in mutual}
    assert number["split"] == len(unmatched & {p for _, p in linked})
    assert number["false"] == len(unmatched - {p for _, p in linked})
    for cause in Cause:
        pixels = int((causes.codes == cause).sum())
        assert (cause in causes.examples) == (pixels > 0) <= (causes.cells[cause] > 0)
        assert pixels == 0 or 0 < causes.examples[cause].pixels <= pixels
        single = [error for error in causes.errors if error.cause == cause]
        if cause.kind != "outline":
            assert sum(error.pixels for error in single) == pixels
            assert len(single) <= causes.cells[cause]
            assert causes.examples.get(cause) in (single or [None])
        for y0, x0, y1, x1 in (error.box for error in single):
            inside = causes.codes[y0:y1, x0:x1] == cause
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))

    # the pixels of cells without a match belong to errors of cells, and those of outlines to none
    kinds = np.array(["", *(cause.kind for cause in Cause)])[causes.codes]
    for t in true - {t for t, _ in mutual}:
        assert {*kinds[labels == t]} == {"merged" if t in {a for a, _ in linked} else "missed"}
    y, x = np.nonzero(kinds == "outline")
    for i, j in zip(y, x, strict=True):
        assert not labels[i, j] or labels[i, j] in {a for a, _ in mutual}
        around = labels[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        depth = "RIM" if (around != labels[i, j]).any() else "DEEP"
        side = "MISSING" if labels[i, j] else "EXTRA"
        assert causes.codes[i, j] == Cause[f"OUTLINE_{depth}_{side}"]


@given(sections)
def test_matches_contain_those_of_the_report(case):
    """The table `Cells` of the report counts pairs with an IoU of at least one half."""
    labels, found, _ = case
    mutual, _ = matches(labels, found)

    def iou(t, p):
        return ((labels == t) & (found == p)).sum() / ((labels == t) | (found == p)).sum()

    scores = metrics.instance_scores(labels, found)
    assert sum(iou(*pair) >= 0.5 for pair in mutual) == scores["cells_matched"]


@given(sections)
def test_repairing_all_causes_gives_the_truth(case):
    labels, found, seed = case
    raw = np.random.default_rng(seed).random(labels.shape)
    causes = section_causes(raw, labels, found)
    np.testing.assert_array_equal(causes.repaired([*Cause]), causes.truth)
    np.testing.assert_array_equal(causes.repaired([]), causes.matched)
    assert metrics.average_precision(labels, causes.repaired([*Cause])) == 1 or not labels.any()


@given(sections)
def test_the_scores_without_repair_are_those_of_the_segmentation(case):
    labels, found, seed = case
    border = separation_border(labels, 2)
    cells = cells_apart(labels, border)
    components = metrics.connected_components(cells)
    table = error_causes(
        np.random.default_rng(seed).random(labels.shape), labels, found, cells, border=border
    )
    at = table.set_index("cause")[[*REPAIRED_SCORES]].loc[AS_FOUND]
    instances = metrics.instance_scores(labels, found)
    assert at.seg == pytest.approx(instances["seg"], nan_ok=True)
    assert at.average_precision == pytest.approx(instances["average_precision"], nan_ok=True)
    assert at.v_rand_thin == metrics.v_rand(components, thin_labels(found))
    assert at.pixel_error == metrics.pixel_error(cells, found)
    if cells.any():
        assert at.rand_error == pytest.approx(metrics.rand_error(components, equal_components(found)))
    assert table.pixels[0] == table.pixels[table.cause.isin([*CAUSES_OF])].sum()
    assert table.cells[0] == table.cells[table.cause.isin({*CAUSES_OF} - {"outline"})].sum()
    for kind, own in CAUSES_OF.items():
        rows = table.set_index("cause")
        assert rows.pixels[kind] == sum(rows.pixels[cause.name.lower()] for cause in own)


@given(sections, st.integers(1, 3))
def test_ignoring_a_band_is_like_cropping(case, width):
    labels, found, seed = case
    rng = np.random.default_rng(seed)
    raw = rng.random(labels.shape)
    band = rng.integers(0, 3, (2, len(labels), width))
    wide, wide_found = (np.hstack([a, b]) for a, b in zip((labels, found), band, strict=True))
    ignored = np.zeros(wide.shape, bool)
    ignored[:, labels.shape[1] :] = True
    cropped = section_causes(raw, labels, found)
    whole = section_causes(np.hstack([raw, rng.random((len(raw), width))]), wide, wide_found, ignored=ignored)
    np.testing.assert_array_equal(whole.codes[:, : labels.shape[1]], cropped.codes)
    assert not whole.codes[ignored].any()
    assert (whole.cells, whole.examples) == (cropped.cells, cropped.examples)


@given(sections, st.integers(1, 5))
def test_what_is_known_in_a_part_holds_in_the_whole_section(case, width):
    labels, found, seed = case
    raw = np.random.default_rng(seed).random(labels.shape)
    outside = [np.setdiff1d(array[:, width:], 0) for array in (labels, found)]
    whole = section_causes(raw, labels, found)
    part = section_causes(raw[:, :width], labels[:, :width], found[:, :width], incomplete=outside)
    number = {kind: sum(part.cells[cause] for cause in own) for kind, own in CAUSES_OF.items()}
    for links, all_links, kinds in (
        (part.true_links, whole.true_links, ("merged", "missed")),
        (part.found_links, whole.found_links, ("split", "false")),
    ):
        place = np.searchsorted(all_links.label, links.label[links.known])
        np.testing.assert_array_equal(links.match[links.known], all_links.match[place])
        np.testing.assert_array_equal(links.part_of[links.known], all_links.part_of[place])
        alone = links.known & (links.match == 0)
        assert number[kinds[0]] == np.count_nonzero(alone & (links.part_of > 0))
        assert number[kinds[1]] == np.count_nonzero(alone & (links.part_of == 0))
    unknown = part.true_links.label[~part.true_links.known & (part.true_links.match == 0)]
    assert not part.codes[np.isin(labels[:, :width], unknown)].any()


def test_an_error_is_not_known_if_a_cell_that_decides_about_it_is_incomplete(drawn):
    """Of two merged cells the first one matches, and of the two parts of a split cell the larger one."""
    raw, labels, found = drawn
    merged, split = found.copy(), found.copy()
    join(merged, 6, 7)
    split[cell(6)][:, 7:] = 99
    for own, cause, deciding in (
        (merged, "merged_other", [([6], []), ([7], []), ([], [6])]),
        (split, "split_other", [([], [6]), ([], [99]), ([6], [])]),
    ):
        assert causes_of(raw, labels, own) == {cause: 1}
        for incomplete in deciding:
            assert causes_of(raw, labels, own, incomplete=incomplete) == {}
        assert causes_of(raw, labels, own, incomplete=([5, 10], [5, 10])) == {cause: 1}


@pytest.mark.parametrize("ignored", [None, np.s_[:3]])
def test_large_labels_are_those_of_incomplete_cells_and_links(drawn, ignored):
    raw, labels, found = drawn
    found = np.where(found == 7, 0, found)
    mask = None if ignored is None else np.zeros(labels.shape, bool)
    if mask is not None:
        mask[ignored] = True
    step = 10**10
    small, large = (
        section_causes(
            raw,
            labels.astype(np.int64) * factor,
            found.astype(np.int64) * factor,
            ignored=mask,
            incomplete=(np.array([7, 5]) * factor, np.array([3]) * factor),
        )
        for factor in (1, step)
    )
    assert small.cells == large.cells and not sum(small.cells.values())
    for own, other in ((small.true_links, large.true_links), (small.found_links, large.found_links)):
        for name in ("label", "match", "part_of"):
            np.testing.assert_array_equal(getattr(own, name).astype(np.int64) * step, getattr(other, name))
        np.testing.assert_array_equal(own.known, other.known)
    np.testing.assert_array_equal(small.truth, large.truth)


def test_sections_are_pooled_and_ignored_ones_left_out(drawn):
    raw, labels, found = drawn
    other = found.copy()
    join(other, 6, 7)
    found[found == 1] = 0
    stacks = [np.stack([a, b, a]) for a, b in ((raw, raw), (labels, labels), (found, other))]
    ignore = np.zeros(stacks[0].shape, np.uint8)
    ignore[2] = 1
    table = error_causes(*stacks, stacks[1] > 0, ignore=ignore).set_index("cause")
    single = [error_causes(raw, labels, own, labels > 0).set_index("cause") for own in (found, other)]
    assert table.cells.tolist() == (single[0].cells + single[1].cells).tolist()
    for score in ("seg", "v_rand_thin"):
        expected = (single[0][score] + single[1][score]) / 2
        assert table[score].tolist() == pytest.approx(expected.tolist())
    assert table.section["missed_other"] == 0 and table.section["merged_other"] == 1
    assert table.section.notna().sum() == 2
    found[cell(16)][3:5, 3:5] = other[cell(16)][3:9, 3:9] = other[cell(11)][3:6, 3:6] = 0
    table = error_causes(stacks[0][:2], stacks[1][:2], np.stack([found, other]), stacks[1][:2] > 0)
    deep = table.set_index("cause").loc["outline_deep_missing"]
    assert (deep.cells, deep.pixels) == (3, 4 + 36 + 9)
    assert (deep.section, deep.y, deep.x) == (1, *(place + 6 for place in corner(16)))  # the largest
    everything = error_causes(*stacks, stacks[1] > 0, ignore=np.ones_like(ignore))
    assert everything.cells.sum() == 0 and everything[[*REPAIRED_SCORES]].isna().all(axis=None)


@pytest.mark.parametrize("value", [0, 1])
def test_sections_without_cells_or_without_background(value):
    labels = np.full((5, 6), value)
    for found in (np.zeros_like(labels), np.ones_like(labels)):
        table = error_causes(np.ones(labels.shape), labels, found, labels > 0).set_index("cause")
        assert table.cells[AS_FOUND] == (value != found.max())
        assert table.pixels[AS_FOUND] == 30 * (value != found.max())


def test_cells_with_several_causes_of_outlines_count_once(drawn):
    raw, labels, found = drawn
    for number in (6, 11):
        found[cell(number)] = 0
        found[cell(number, -2)] = number
    table = error_causes(raw, labels, found, labels > 0).set_index("cause")
    assert table.cells["outline_rim_missing"] == table.cells["outline_deep_missing"] == 2
    assert table.cells["outline"] == 2 and table.cells[AS_FOUND] == 0


def test_shapes_must_be_equal():
    with pytest.raises(InputError, match="shapes differ"):
        section_causes(np.ones((4, 4)), np.ones((4, 5), int), np.ones((4, 5), int))


@pytest.mark.parametrize("weight", [(1, 1), (3, -1)])
def test_channels_of_a_single_section_are_those_of_a_stack(drawn, weight):
    raw, labels, found = drawn
    raw[cell(6)], found[cell(6)] = GRAY[False] + 10, 0
    image = np.stack([factor * raw for factor in weight])
    stack = error_causes(image[:, None], labels[None], found[None], labels[None] > 0)
    assert stack.set_index("cause").cells["missed_dim"] == 1
    assert error_causes(image, labels, found, labels > 0).equals(stack)


@pytest.mark.parametrize(("number", "expected"), [(3, "missed_other"), (4, "missed_dim")])
def test_four_cells_are_enough_to_call_one_dim(drawn, number, expected):
    raw, labels, found = drawn
    labels[labels > number] = 0
    raw = labels_to_gray(labels)
    raw[cell(1)] = GRAY[False] + 10
    found = np.where(labels == 1, 0, labels)
    assert causes_of(raw, labels, found) == {expected: 1}


def test_the_smallest_of_four_cells_is_small(drawn):
    _, labels, _ = drawn
    labels[labels > 4] = 0
    y, x = corner(1)
    labels[y + 5 : y + CELL, x : x + CELL] = 0
    assert causes_of(labels_to_gray(labels), labels, np.where(labels == 1, 0, labels)) == {"missed_small": 1}


def test_the_repair_of_a_kind_repairs_all_of_its_causes(drawn):
    raw, labels, found = drawn
    raw[cell(6)] = GRAY[False] + 10
    found[np.isin(found, [6, 11])] = 0
    table = error_causes(raw, labels, found, labels > 0).set_index("cause")
    assert table.cells[["missed", "missed_dim", "missed_other"]].to_list() == [2, 1, 1]
    assert table.seg[["as_found", "missed", "missed_dim", "missed_other"]].to_list() == pytest.approx(
        [14 / 16, 1, 15 / 16, 15 / 16]
    )


def test_a_section_with_channels_is_their_mean(drawn):
    """Only the second channel shows that the cell differs from the others."""
    raw, labels, found = drawn
    found[found == 6] = 0
    dim = np.where(labels == 6, 2 * GRAY[False] - GRAY[True] + 20, raw)
    assert causes_of(np.stack([raw, dim]), labels, found) == {"missed_dim": 1}


def test_a_cut_of_a_little_more_than_half_of_the_diameter_is_no_neck(drawn):
    _, labels, found = drawn
    y, x = corner(6)
    labels[gap(6, 7)] = 0
    labels[y + 3 : y + 11, x + CELL : x + CELL + GAP] = 6  # 8 px; cells of 14 x 14 px have a diameter of 15.8
    labels[labels == 7] = 6
    assert causes_of(labels_to_gray(labels), labels, found) == {"split_other": 1}


def test_areas_of_a_cell_that_do_not_touch_are_cut_at_no_neck(drawn):
    raw, labels, found = drawn
    labels[labels == 7] = 6
    assert causes_of(raw, labels, found) == {"split_other": 1}


@pytest.mark.parametrize("side", range(4))
def test_missed_at_each_edge(drawn, side):
    _, labels, found = drawn
    labels[:9, 3:17] = 1
    found[found == 1] = 0
    labels, found = np.rot90(labels, side), np.rot90(found, side)
    assert causes_of(labels_to_gray(labels), labels, found) == {"missed_edge": 1}


def test_border_that_belongs_to_another_cell_is_a_rim(drawn):
    raw, labels, found = drawn
    y, x = corner(6)
    edge = np.s_[y : y + CELL, x + CELL - 1]
    border = np.zeros(labels.shape, bool)
    border[edge], found[edge] = True, 7
    assert causes_of(raw, labels, found, border=border) == {"outline_rim_missing": 1}


def test_the_example_of_a_cause_is_the_largest_error(drawn):
    raw, labels, found = drawn
    rows, columns = gap(6, 7)
    found[rows.start, columns.start + 1] = 98
    found[rows.start + 6 : rows.start + 8, columns.start + 1 : columns.start + 3] = 99
    causes = section_causes(raw, labels, found)
    assert causes.cells[Cause.FALSE_OTHER] == 2 and causes.examples[Cause.FALSE_OTHER].pixels == 4


def test_a_structure_is_compared_with_the_part_of_the_cell_that_was_found(drawn):
    """The structure is so wide that the mean of the whole cell is near it."""
    raw, labels, found = drawn
    y, x = corner(6)
    raw[y : y + CELL, x + 3 : x + 11], found[y : y + CELL, x + 3 : x + 11] = GRAY[False], 0
    found[y : y + CELL, x + 11 : x + CELL] = 99
    assert causes_of(raw, labels, found)["split_structure"] == 1


def test_an_example_is_at_the_narrowest_place_where_cells_were_joined(drawn):
    _, labels, found = drawn
    y, x = corner(6)
    narrow = np.s_[y + 5 : y + 7, x + CELL : x + CELL + 2]
    labels[narrow] = found[narrow] = 6
    join(found, 6, 7)
    (error,) = section_causes(labels_to_gray(labels), labels, found).errors
    assert error.cause.kind == "merged" and y + 5 <= error.y < y + 7
