"""The exception for every error that a user can fix."""


class InputError(ValueError):
    """Raised for input or a setting that bordure cannot use.

    The message names the file or setting, what was found, what was expected, and what to do next. The
    workflow and the command line print only this message, without a traceback, and exit with a non-zero
    status.
    """
