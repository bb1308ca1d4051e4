"""What a user sees without a traceback."""


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what to do (exit code 2)."""


class UnfitState(UserError):
    """A saved state is not of the form that a part of this run saves: it is damaged, or of another run."""


class RunFailure(Exception):
    """A run that started cannot go on. The message names the part and the remedy (exit code 1)."""


class Stopped(Exception):
    """A run was asked to stop, and did (exit code 130). It can be resumed."""


class ActorDied(RunFailure):
    """A part of the run died in its own process. A new one can take its place, from the latest checkpoint."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type if there is none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
