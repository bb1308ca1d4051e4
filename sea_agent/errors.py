"""The two kinds of error that a user sees without a traceback."""


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what to do (exit code 2)."""


class RunFailure(Exception):
    """A run that started cannot go on. The message names the part and the remedy (exit code 1)."""
