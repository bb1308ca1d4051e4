"""Data passed between the parts of a run: plain frozen dataclasses with ids.

Rows are matched by id across process boundaries, never by position.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

__all__ = [
    "PROMPT_FORM",
    "QUESTION_TEXTS",
    "REFERENCE_VERSION",
    "RESPONSE_FORM",
    "Answer",
    "Candidates",
    "Duel",
    "Hindsight",
    "LabelSource",
    "Messages",
    "Outcome",
    "Preference",
    "Prompt",
    "Response",
    "TokenRow",
    "Verdict",
    "preference_from",
    "prompt_from",
    "question",
    "response_from",
]

REFERENCE_VERSION = -1
"""Policy version of responses from the frozen reference, which are deliberately off-policy throughout the run."""


Messages = tuple[tuple[str, str], ...]
"""(role, content) pairs of a chat."""

TokenRow = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of a response to it."""


class LabelSource(StrEnum):
    """Who labels a duel. Only ``ORACLE`` duels may be sent to an oracle."""

    ORACLE = "oracle"
    POSTERIOR = "posterior"
    DEMO = "demo"
    SELF = "self"


class Outcome(StrEnum):
    """The result of a duel."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"
    BOTH_BAD = "both_bad"
    SKIP = "skip"

    @property
    def first_wins(self) -> float | None:
        """What it says of the probability that the first response is preferred; None where it says nothing of it."""
        return {Outcome.FIRST: 1.0, Outcome.SECOND: 0.0, Outcome.TIE: 0.5}.get(self)

    def swap(self) -> "Outcome":
        """The same of the duel with first and second exchanged."""
        return {Outcome.FIRST: Outcome.SECOND, Outcome.SECOND: Outcome.FIRST}.get(self, self)

    @property
    def names_winner(self) -> bool:
        """Whether one of the responses is preferred."""
        return self in (Outcome.FIRST, Outcome.SECOND)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt. It is tokenised only once, so that sampler and learner see the same tokens.

    ``text`` is shown to the oracle. ``messages`` is set for chat prompts: (role, content) pairs.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    messages: Messages | None = None


# Of a run in the feedback service: not . or .., which clients and proxies take out of a path.
RUN_ID = r"^([A-Za-z0-9_-]|\.[A-Za-z0-9_-]|\.\.[A-Za-z0-9._-])[A-Za-z0-9._-]*$"
LONGEST_RUN_ID = 100

PROMPT_FORM = {"id": str, "text": str, "token_ids": tuple, "messages": tuple | None}
"""Schema (``saved_state.require``) of a prompt in a saved state."""


def prompt_from(row: Mapping[str, Any]) -> Prompt:
    """A prompt from its fields as read from JSON."""
    messages = row["messages"]
    pairs = None if messages is None else tuple((role, content) for role, content in messages)
    return Prompt(row["id"], row["text"], tuple(row["token_ids"]), pairs)


@dataclass(frozen=True, slots=True)
class Response:
    """A sampled continuation of a prompt.

    ``token_ids`` includes the end token if the policy generated one. ``logprobs`` holds the log-probability (nats) of
    each token under the policy that sampled it, at temperature 1. ``policy_version`` is the weight version that sampled
    the response, or ``REFERENCE_VERSION``.
    """

    id: str
    prompt_id: str
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    policy_version: int


RESPONSE_FORM = {
    "id": str,
    "prompt_id": str,
    "text": str,
    "token_ids": tuple,
    "logprobs": tuple,
    "policy_version": int,
}
"""Schema of a response in a saved state."""


def response_from(row: Mapping[str, Any]) -> Response:
    """A response from its fields as read from JSON."""
    return Response(**{**row, "token_ids": tuple(row["token_ids"]), "logprobs": tuple(row["logprobs"])})


@dataclass(frozen=True, slots=True)
class Candidates:
    """The distinct responses to one prompt, in sampling order."""

    prompt: Prompt
    responses: tuple[Response, ...]

    @classmethod
    def distinct(cls, prompt: Prompt, responses: Iterable[Response]) -> Self:
        """Candidates without duplicate texts; the first response with a text is kept."""
        first: dict[str, Response] = {}
        for response in responses:
            first.setdefault(response.text, response)
        return cls(prompt, tuple(first.values()))


@dataclass(frozen=True, slots=True)
class Duel:
    """Two different responses to one prompt, and why they were paired.

    ``belief`` is the posterior mean of the probability that ``first`` is preferred, and ``disagreement`` its posterior
    standard deviation, both before the answer; None without a posterior. ``typical_disagreement`` is the mean
    disagreement over all pairs of the prompt's candidates: the expectation for a random pair. ``by_chance``: nothing
    else decides which response is seen first.
    """

    id: str
    round: int
    prompt: Prompt
    first: Response
    second: Response
    rule: str
    policy_version: int
    posterior_version: int
    label_source: LabelSource
    belief: float | None = None
    disagreement: float | None = None
    typical_disagreement: float | None = None
    by_chance: bool = True

    @property
    def is_erased(self) -> bool:
        """Whether its texts were erased, so that nothing can be learnt from it."""
        return not self.prompt.token_ids

    def swap(self) -> Self:
        """The same duel with ``first`` and ``second`` exchanged."""
        belief = None if self.belief is None else 1.0 - self.belief
        return replace(self, first=self.second, second=self.first, belief=belief)

    def public(self) -> dict[str, Any]:
        """What an oracle may see of it, as a ``question``."""
        return question(self.id, self.prompt, self.first.text, self.second.text)


QUESTION_TEXTS = ("id", "prompt", "first", "second")
"""The fields of a question that are texts: what people and a user's function are shown."""


