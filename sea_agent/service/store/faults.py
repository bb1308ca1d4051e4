"""Why the store refuses. Routes answer each with a problem document."""

from typing import TypeVar

T = TypeVar("T")


class Missing(Exception):
    """It does not exist, or belongs to somebody else."""


class Conflict(Exception):
    """It clashes with what is stored already; ``client_key`` is that of the duel which does, if it is one."""

    def __init__(self, what: str, client_key: str | None = None) -> None:
        super().__init__(what)
        self.client_key = client_key


def found(thing: T | None, name: str) -> T:
    """What was looked up. Raises: Missing when there is none."""
    if thing is None:
        raise Missing(f"There is no {name}.")
    return thing
