"""Why the store refuses. Routes answer each with a problem document."""

from typing import TypeVar

T = TypeVar("T")


class Missing(Exception):
    """It does not exist, or belongs to somebody else."""


class Conflict(Exception):
    """It clashes with what is stored already."""


def found(thing: T | None, name: str) -> T:
    """What was looked up. Raises: Missing when there is none."""
    if thing is None:
        raise Missing(f"There is no {name}.")
    return thing
