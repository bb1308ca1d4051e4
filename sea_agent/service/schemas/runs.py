"""Runs and their progress."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sea_agent.service.limits import Comment, LongText
from sea_agent.service.schemas.base import WHOLE, Count, In, Out, Outcome, RunState, Share, TimeOut


class ExampleIn(In):
    """A duel that was answered well, and why: shown to annotators with the instructions."""

    prompt: LongText
    first: LongText
    second: LongText
    outcome: Outcome
    why: Comment = ""


class ExampleOut(Out):
    """An example of the instructions."""

    prompt: str
    first: str
    second: str
    outcome: Outcome
    why: str


class RunIn(In):
    """A run's metadata; a field that is absent keeps its value, or its default in a new run.

    ``open`` gives duels; ``paused`` gives none and takes them; ``closed`` is finished; ``archived`` is closed and
    listed only when asked for. ``qualification`` is how many gold duels come first, ``qualifying_share`` what
    share of them must be right; after ``retention_days`` the texts of duels that are over are erased.
    """

    name: Annotated[str, AfterValidator(str.strip), Field(max_length=200, pattern=r"^[^\x00]*$")] | None = None
    instructions: LongText | None = None
    votes_needed: Count | None = None
    repeat_share: Share | None = None
    gold_share: Share | None = None
    state: RunState | None = None
    qualification: Annotated[int, Field(ge=0, le=100), WHOLE] | None = None
    qualifying_share: Share | None = None
    retention_days: Annotated[float, Field(gt=0.0, le=36_500.0)] | None = None
    examples: Annotated[list[ExampleIn], Field(max_length=20)] | None = None


class RunOut(Out):
    """A run with its counts; gold duels are in none of them but ``labels``, the length of the label log.

    ``erased``: the texts of all its duels were erased.
    """

    id: str
    name: str
    instructions: str
    votes_needed: int
    repeat_share: float
    gold_share: float
    state: RunState
    qualification: int
    qualifying_share: float
    retention_days: float | None
    examples: list[ExampleOut]
    erased: bool
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


class RunsIn(BaseModel):
    """Which runs are listed."""

    model_config = ConfigDict(extra="forbid")

    archived: bool = False
