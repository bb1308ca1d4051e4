"""Exceptions whose messages are shown to the user without a traceback."""


class UserError(Exception):
    """Invalid input (exit code 2). The message says what is wrong, where, and what to do."""


class UnfitState(UserError):
    """A saved state does not match the schema of this run: it is damaged, or belongs to another run."""


class RunFailure(Exception):
    """A started run cannot continue (exit code 1). The message names the part and the remedy."""


class Stopped(Exception):
    """A run stopped on request (exit code 130). It can be resumed."""


class ActorDied(RunFailure):
    """An actor process died. A new one can replace it from the latest checkpoint."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type if there is none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
