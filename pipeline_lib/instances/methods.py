"""Ways from predictions to instances, without numba."""

from __future__ import annotations

from pipeline_lib.runtime.types import Json

#: Ways from predictions to instances: values of `segmentation.method`.
METHODS = ("components", "watershed", "mutex_watershed")
#: Values of settings that are not used, which files of models without them do not state.
UNUSED: Json = {"border_reach": 0, "seed_threshold": None, "mutex_bias": None}


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
    if settings.get("mutex_bias") is not None:
        return "mutex_watershed"
    return "components" if settings.get("seed_threshold") is None else "watershed"
