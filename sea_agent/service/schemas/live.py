"""Live mode: feedback of users, what the agent reads and publishes, and what operators look at and change."""

from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import Field

from sea_agent.service.limits import LongText, ShortText
from sea_agent.service.schemas.base import LARGEST_INTEGER, WHOLE, In, Out, Outcome, TimeOut
from sea_agent.service.schemas.quality import RateOut

FeedbackKind = Literal["choice", "thumbs", "edit", "used"]
PublicationState = Literal["offered", "canary", "live", "retired", "rejected", "withdrawn"]
CompletionId = Annotated[str, Path(max_length=40, pattern=r"^[a-z]+-[0-9a-f]+$", description="Id of the completion.")]
User = Annotated[ShortText, Path(description="Id of the user, as the app gave it with the request.")]
Whole = Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE]
Version = Annotated[int, Path(ge=1, le=LARGEST_INTEGER, description="Version of published weights.")]


# --- users -----------------------------------------------------------------------------------------------------------


class ChoiceIn(In):
    """Which response is better, in the order in which they were shown."""

    outcome: Outcome


class ThumbsIn(In):
    """Whether the response is good."""

    up: bool


class EditIn(In):
    """The response as the user would have it."""

    text: LongText


class UsedIn(In):
    """Whether the user took the response, for example by copying it."""

    used: bool


class FeedbackOut(Out):
    """Feedback that is on disk: ``new``, the ``same`` as before, or ``corrected`` from what was before. A choice is
    ``late`` when its duel had expired; it counts all the same."""

    completion: str
    kind: FeedbackKind
    state: Literal["new", "same", "corrected"]
    late: bool
    at: TimeOut


class AsksIn(In):
    """Whether a user wants to be asked."""

    asks: bool


class AsksOut(Out):
    """Whether a user is asked."""

    asks: bool


class UserErasedOut(Out):
    """What was erased of a user: the texts of how many ``completions``, of which ``answers`` had a choice.

    Weights cannot forget: ``versions`` were published after something of them could be learnt. ``left`` says what is
    still in files, and why.
    """

    completions: int
    answers: int
    versions: list[int]
    left: list[str]


# --- what the agent reads --------------------------------------------------------------------------------------------


class PromptOut(Out):
    """A conversation as the policy got it."""

    text: str
    token_ids: list[int]
    messages: list[dict[str, Any]]


class ServedOut(Out):
    """A response as it was served; ``policy_version`` is the oldest among its tokens."""

    id: str
    text: str
    token_ids: list[int]
    logprobs: list[float]
    policy_version: int


class LiveDuelOut(Out):
    """A duel that a user was asked; ``first`` and ``second`` in its own order, which is that of the label log.

    Of an audit, ``first`` is the live policy's response and ``second`` the initial one's. Nothing learns from audits.
    ``by_chance``: nothing else chose which of the two the user saw first.
    """

    number: int
    completion: str
    query_id: str
    user: str | None
    audit: bool
    by_chance: bool
    prompt: PromptOut
    first: ServedOut
    second: ServedOut
    information: float | None
    policy_version: int | None
    at: TimeOut


class LiveDuelsOut(Out):
    """A page of the duels, those with erased texts left out; ask on with ``after=next_after``."""

    duels: list[LiveDuelOut]
    next_after: int


class LivePromptOut(PromptOut):
    """A conversation as it is stored, up to its newest answered request, whose ``number`` this is."""

    number: int
    completion: str
    user: str | None
    at: TimeOut


class LivePromptsOut(Out):
    """Some conversations, each once, by number; ask on with ``after=next_after``."""

    prompts: list[LivePromptOut]
    next_after: int


class ErasedOut(Out):
    """Completions whose texts were erased; ask on with ``after=next_after`` until that is ``erasures``."""

    completions: list[str]
    next_after: int
    erasures: int


# --- publications ----------------------------------------------------------------------------------------------------


