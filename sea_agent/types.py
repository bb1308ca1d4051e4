"""What travels between the parts: plain frozen dataclasses with ids on everything.

No row is ever matched by position across a process boundary; it is matched by its id.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

__all__ = [
    "PROMPT_FORM",
    "REFERENCE_VERSION",
    "RESPONSE_FORM",
    "Candidates",
    "Duel",
    "Hindsight",
    "LabelSource",
    "Outcome",
    "Preference",
    "Prompt",
    "Response",
    "TokenRow",
    "Verdict",
    "preference_from",
    "prompt_from",
    "response_from",
]

REFERENCE_VERSION = -1
"""The policy version of responses of the frozen reference, which are off-policy on purpose at any time of the run."""


TokenRow = tuple[Sequence[int], Sequence[int]]
"""The tokens of a prompt and those of a response to it."""


class LabelSource(StrEnum):
    """Who labels a duel. Only ``ORACLE`` duels may reach an oracle."""

    ORACLE = "oracle"
    POSTERIOR = "posterior"
    DEMO = "demo"
    SELF = "self"


class Outcome(StrEnum):
    """The answer to a duel."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"
    BOTH_BAD = "both_bad"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, tokenised exactly once so that sampler and learner see the same tokens.

    ``text`` is what an oracle reads. ``messages`` is set for chat prompts: (role, content) pairs.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    messages: tuple[tuple[str, str], ...] | None = None


PROMPT_FORM = {"id": str, "text": str, "token_ids": tuple, "messages": tuple | None}
"""The form (``forms.require``) of a prompt's fields in a saved state."""


def prompt_from(row: Mapping[str, Any]) -> Prompt:
    """A prompt from its fields as JSON keeps them."""
    messages = row["messages"]
    pairs = None if messages is None else tuple((role, content) for role, content in messages)
    return Prompt(row["id"], row["text"], tuple(row["token_ids"]), pairs)


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled continuation of a prompt.

    ``token_ids`` includes the end token when the policy wrote one. ``logprobs`` holds, for each token, its
    natural-log probability under the policy that sampled it, before temperature. ``policy_version`` is the
    weight version that sampled it, or ``REFERENCE_VERSION``.
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
"""The form of a response's fields in a saved state."""


def response_from(row: Mapping[str, Any]) -> Response:
    """A response from its fields as JSON keeps them."""
    return Response(**{**row, "token_ids": tuple(row["token_ids"]), "logprobs": tuple(row["logprobs"])})


@dataclass(frozen=True, slots=True)
class Candidates:
    """The distinct responses to one prompt, in sampling order."""

    prompt: Prompt
    responses: tuple[Response, ...]

    @classmethod
    def distinct(cls, prompt: Prompt, responses: Iterable[Response]) -> Self:
        """The responses without duplicates by text; the first of equals stays."""
        first: dict[str, Response] = {}
        for response in responses:
            first.setdefault(response.text, response)
        return cls(prompt, tuple(first.values()))


@dataclass(frozen=True, slots=True)
class Duel:
    """Two different responses to one prompt and why they were paired.

    ``belief`` is the posterior's mean probability that ``first`` is preferred, ``disagreement`` the standard
    deviation of that probability over the posterior, both before the answer; None without a posterior.
    ``typical_disagreement`` is the mean disagreement about all pairs of the prompt's candidates: what a pair chosen at
    random has in expectation.
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

    def swap(self) -> Self:
        """The same duel with first and second exchanged."""
        belief = None if self.belief is None else 1.0 - self.belief
        return replace(self, first=self.second, second=self.first, belief=belief)

    def public(self) -> dict[str, Any]:
        """What an oracle may see: texts and an id, never which model or rule made them."""
        return {
            "id": self.id,
            "prompt": self.prompt.text,
            "first": self.first.text,
            "second": self.second.text,
        }


@dataclass(frozen=True, slots=True)
class Hindsight:
    """What the posterior believes of a duel once it has learnt from the answer; as in ``Duel``."""

    duel_id: str
    belief: float
    disagreement: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer to a duel.

    ``probability`` is the oracle's probability that ``first`` is preferred, where it gives one. ``at`` is
    seconds since the epoch. ``votes`` counts the answers behind it, where several people answer one duel.
    """

    duel_id: str
    outcome: Outcome
    annotator: str
    at: float
    probability: float | None = None
    votes: int = 1


@dataclass(frozen=True, slots=True)
class Preference:
    """What the learner eats: one ordered pair, and the response on which the loss is optimistic, if it is.

    ``confidence`` is the probability that the order is right, where the label comes from a model that knows it.
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


def preference_from(duel: Duel, verdict: Verdict) -> Preference | None:
    """The preference a verdict expresses, or None for ties, ``both_bad`` and skips (stored, not trained on)."""
    if verdict.duel_id != duel.id:
        raise ValueError(f"verdict for {verdict.duel_id} does not belong to {duel.id}")
    if verdict.outcome not in (Outcome.FIRST, Outcome.SECOND):
        return None
    winner = duel if verdict.outcome is Outcome.FIRST else duel.swap()
    return Preference(
        id=duel.id,
        prompt=duel.prompt,
        chosen=winner.first,
        rejected=winner.second,
        source=duel.label_source,
        annotator=verdict.annotator,
    )
