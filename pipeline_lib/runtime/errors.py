"""The exception for every error that a user can fix."""


class InputError(ValueError):
    """Raised for input or a setting that bordure cannot use.

    The message names the file or setting, what was found, what was expected, and what to do next. The
    workflow and the command line print only this message, without a traceback, and exit with a non-zero
    status.

    It is a `ValueError`. Catch it as `pipeline_lib.runtime.errors.InputError`.

    Examples
    --------
    >>> from pipeline_lib.networks import plan
    >>> from pipeline_lib.runtime.errors import InputError
    >>> try:
    ...     plan("unet", depth=0)
    ... except InputError as error:
    ...     print(error)
    network.depth: found 0, expected a whole number at least 1 and at most 7.
    """