class PublicationIn(In):
    """Weights that could go live: the directory ``path`` as engines see it, and how many answers they learnt from."""

    checksum: Annotated[str, Field(pattern=r"^[0-9a-f]+$", min_length=1, max_length=64)]
    round: Whole
    labels: Whole
    path: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]


class PublicationChangeIn(In):
    """What becomes of a publication. ``withdrawn`` takes the live one back, and the one before goes live again.

    ``deleted`` tells that its weights are gone from the disk, so that it cannot go live any more.
    """

    state: Literal["canary", "live", "rejected", "withdrawn"] | None = None
    reason: Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")] | None = None
    report: dict[str, Any] | None = None
    deleted: Literal[True] | None = None


class PublicationOut(Out):
    """Published weights; ``path`` is empty when they are gone from the disk."""

    version: int
    checksum: str
    round: int
    labels: int
    path: str
    state: PublicationState
    reason: str
    report: dict[str, Any]
    created_at: TimeOut
    decided_at: TimeOut | None


class PublicationsOut(Out):
    """Publications, the newest first."""

    publications: list[PublicationOut]


class PromoteIn(In):
    """Which version is to go live."""

    version: Annotated[int, Field(ge=1, le=LARGEST_INTEGER), WHOLE]


class LiveRunOut(Out):
    """The versions that serve; null where nothing was published yet, and engines have what they began with.

    ``forced`` is the live version if an operator let it go live. While ``frozen``, only operators change what is live.
    """

    run: str
    live: int | None
    canary: int | None
    frozen: bool
    forced: int | None
    erasures: int


# --- figures ---------------------------------------------------------------------------------------------------------


class OutcomesOut(Out):
    """Answers by outcome, in the order in which the responses were shown."""

    first: int
    second: int
    tie: int
    both_bad: int


class ImplicitOut(Out):
    """Duels that nobody answered, by the side, in the order shown, with which the conversation went on."""

    first: int
    second: int


class MeanOut(Out):
    """A mean of ``n`` values with its 95 % normal interval; null where ``n`` is 0."""

    n: int
    mean: float | None
    low: float | None
    high: float | None


class AuditOut(Out):
    """Audits that were answered: the live policy against the initial one. ``rate`` is the share of ``wins`` among those
    with a winner."""

    asked: int
    wins: int
    losses: int
    ties: int
    rate: RateOut


class QuantilesOut(Out):
    """Seconds, over the newest ``n`` requests at most 10,000; null where ``n`` is 0."""

    n: int
    p50: float | None
    p95: float | None
    p99: float | None


class UserShareOut(Out):
    """A user's part of the answers."""

    user: str
    answers: int
    share: float


class UsersOut(Out):
    """How many users asked and answered, and those who answered most."""

    users: int
    answering: int
    most: list[UserShareOut]


class EngineOut(Out):
    """What an engine serves and should serve; ``error`` says why these differ. ``checked_at`` is null before the first
    look."""

    url: str
    version: int | None
    wanted: int | None
    error: str | None
    checked_at: TimeOut | None


class BinOut(Out):
    """Requests of a part of the time, from ``at``."""

    at: TimeOut
    requests: int
    failed: int
    asked: int
    answered: int
    regret: float | None
    first_token: float | None


class SummaryOut(Out):
    """What happened to the requests since a time. Audits are among ``asked`` and ``answered``, and apart."""

    since: TimeOut
    until: TimeOut
    requests: int
    failed: int
    unfinished: int
    eligible: int
    asked: int
    answered: int
    late: int
    outcomes: OutcomesOut
    implicit: ImplicitOut
    first_shown: RateOut
    answer_rate: RateOut
    audit: AuditOut
    regret: MeanOut
    first_token: QuantilesOut
    prompt_tokens: int
    completion_tokens: int
    thumbs_up: int
    thumbs_down: int
    edits: int
    used: int
    users: UsersOut
    publications: dict[PublicationState, int]
    live: LiveRunOut
    engines: list[EngineOut]
    series: list[BinOut]
