"""Duels, as experiments post them and annotators lease them."""

from typing import Annotated, Literal

from pydantic import Field

from sea_agent.service.limits import LongText, ShortText
from sea_agent.service.schemas.base import LARGEST_INTEGER, WHOLE, Count, In, Out, TimeIn, TimeOut


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
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000), WHOLE] = 0
    expires_at: TimeIn | None = None
    gold: Literal["first", "second"] | None = None


class QueriesIn(In):
    """A batch of duels, accepted as a whole or not at all."""

    queries: Annotated[list[QueryIn], Field(min_length=1, max_length=1000)]


class PostedOut(Out):
    """A duel of the batch; ``created`` is false where it was there already."""

    id: str
    client_key: str
    created: bool


class QueriesOut(Out):
    """The batch in its own order."""

    queries: list[PostedOut]


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
