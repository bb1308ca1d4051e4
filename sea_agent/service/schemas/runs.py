"""Runs and their progress."""

from typing import Annotated

from pydantic import AfterValidator, Field

from sea_agent.service.limits import LongText
from sea_agent.service.schemas.base import Count, In, Out, Share, TimeOut


class RunIn(In):
    """A run's metadata; a field that is absent keeps its value, or its default in a new run."""

    name: Annotated[str, AfterValidator(str.strip), Field(max_length=200, pattern=r"^[^\x00]*$")] | None = None
    instructions: LongText | None = None
    votes_needed: Count | None = None
    repeat_share: Share | None = None
    gold_share: Share | None = None


class RunOut(Out):
    """A run with its counts; gold duels are in none of them but ``labels``, the length of the label log."""

    id: str
    name: str
    instructions: str
    votes_needed: int
    repeat_share: float
    gold_share: float
    created_at: TimeOut
    queries: int
    answered: int
    labels: int


class RunsOut(Out):
    """Every run that the caller may see."""

    runs: list[RunOut]


class ProgressOut(Out):
    """How far a run is, and how many labels the caller gave.

    ``annotators`` can answer its duels with their keys; ``stuck`` open duels lack more votes than annotators are left
    who neither answered nor skipped them.
    """

    open: int
    answered: int
    cancelled: int
    labels: int
    mine: int
    annotators: int
    stuck: int
