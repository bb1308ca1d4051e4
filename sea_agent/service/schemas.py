"""Request and response bodies. Field names are the contract; times are ISO 8601 UTC in JSON, seconds inside."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from sea_agent.service.limits import Comment, LongText, ShortText
from sea_agent.types import LONGEST_RUN_ID, RUN_ID

Outcome = Literal["first", "second", "tie", "both_bad"]
Kind = Literal["vote", "repeat", "gold"]
Scope = Literal["admin", "experiment", "annotate", "read"]
QueryState = Literal["open", "answered", "cancelled", "expired"]

LARGEST_INTEGER = 2**53 - 1  # what JSON readers hold exactly

RunId = Annotated[str, Path(pattern=RUN_ID, max_length=LONGEST_RUN_ID, description="Id of the run.")]
RunIds = Annotated[
    list[Annotated[str, Field(pattern=RUN_ID, max_length=LONGEST_RUN_ID)]], Field(min_length=1, max_length=1000)
]
ObjectId = Annotated[str, Path(max_length=40, pattern=r"^[a-z]+-[0-9a-f]+$")]


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 1.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)  # stands last: bounds after it would not be in the schema
Count = Annotated[int, Field(ge=1, le=100), WHOLE]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _seconds(value: Any) -> float:
    if not isinstance(value, str):
        raise ValueError("a time is text, such as 2026-01-31T12:00:00Z")
    try:
        moment = datetime.fromisoformat(value.upper())
    except ValueError:
        raise ValueError("not an ISO 8601 time, such as 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("a time needs its offset, such as Z or +02:00")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()


def iso(seconds: float) -> str:
    """ISO 8601 UTC in milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_DATE_TIME = WithJsonSchema({"type": "string", "format": "date-time"})
TimeIn = Annotated[float, BeforeValidator(_seconds), _DATE_TIME]
TimeOut = Annotated[float, PlainSerializer(iso, return_type=str), _DATE_TIME]


class In(BaseModel):
    """Base of what comes in: no unknown fields, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class Out(BaseModel):
    """Base of what goes out."""

    model_config = ConfigDict(protected_namespaces=())


# --- runs ------------------------------------------------------------------------------------------------------------


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


# --- queries ---------------------------------------------------------------------------------------------------------


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


# --- labels ----------------------------------------------------------------------------------------------------------


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
    """A duel with its answers."""

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
    votes: list[LogEntryOut]


class _ImportedLabelIn(In):
    outcome: Outcome
    annotator: ShortText | None = None
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


# --- leases ----------------------------------------------------------------------------------------------------------

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


# --- quality ---------------------------------------------------------------------------------------------------------


class RateOut(Out):
    """A share of ``n`` with its 95 % Wilson interval; null where ``n`` is 0."""

    n: int
    share: float | None
    low: float | None
    high: float | None


class AgreementOut(Out):
    """Quality of the labels of a run. A figure that cannot be computed is null.

    ``alpha`` is Krippendorff's, over the ``compared`` duels that have two votes or more; its 95 % bootstrap interval is
    over duels. ``first_shown`` is the share of answers with a winner that chose the response shown first.
    """

    votes: int
    duels: int
    compared: int
    annotators: int
    alpha: float | None
    alpha_low: float | None
    alpha_high: float | None
    self_agreement: RateOut
    gold_accuracy: RateOut
    gold_kappa: float | None
    first_shown: RateOut
    ties: RateOut
    both_bad: RateOut


class AnnotatorOut(Out):
    """One annotator. ``with_others`` is agreement with the most frequent vote of the others on the same duel."""

    annotator: str
    answers: int
    votes: int
    skips: int
    median_s: float | None
    p90_s: float | None
    gold_accuracy: RateOut
    gold_kappa: float | None
    self_agreement: RateOut
    with_others: RateOut
    first_shown: RateOut
    late: RateOut


class AnnotatorsOut(Out):
    """Everybody who answered or skipped in a run, by name."""

    annotators: list[AnnotatorOut]


class ExportIn(BaseModel):
    """Which duels are exported. Those without a winner, ties among them, have null for both responses."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    min_agreement: Share = 0.0
    min_votes: Count = 1
    ties: Literal["drop", "keep"] = "drop"


# --- keys ------------------------------------------------------------------------------------------------------------


class KeyIn(In):
    """A key to be made. ``annotator`` is its name in the label log; ``runs`` restricts it to some runs."""

    name: ShortText
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=4)]
    annotator: ShortText | None = None
    runs: RunIds | None = None
    expires_at: TimeIn | None = None


class KeyOut(Out):
    """A key without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    annotator: str
    runs: list[str] | None
    created_at: TimeOut
    expires_at: TimeOut | None
    revoked_at: TimeOut | None


class NewKeyOut(KeyOut):
    """A new key, shown this once."""

    key: str


class KeysOut(Out):
    """Every key."""

    keys: list[KeyOut]


class HealthOut(Out):
    """How the service is."""

    status: Literal["ok", "ready"]
