"""Warping error: the truth is bent towards the prediction, its topology kept; what still differs is wrong.

Jain et al. 2010, "Boundary learning by optimization with topological constraints", as the ISBI 2012 challenge
computed it: foreground 4-connected, background 8-connected, outside of the image is membrane.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.components import padded_components, root
from pipeline_lib.kernels.sections import OUTSIDE, check_shapes, padded, section, sections_of, unpadded
from pipeline_lib.metrics.inputs import MapsChecked, as_probability, checked_thresholds

if TYPE_CHECKING:
    import pandas as pd

CHALLENGE_RADIUS = 20  # px; half window in which the challenge told a split from the opening of a loop


class Mismatch(IntEnum):
    """Kinds of residual mismatch; a pixel of the error map is 0 or one of these."""

    MERGER = 1
    SPLIT = 2
    HOLE_ADDITION = 4
    OBJECT_DELETION = 8
    OBJECT_ADDITION = 16
    HOLE_DELETION = 32


def _simple_points() -> np.ndarray:
    """Which of the 256 neighbourhoods make their centre simple: flipping it changes no component or hole.

    Bit k is the k-th pixel of the ring around the centre, even bits being its 4-neighbours. The centre is
    simple where one 4-component of the ring's foreground touches it (Yokoi et al. 1975).
    """
    ring = np.arange(256)[:, None] >> np.arange(8) & 1
    beside = ring[:, ::2]
    joined_to_next = beside & ring[:, 1::2] & np.roll(beside, -1, axis=1)
    return (beside - joined_to_next).sum(axis=1) == 1


SIMPLE = _simple_points()
ONE, TEN_BITS = np.uint32(0x3F800000), np.uint32(1023)  # the bits of 1.0 in float32; a digit of the sort
LEFT, READY, FLIPPED = 256, 512, 1024  # bits of a pixel's state beyond the eight of its neighbourhood


def warp(
    cells: np.ndarray, cell_probability: np.ndarray, threshold: float = 0.5, mask: np.ndarray | None = None
) -> np.ndarray:
    """The true cells, bent towards `cell_probability > threshold` one simple point at a time.

    cells: (z, y, x) or (y, x), non-zero = cell. cell_probability: same shape, 0..1. mask: same shape,
    non-zero where pixels may change; the challenge used none. Returns uint8 0/1 of the same shape with as
    many components and holes as `cells`. Pixels change in the order of |probability - threshold|, the surest
    first, ties by columns.
    """
    warped_cells = np.empty(cells.shape, np.uint8)
    for z, warped, _ in _warped_sections(cells, cell_probability, threshold, mask):
        section(warped_cells, z)[...] = unpadded(warped)
    return warped_cells


def error_map(
    cells: np.ndarray,
    cell_probability: np.ndarray,
    threshold: float = 0.5,
    mask: np.ndarray | None = None,
    radius: int = CHALLENGE_RADIUS,
) -> np.ndarray:
    """Where the warped truth still differs from the prediction, and how.

    Returns uint8 of the same shape, 0 or a `Mismatch`. Arguments as in `warp`. radius (px): predicted
    membrane inside a warped cell is a split where it separates parts of the cell within a window of 2 radius
    + 1 px, else the opening of a loop (hole deletion); below 1 or beyond the section: the whole section.
    Cells are the components of the warped truth, also where all of a section is cell, for which the reference
    forgets them.
    """
    errors = np.empty(cells.shape, np.uint8)
    for z, codes in enumerate(error_maps(cells, cell_probability, threshold, mask, radius)):
        section(errors, z)[...] = codes
    return errors


def error_maps(
    cells: np.ndarray,
    cell_probability: np.ndarray,
    threshold: float = 0.5,
    mask: np.ndarray | None = None,
    radius: int = CHALLENGE_RADIUS,
) -> Iterator[np.ndarray]:
    """The `error_map` of each section (y, x), one after the other, none of them held."""
    for _, warped, remaining in _warped_sections(cells, cell_probability, threshold, mask):
        yield unpadded(classify(warped, remaining, radius))


def warping_error(
    cells: np.ndarray, cell_probability: np.ndarray, threshold: float = 0.5, mask: np.ndarray | None = None
) -> float:
    """Residual mismatches of the warped truth / pixels; arguments as in `warp`."""
    return np.count_nonzero(error_map(cells, cell_probability, threshold, mask)) / cells.size


def splits_mergers_error(
    cells: np.ndarray, cell_probability: np.ndarray, threshold: float = 0.5, mask: np.ndarray | None = None
) -> float:
    """Residual mismatches that are splits or mergers / pixels; arguments as in `warp`.

    0 for a map that is all membrane, to which every cell is warped as a single pixel: read it beside other
    scores.
    """
    errors = error_map(cells, cell_probability, threshold, mask)
    return np.count_nonzero((errors == Mismatch.SPLIT) | (errors == Mismatch.MERGER)) / cells.size


def error_regions(errors: np.ndarray, cell_probability: np.ndarray, threshold: float = 0.5) -> pd.DataFrame:
    """The errors in an `error_map`, touching pixels of one kind being one error, largest first.

    errors, cell_probability, threshold: the map and what it was made of. Returns columns section, kind (name
    of the `Mismatch` in lower case), pixels, y, x (px, centre). As in the reference mergers, and holes added
    by predicted membrane, hang together across corners, the other kinds along edges.
    """
    import pandas as pd  # 0.25 s and
    from scipy import ndimage  # 0.15 s; most stages need a metric and neither of them

    check_shapes(errors=errors, cell_probability=cell_probability)
    regions = []
    for z, codes in enumerate(sections_of(errors)):
        membrane = np.less_equal(as_probability(section(cell_probability, z)), np.float64(threshold))
        for kind in Mismatch:
            for side in (membrane, ~membrane):
                corners = kind is Mismatch.MERGER or (kind is Mismatch.HOLE_ADDITION and side is membrane)
                labels, _ = ndimage.label((codes == kind) & side, np.ones((3, 3)) if corners else None)
                y, x = np.nonzero(labels)
                pixels = pd.DataFrame({"region": labels[y, x], "pixels": 1, "y": y, "x": x})
                found = pixels.groupby("region").agg({"pixels": "sum", "y": "mean", "x": "mean"})
                regions.append(found.assign(section=z, kind=kind.name.lower()))
    columns = ["section", "kind", "pixels", "y", "x"]
    table = pd.concat(regions)[columns]
    return table.sort_values("pixels", ascending=False, kind="stable", ignore_index=True)


def _warped_sections(cells, cell_probability, threshold, mask):
    """Index, padded warped truth and residual mismatches of each section."""
    (threshold,) = checked_thresholds([threshold])
    check = MapsChecked(cells, cell_probability, **({} if mask is None else {"mask": mask}))
    for z, truth in enumerate(sections_of(cells)):
        probability = section(cell_probability, z)
        check(z, truth, probability)
        warped, probability = padded(truth != 0, np.uint8), padded(as_probability(probability), np.float32)
        yield z, warped, warp_section(warped, probability, threshold, allowed(mask, z))
    check.finish()


def allowed(mask: np.ndarray | None, z: int) -> np.ndarray:
    """Padded 0/1 map of the pixels that may change in section `z`; empty where all may."""
    return np.empty((0, 0), np.uint8) if mask is None else padded(section(mask, z) != 0, np.uint8)


def warp_section(
    warped: np.ndarray, probability: np.ndarray, threshold: float, mask: np.ndarray
) -> np.ndarray:
    """Warp the padded truth in place; returns the flat indices (int32) of the residual mismatches."""
    return _warp(warped, *_mismatches(warped, probability, threshold, mask))


@compiled
def _mismatches(warped, probability, threshold, mask):
    """State of every pixel, and flat indices of the mismatches by descending |probability - threshold|.

    The state of a mismatch is LEFT and the code of its neighbourhood, that of other pixels 0. Ties keep the
    scan order: a radix sort by the distances' bits, which ascend as floats in 0..1 do and stay below 2^30, in
    three digits of ten bits, the lowest one while scanning.
    """
    rows, columns = warped.shape
    everywhere = mask.size == 0
    state = np.zeros(warped.shape, np.uint16)
    places = np.zeros((3, 1025), np.int32)
    distance = np.empty(1, np.float32)
    bits = distance.view(np.uint32)
    for x in range(1, rows - 1):
        for y in range(1, columns - 1):
            p = np.float64(probability[x, y])
            if (warped[x, y] != 0) != (p > threshold) and (everywhere or mask[x, y]):
                state[x, y] = LEFT
                distance[0] = abs(p - threshold)
                key = ONE - bits[0]
                for digit in range(3):
                    places[digit, (key >> np.uint32(10 * digit) & TEN_BITS) + 1] += 1
    for digit in range(3):
        for bucket in range(1024):
            places[digit, bucket + 1] += places[digit, bucket]
    count = places[0, 1024]
    pixels, keys = np.empty(count, np.int32), np.empty(count, np.uint32)
    for x in range(1, rows - 1):
        for y in range(1, columns - 1):
            if state[x, y]:
                state[x, y] |= (
                    warped[x, y + 1]
                    | warped[x + 1, y + 1] << 1
                    | warped[x + 1, y] << 2
                    | warped[x + 1, y - 1] << 3
                    | warped[x, y - 1] << 4
                    | warped[x - 1, y - 1] << 5
                    | warped[x - 1, y] << 6
                    | warped[x - 1, y + 1] << 7
                )
                distance[0] = abs(np.float64(probability[x, y]) - threshold)
                key = ONE - bits[0]
                place = places[0, key & TEN_BITS]
                places[0, key & TEN_BITS] += 1
                pixels[place] = x * columns + y
                keys[place] = key
    other_pixels, digits = np.empty(count, np.int32), np.empty(count, np.uint16)
    for index in range(count):
        bucket = keys[index] >> np.uint32(10) & TEN_BITS
        place = places[1, bucket]
        places[1, bucket] += 1
        other_pixels[place] = pixels[index]
        digits[place] = keys[index] >> np.uint32(20)
    for index in range(count):
        place = places[2, digits[index]]
        places[2, digits[index]] += 1
        pixels[place] = other_pixels[index]
    return state, pixels


@compiled
def _warp(warped, state, order):
    """Flip the pixels of `order` where simple, pass after pass, until none is; returns the others in order.

    A pixel that was not simple when a pass met it can only become so when a neighbour flips. So a flip
    updates the state of its eight neighbours, and a pass visits only those that are `ready`.
    """
    columns = warped.shape[1]
    ring = (1, columns + 1, columns, columns - 1, -1, -columns - 1, -columns, -columns + 1)
    state = state.ravel()
    rank_of = np.empty(state.size, np.int32)
    ready_by_eight = np.zeros(order.size // 8 + 1, np.uint64)
    ready = ready_by_eight.view(np.bool_)
    ahead = 0
    for rank in range(order.size):
        pixel = order[rank]
        rank_of[pixel] = rank
        if SIMPLE[state[pixel] & 255]:
            state[pixel] |= READY
            ready[rank] = True
            ahead += 1
    rank = 0
    behind = 0
    lowest_behind = order.size
    flips = 0
    while ahead + behind > 0:
        if ahead == 0:  # the next pass starts where it first finds something
            rank = lowest_behind
            ahead = behind
            behind = 0
            lowest_behind = order.size
        while not ready[rank]:  # terminates: one ahead is ready
            rank += 1
            while rank & 7 == 0 and ready_by_eight[rank >> 3] == 0:
                rank += 8
        ready[rank] = False
        ahead -= 1
        pixel = order[rank]
        if not SIMPLE[state[pixel] & 255]:
            state[pixel] &= ~READY
            continue
        state[pixel] = FLIPPED
        flips += 1
        for k in range(8):
            neighbour = pixel + ring[k]
            changed = state[neighbour] ^ (1 << ((k + 4) & 7))
            if changed & (LEFT | READY) == LEFT and SIMPLE[changed & 255]:
                changed |= READY
                other = rank_of[neighbour]
                ready[other] = True
                if other > rank:
                    ahead += 1
                else:
                    behind += 1
                    lowest_behind = min(lowest_behind, other)
            state[neighbour] = changed
    flat = warped.ravel()
    remaining = np.empty(order.size - flips, np.int32)
    found = 0
    for pixel in order:
        if state[pixel] & FLIPPED:
            flat[pixel] ^= 1
        else:
            remaining[found] = pixel
            found += 1
    return remaining


def classify(warped: np.ndarray, remaining: np.ndarray, radius: int) -> np.ndarray:
    """Codes (uint8, see `Mismatch`) of the residual mismatches of a padded section, 0 elsewhere."""
    rows, columns = warped.shape
    if not 1 <= radius <= min(rows, columns) - 2:
        radius = max(rows, columns)
    codes = np.zeros(warped.shape, np.uint8)
    _classify(warped, padded_components(warped), *_background_components(warped), remaining, radius, codes)
    return codes


@compiled
def _classify(warped, labels, background, parent, remaining, radius, codes):
    columns = warped.shape[1]
    flat = warped.ravel()
    label = labels.ravel()
    background = background.ravel()
    code = codes.ravel()
    ring = (1, columns + 1, columns, columns - 1, -1, -columns - 1, -columns, -columns + 1)
    visited = np.zeros(flat.size, np.uint8)
    queue = np.empty(min(flat.size, (2 * radius + 1) ** 2), np.int32)
    for pixel in remaining:
        first = second = OUTSIDE
        distinct = 0
        for step in ring:
            other = label[pixel + step]
            if other == OUTSIDE or (distinct > 0 and other == first) or (distinct > 1 and other == second):
                continue
            if distinct == 0:
                first = other
            elif distinct == 1:
                second = other
            distinct += 1
        white = flat[pixel] != 0
        if distinct < 2 and first <= 0:
            code[pixel] = Mismatch.OBJECT_DELETION if white else Mismatch.OBJECT_ADDITION
        elif distinct < 2:
            code[pixel] = Mismatch.HOLE_ADDITION if white else Mismatch.HOLE_DELETION
        elif not white:
            code[pixel] = Mismatch.HOLE_ADDITION if distinct == 2 else Mismatch.MERGER
        elif (
            distinct > 2
            or _cuts(flat, pixel, ring, background, parent)
            or _separates(flat, columns, pixel, radius, ring, visited, queue)
        ):
            code[pixel] = Mismatch.SPLIT
        else:
            code[pixel] = Mismatch.HOLE_DELETION


@compiled
def _background_components(cells):
    """Labels (int32) of the 8-components of the background and outside, and the forest that joins them."""
    rows, columns = cells.shape
    labels = np.ones(cells.shape, np.int32)
    parent = np.arange(2 + cells.size // 4, dtype=np.int32)  # new at every second pixel of a row at most
    used = 1
    for x in range(1, rows):
        for y in range(1, columns - 1):
            if cells[x, y]:
                continue
            if not cells[x - 1, y]:  # touches all the others
                labels[x, y] = labels[x - 1, y]
                continue
            before = after = 0
            if not cells[x, y - 1]:
                before = labels[x, y - 1]
            elif not cells[x - 1, y - 1]:
                before = labels[x - 1, y - 1]
            if not cells[x - 1, y + 1]:
                after = labels[x - 1, y + 1]
            if before and after:
                parent[root(parent, after)] = root(parent, before)
            elif not before and not after:
                used += 1
                before = used
            labels[x, y] = before if before else after
    return labels, parent


@compiled
def _cuts(flat, pixel, ring, background, parent):
    """Whether the component of the white `pixel` falls apart in the whole section once it is black.

    It does where the same background reaches the pixel between two pairs of its white 4-neighbours: a quick
    answer that spares most floods, for what is apart in the section is apart in every window.
    """
    start = -1
    for k in range(0, 8, 2):
        if flat[pixel + ring[k]]:
            start = k
    if start < 0:
        return False
    gaps = np.zeros(4, np.int32)
    found = 0
    gap = 0
    for k in range(start + 1, start + 9):
        neighbour = pixel + ring[k & 7]
        if not flat[neighbour]:
            gap = root(parent, background[neighbour])
        elif k & 1 == 0 and gap:
            if (gaps == gap).any():
                return True
            gaps[found] = gap
            found += 1
            gap = 0
    return False


@compiled
def _separates(flat, columns, pixel, radius, ring, visited, queue):
    """Whether the white neighbours of `pixel` fall apart within the window once `pixel` is black.

    Floods from all of them at once, joining floods that meet, until one is left or one has nowhere to go.
    Marks in `visited` (all 0 before and after) name the neighbour a flood started from.
    """
    parent = np.arange(9)
    waiting = np.zeros(9, np.int64)
    x, y = pixel // columns, pixel % columns
    tail = 0
    for step in ring:
        if flat[pixel + step]:
            queue[tail] = pixel + step
            tail += 1
            visited[pixel + step] = tail
            waiting[tail] = 1
    floods = tail
    head = 0
    apart = False
    while floods > 1 and not apart:
        current = queue[head]
        head += 1
        own = root(parent, visited[current])
        for step in (1, columns, -1, -columns):
            other = current + step
            if flat[other] == 0 or other == pixel:
                continue
            if abs(other // columns - x) > radius or abs(other % columns - y) > radius:
                continue
            if visited[other] == 0:
                visited[other] = own
                waiting[own] += 1
                queue[tail] = other
                tail += 1
                continue
            met = root(parent, visited[other])
            if met != own:
                parent[met] = own
                waiting[own] += waiting[met]
                floods -= 1
        waiting[own] -= 1
        apart = waiting[own] == 0
    for index in range(tail):
        visited[queue[index]] = 0
    return apart and floods > 1
