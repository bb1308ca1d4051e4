"""Runs and their progress."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sea_agent.service.limits import Comment, LongText
from sea_agent.service.schemas.base import WHOLE, Count, In, Out, Outcome, RunState, Share, TimeOut


class Example(In):
    """A worked example for annotators: a duel, its right answer, and the reason."""

    prompt: LongText
    first: LongText
    second: LongText
    outcome: Outcome
    why: Comment = ""


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
    examples: Annotated[list[Example], Field(max_length=20)] | None = None


class RunOut(Out):
    """A run with its counts; gold duels are in none of them but ``labels``, the length of the label log.

    ``assigned`` are the only ones who get its duels, but for those with names of their own; everybody if it is empty.
    ``live``: its duels are those of live mode, which users answer. ``erased``: the texts of all its duels were erased.
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
    examples: list[Example]
    assigned: list[str]
    live: bool
    erased: bool
    created_at: TimeOut
    queries: int
    answered: int
    labels: int


class OwnRunOut(Out):
    """A run as a key sees it that may only annotate: with the answers given under its name, and no other count.

    Other counts, and the shares of gold duels and repeats, would tell which duels these are.
    """

    id: str
    name: str
    instructions: str
    examples: list[Example]
    state: RunState
    mine: int


class QualificationOut(Out):
    """How many gold duels the caller must answer first, how many they have, and if that was enough: null before."""

    needed: int
    given: int
    passed: bool | None


class OwnProgressOut(Out):
    """What a key is told that may only annotate: also how many people answer each new duel. ``qualification`` is null
    where the run asks for none."""

    state: RunState
    votes_needed: int
    mine: int
    qualification: QualificationOut | None


class ProgressOut(OwnProgressOut):
    """How far a run is, and how many labels the caller gave.

    ``annotators`` can answer its duels with their keys; ``people`` names them for a key with the scope experiment.
    ``stuck`` open duels lack more votes than annotators are left who neither answered nor skipped them.
    ``gold_missing`` open gold duels are lacking for somebody who begins now to qualify. ``quality_version`` changes
    whenever what ``/agreement`` and ``/annotators`` tell may have changed.
    """

    open: int
    answered: int
    cancelled: int
    labels: int
    annotators: int
    people: list[str] | None
    stuck: int
    gold_missing: int
    quality_version: str


class ListedRunOut(RunOut):
    """A run in the list, with its ``progress`` where that was asked for."""

    progress: ProgressOut | None = None


class RunsOut(Out):
    """The runs that the key reaches: less of each for a key that may only annotate."""

    runs: list[ListedRunOut] | list[OwnRunOut]


class RunsIn(BaseModel):
    """Which runs are listed, and whether each comes with its progress; not for a key that may only annotate."""

    model_config = ConfigDict(extra="forbid")

    archived: bool = False
    progress: bool = False
