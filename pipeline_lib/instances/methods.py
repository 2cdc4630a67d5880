"""Ways from predictions to instances, without numba."""

from __future__ import annotations

from pipeline_lib.runtime.types import Json

#: Ways from predictions to instances that separate touching cells, and the setting of each that decides how
#: many cells there are. The others are None.
SEPARATORS = {
    "watershed": "seed_threshold",
    "mutex_watershed": "smallest_region",
    "multicut": "multicut_beta",
}
#: Ways from predictions to instances: values of `segmentation.method`.
METHODS = ("components", *SEPARATORS)
#: Values of settings that are not used, which files of models without them do not state.
UNUSED: Json = {"border_reach": 0} | dict.fromkeys(SEPARATORS.values())


def method_of(settings: Json) -> str:
    """Return the way from predictions to instances that settings of a post-processing mean.

    Parameters
    ----------
    settings : dict
        Settings as `PostProcessing.to_dict` returns them.

    Returns
    -------
    str
        One of `METHODS`.

    Examples
    --------
    >>> from pipeline_lib.instances.methods import method_of
    >>> method_of({"threshold": 0.5, "seed_threshold": 0.7})
    'watershed'
    """
    used = (method for method, setting in SEPARATORS.items() if settings.get(setting) is not None)
    return next(used, "components")


def described(settings: Json) -> str:
    """Return settings of a post-processing as text for the log.

    Parameters
    ----------
    settings : dict
        Settings as `PostProcessing.to_dict` returns them.

    Returns
    -------
    str
        The threshold and what separates cells.

    Examples
    --------
    >>> from pipeline_lib.instances.methods import described
    >>> described({"threshold": 0.5, "seed_threshold": 0.7})
    'threshold 0.50, seeds above 0.70'
    """
    smallest = ", regions of at least {smallest_region} px" if settings.get("smallest_region") else ""
    separated = {
        "components": "",
        "watershed": ", seeds above {seed_threshold:.2f}",
        "mutex_watershed": ", mutex watershed" + smallest,
        "multicut": ", multicut with a beta of {multicut_beta:g}",
    }
    return ("threshold {threshold:.2f}" + separated[method_of(settings)]).format(**settings)


def in_words(method: str) -> str:
    """Return the name of a method as in a sentence: `mutex watershed`."""
    return method.replace("_", " ")
