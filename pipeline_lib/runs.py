"""Files of a finished run that others read."""

from __future__ import annotations

from pathlib import Path


def scores_before(folder: str | Path, network: str) -> list[Path]:
    """Return the files with the scores of a run: the scores, the chosen threshold, and the spread over seeds.

    Parameters
    ----------
    folder : str or Path
        Its results folder.
    network : str
        Name of the trained network.

    Returns
    -------
    list of Path
        Two files, or three if it had several seeds.
    """
    scores, chosen = Path(folder, "scores.csv"), Path(folder, "postprocessing", f"{network}.json")
    spread = Path(folder, "scores_spread.csv")
    return [scores, chosen, *([spread] if spread.exists() else [])]
