"""Duels, as experiments post them and annotators lease them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sea_agent.service.limits import LongText, ShortText
from sea_agent.service.schemas.base import (
    LARGEST_INTEGER,
    MOST_IN_URL,
    WHOLE,
    Count,
    In,
    Kind,
    LeaseState,
    Out,
    QueryState,
    TimeIn,
    TimeOut,
)

Priority = Annotated[int, Field(ge=-1_000_000, le=1_000_000), WHOLE]


class QueryIn(In):
    """A duel to be answered. ``client_key`` is the experiment's own id for it."""

    client_key: ShortText
    prompt: LongText
    first: LongText
    second: LongText
    policy_version: Annotated[int, Field(ge=0, le=LARGEST_INTEGER), WHOLE] | None = None
    rule: ShortText | None = None
    score: float | None = None
    votes_needed: Count | None = None
    priority: Priority = 0
    expires_at: TimeIn | None = None
    gold: Literal["first", "second"] | None = None


class QueriesIn(In):
    """A batch of duels, accepted as a whole or not at all."""

    queries: Annotated[list[QueryIn], Field(min_length=1, max_length=1000)]


class PostedOut(Out):
    """A duel of the batch, and how many votes it needs; ``created`` is false where it was there already."""

    id: str
    client_key: str
    created: bool
    votes_needed: int


class QueriesOut(Out):
    """The batch in its own order."""

    queries: list[PostedOut]


class QueryChangeIn(In):
    """What is to change of a duel. ``assigned`` are the only ones who get it from now on; everybody if it is empty."""

    priority: Priority | None = None
    votes_needed: Count | None = None
    assigned: Annotated[list[ShortText], Field(max_length=100)] | None = None


class DuelLeaseOut(Out):
    """Who has a duel, or had it."""

    lease_id: str
    annotator: str
    state: LeaseState
    kind: Kind
    created_at: TimeOut
    expires_at: TimeOut


class ListedQueryOut(Out):
    """A duel in the list: the beginning of its prompt, how many votes it has, and its leases but those of repeats."""

    id: str
    client_key: str
    state: QueryState
    gold: Literal["first", "second"] | None
    votes: int
    votes_needed: int
    priority: int
    created_at: TimeOut
    expires_at: TimeOut | None
    erased_at: TimeOut | None
    prompt: str
    assigned: list[str]
    leases: list[DuelLeaseOut]


class QueryListOut(Out):
    """A page of the duels that are wanted, in the order that is; ask on with ``after=next_after``."""

    queries: list[ListedQueryOut]
    next_after: int | None
    total: int


class QueryListIn(BaseModel):
    """Which duels are listed.

    ``leased`` are those that somebody has now, ``skipped`` those that somebody skipped, ``stuck`` those that too
    few people are left for. ``text`` is looked for in the prompt, the responses and the ``client_key``. ``annotator``
    are those that somebody holds, skipped, answered or is assigned to; with ``leased`` and ``skipped``, by them.
    ``order`` says which come first.
    """

    model_config = ConfigDict(extra="forbid")

    state: Literal["open", "answered", "cancelled", "expired", "leased", "skipped", "stuck"] | None = None
    text: ShortText | None = None
    annotator: ShortText | None = None
    gold: bool | None = None
    order: Literal["newest", "oldest"] = "newest"
    after: Annotated[int, Field(ge=0, le=LARGEST_INTEGER)] | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class RunAssignmentIn(In):
    """Who alone gets the duels of a run, those posted later too, but for duels with names of their own."""

    annotators: Annotated[list[ShortText], Field(min_length=1, max_length=100)]


class _HandOutIn(In):
    annotators: Annotated[list[ShortText], Field(min_length=1, max_length=100)]
    each: Count | None = None


class ShareHandOutIn(_HandOutIn):
    """Assign a share of the duels that nobody has, evenly, each to ``each`` of the annotators (its votes if absent)."""

    share: Annotated[float, Field(gt=0.0, le=1.0)]


class CountHandOutIn(_HandOutIn):
    """Assign so many of the duels that nobody has, evenly, each to ``each`` of the annotators (its votes if absent)."""

    count: Annotated[int, Field(ge=1, le=10_000), WHOLE]


class HandOutOut(Out):
    """How many duels each annotator was assigned."""

    assigned: dict[str, int]


class TakeBackIn(BaseModel):
    """From whom duels are taken back; from everybody without a name."""

    model_config = ConfigDict(extra="forbid")

    annotator: Annotated[list[ShortText], Field(max_length=MOST_IN_URL)] = []


LONGEST_LEASE = 3600
LeaseSeconds = Annotated[int, Field(ge=1, le=LONGEST_LEASE), WHOLE]
LONGEST_WAIT = 25


class LeaseIn(In):
    """How long a duel is kept for the caller, and how long to wait for one. Seconds."""

    ttl_s: LeaseSeconds = 300
    wait_s: Annotated[int, Field(ge=0, le=LONGEST_WAIT), WHOLE] = 0


class HeartbeatIn(In):
    """How long the lease lasts from now on, in seconds."""

    ttl_s: LeaseSeconds = 300


class LeaseOut(Out):
    """A duel to be answered, in presentation order. It does not say which policy or rule produced a response."""

    lease_id: str
    query_id: str
    run: str
    prompt: str
    first: str
    second: str
    expires_at: TimeOut


class HeartbeatOut(Out):
    """When the lease ends now."""

    expires_at: TimeOut