def question(name: str, prompt: Prompt, first: str, second: str) -> dict[str, Any]:
    """What an oracle may see: texts and an id, but not which model or rule produced them.

    ``messages`` are those of a chat prompt, for models with a chat template; None for a plain text.
    """
    return {"id": name, "prompt": prompt.text, "first": first, "second": second, "messages": prompt.messages}


@dataclass(frozen=True, slots=True)
class Hindsight:
    """The posterior's belief and disagreement about a duel, as in ``Duel``, after learning from its answer."""

    duel_id: str
    belief: float
    disagreement: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What one of several people said of a duel."""

    annotator: str
    outcome: Outcome

    def swap(self) -> Self:
        """The same answer to the duel with first and second exchanged."""
        return replace(self, outcome=self.outcome.swap())


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a duel that counts.

    ``probability`` is the oracle's probability that ``first`` is preferred, if it gives one. ``at`` is in seconds since
    the epoch. ``votes`` is the number of votes behind the verdict, if several people vote on a duel, and ``answers``
    says who said what.
    """

    duel_id: str
    outcome: Outcome
    annotator: str
    at: float
    probability: float | None = None
    votes: int = 1
    answers: tuple[Answer, ...] = ()

    def by_person(self) -> tuple[Answer, ...]:
        """Who said what; the verdict itself where it is one person's."""
        return self.answers or (Answer(self.annotator, self.outcome),)

    def swap(self) -> Self:
        """The same verdict on the duel with first and second exchanged."""
        probability = None if self.probability is None else 1.0 - self.probability
        answers = tuple(answer.swap() for answer in self.answers)
        return replace(self, outcome=self.outcome.swap(), probability=probability, answers=answers)


@dataclass(frozen=True, slots=True)
class Preference:
    """A training example: a prompt with its preferred and rejected response.

    ``confidence`` is the probability that the order is correct, if the label comes from the posterior. ``explored`` is
    the response in the exploration term of the loss, if there is one.
    """

    id: str
    prompt: Prompt
    chosen: Response
    rejected: Response
    source: LabelSource
    weight: float = 1.0
    confidence: float = 1.0
    annotator: str | None = None
    explored: Response | None = None


def winner_first(duel: Duel, verdict: Verdict) -> tuple[Duel, Verdict] | None:
    """Both, swapped if necessary so that the first response is the preferred one; None without a winner."""
    if verdict.duel_id != duel.id:
        raise ValueError(f"verdict for {verdict.duel_id} does not belong to {duel.id}")
    if not verdict.outcome.names_winner:
        return None
    return (duel, verdict) if verdict.outcome is Outcome.FIRST else (duel.swap(), verdict.swap())


def preference_from(duel: Duel, verdict: Verdict) -> Preference | None:
    """The preference that a verdict expresses; None for ties, ``both_bad`` and skips, which are stored only."""
    turned = winner_first(duel, verdict)
    if turned is None:
        return None
    winner, _ = turned
    return Preference(
        id=duel.id,
        prompt=duel.prompt,
        chosen=winner.first,
        rejected=winner.second,
        source=duel.label_source,
        annotator=verdict.annotator,
    )
