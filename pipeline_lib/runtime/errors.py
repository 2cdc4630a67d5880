"""The one exception for everything a user can put right."""


class InputError(ValueError):
    """Input or a setting that bordure cannot use.

    The message names the file or key, what was found, what was expected, and what to do. The workflow prints
    it alone, without a traceback, and the command exits non-zero.
    """
