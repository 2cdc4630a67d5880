"""Packaging stage: write a model file with all that the segmentation of new images needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline_lib import provenance
from pipeline_lib.imageio import Channels
from pipeline_lib.networks.model import Model, save_ensemble
from pipeline_lib.runtime.files import read_json
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json
from pipeline_lib.scores import SUMS, at_chosen_threshold, read_scores


def package_model(
    models: str | Path | Sequence[str | Path],
    postprocessing: str | Path,
    scores: Sequence[str | Path],
    output: str | Path,
    *,
    network: str,
    channels: Channels,
    average_orientations: bool = False,
) -> None:
    """Write a trained model, or an ensemble, together with its post-processing and its scores.

    The file alone is enough to segment new images as the workflow does (`bordure predict`).

    Parameters
    ----------
    models : str or Path, or a sequence of these
        Model file of the training stage. Several are the members of an ensemble, whose prediction is the mean
        of theirs, in the order of `stages.ensemble.average_predictions`.
    postprocessing : str or Path
        JSON file of `stages.postprocessing.choose_postprocessing` for this model.
    scores : sequence of str or Path
        CSV files with the scores of each volume.
    output : str or Path
        Model file to write.
    network : str
        Name of the model in `scores`.
    channels : int or sequence of (int or str)
        Channels that were read from the images, which `bordure predict` reads from new images.
    average_orientations : bool, default False
        Whether predictions are averaged over 8 orientations.

    Raises
    ------
    InputError
        If an input is missing or damaged, or several models differ in the settings of their networks.
    """
    import pandas as pd  # takes 0.3 s

    trained = [models] if isinstance(models, str | Path) else [*models]
    inputs = [*trained, postprocessing, *scores]
    settings: Json = {
        "network": network,
        "average_orientations": average_orientations,
        "channels": channels,
    }
    with provenance.making("package_model", [output], inputs, **settings) as record:
        chosen = {key: value for key, value in read_json(postprocessing).items() if key != "provenance"}
        every = pd.concat([read_scores(path) for path in scores])
        rows = at_chosen_threshold(every, {network: chosen["threshold"]})
        mean = rows[~rows.metric.str.startswith(SUMS)].groupby(["split", "metric"]).value.mean()
        members = [Model.load(path) for path in trained]
        application = {
            "average_orientations": average_orientations,
            "channels": channels if isinstance(channels, int) else [*channels],
            "postprocessing": chosen,
            "scores": {split: mean[split].to_dict() for split in mean.index.levels[0]},
        }
        if len(members) > 1:
            save_ensemble(members, output, provenance=record, application=application)
        else:
            [packaged] = members
            packaged.application = application
            packaged.provenance = record | {"training": packaged.provenance}
            packaged.save(output)
    what = "the model" if len(members) == 1 else f"an ensemble of {len(members)} networks"
    logger.info("%s: %s with threshold %.2f", output, what, chosen["threshold"])
