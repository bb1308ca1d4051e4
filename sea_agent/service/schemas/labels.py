"""Answers, and the log of them."""

from typing import Annotated, Literal

from pydantic import Field

from sea_agent.service.limits import Comment, Name, ShortText
from sea_agent.service.schemas.base import WHOLE, In, Kind, Out, Outcome, QueryState, TimeIn, TimeOut
from sea_agent.service.schemas.duels import DuelLeaseOut


class LabelIn(In):
    """An answer, in the order in which the responses were shown."""

    outcome: Outcome
    strength: Annotated[int, Field(ge=1, le=3), WHOLE] | None = None
    comment: Comment | None = None
    elapsed_ms: Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE] | None = None


class LabelOut(Out):
    """An accepted answer; ``outcome`` as it was given."""

    label_id: str
    seq: int
    query_id: str
    outcome: Outcome
    late: bool


class LogEntryOut(Out):
    """An entry of the label log; ``outcome`` in the query's own order."""

    seq: int
    label_id: str
    query_id: str
    client_key: str
    outcome: Outcome
    annotator: str
    kind: Kind
    late: bool
    revises: str | None
    strength: int | None
    comment: str | None
    elapsed_ms: int | None
    at: TimeOut


class LogOut(Out):
    """A page of the label log; ask on with ``after_seq=next_seq``."""

    labels: list[LogEntryOut]
    next_seq: int


class QueryOut(Out):
    """A duel with its answers, whom it is for, and its leases but those of repeats."""

    id: str
    run: str
    client_key: str
    prompt: str
    first: str
    second: str
    policy_version: int | None
    rule: str | None
    score: float | None
    votes_needed: int
    priority: int
    expires_at: TimeOut | None
    gold: Literal["first", "second"] | None
    state: QueryState
    created_at: TimeOut
    erased_at: TimeOut | None
    votes: list[LogEntryOut]
    assigned: list[str]
    leases: list[DuelLeaseOut]


class _ImportedLabelIn(In):
    outcome: Outcome
    annotator: Name | None = None
    at: TimeIn | None = None


class LabelByClientKeyIn(_ImportedLabelIn):
    """An answer to the duel with this ``client_key``, in the duel's own order."""

    client_key: ShortText


class LabelByQueryIn(_ImportedLabelIn):
    """An answer to the duel with this id, in the duel's own order."""

    query_id: ShortText


class LabelsIn(In):
    """A batch of answers, accepted as a whole or not at all."""

    labels: Annotated[list[LabelByClientKeyIn | LabelByQueryIn], Field(min_length=1, max_length=1000)]


class ImportedOut(Out):
    """A label of the batch; ``created`` is false where the annotator had given it already."""

    label_id: str
    seq: int
    query_id: str
    created: bool


class LabelsOut(Out):
    """The batch in its own order."""

    labels: list[ImportedOut]
