"""Affinities: how probable it is that two pixels at a certain offset belong to the same cell.

This module imports neither torch nor numba.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Offsets

#: Offsets to neighbours. Their affinities join pixels, all others separate them.
NEIGHBOURS: Offsets = ((-1, 0), (0, -1))
#: Offsets that are learned by default: those within a section in the paper of the mutex watershed.
OFFSETS: Offsets = (
    *NEIGHBOURS,
    (-9, 0),
    (0, -9),
    (-9, -9),
    (9, -9),
    (-9, -4),
    (-4, -9),
    (4, -9),
    (9, -4),
    (-27, 0),
    (0, -27),
)


def chosen_offsets(setting: bool | Sequence[Sequence[int]] | None) -> Offsets:
    """Return the offsets that the setting `training.affinities` chooses.

    Parameters
    ----------
    setting : bool or sequence of (int, int), optional
        Offsets (rows, columns) in px, or True for `OFFSETS`. None and False mean that no affinities are
        learned.

    Returns
    -------
    tuple of (int, int)
        The offsets. Empty if no affinities are learned.

    Raises
    ------
    InputError
        If the offsets do not start with the two neighbours of a pixel, or two of them are the same or
        opposite.

    References
    ----------
    The default: [1]_, offsets for the ISBI 2012 data within a section.

    .. [1] S. Wolf, A. Bailoni, C. Pape, N. Rahaman, A. Kreshuk, U. Koethe, F. A. Hamprecht, "The Mutex
       Watershed and its objective: efficient, parameter-free graph partitioning", IEEE Transactions on
       Pattern Analysis and Machine Intelligence 43(10):3724-3738, 2021.

    Examples
    --------
    >>> from pipeline_lib.data.affinities import chosen_offsets
    >>> chosen_offsets([[-1, 0], [0, -1], [-5, 0], [0, -5]])
    ((-1, 0), (0, -1), (-5, 0), (0, -5))
    >>> len(chosen_offsets(True)), len(chosen_offsets(None))
    (12, 0)
    """
    if not setting:
        return ()
    offsets = OFFSETS if setting is True else tuple((int(dy), int(dx)) for dy, dx in setting)
    key = "config key `training.affinities`"
    if offsets[:2] != NEIGHBOURS or len(offsets) < 3:
        raise InputError(
            f"{key}: found {[*map(list, offsets)]}, expected [-1, 0] and [0, -1], then offsets to pixels "
            "that are farther away. To use the default, write `affinities: true`."
        )
    seen: set[tuple[int, int]] = {(0, 0)}
    for dy, dx in offsets:
        if {(dy, dx), (-dy, -dx)} & seen:
            raise InputError(
                f"{key}: found [{dy}, {dx}], expected offsets other than [0, 0], each of them once. The same "
                "offset in the opposite direction has the same pairs of pixels. Remove it."
            )
        seen.add((dy, dx))
    return offsets
