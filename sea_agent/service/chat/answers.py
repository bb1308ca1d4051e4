"""What a request is, what its answer is made of, and the shapes that it takes on its way out and onto the disk."""

from dataclasses import dataclass
from typing import Any, Literal

from sea_agent.service.chat.asking import Plan
from sea_agent.service.chat.engines import Prompt, Said, Whole
from sea_agent.service.schemas.chat import ChatIn, ChatOut, Choice, DuelOut, MessageOut, SeaOut, Usage
from sea_agent.service.store import queries

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is to be answered. ``place`` is the engine of its user while there is a canary."""

    id: str
    body: ChatIn
    run: str
    user_hash: str
    conversation: str
    key_id: str
    idempotency_key: str | None
    digest: str
    created_at: float
    heldout: bool
    eligible: bool
    plan: Plan
    place: int | None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation."""
        return [message.plain() for message in self.body.messages]

    def read(self, prompt: Prompt | None) -> list[dict[str, str]]:
        """What of the conversation the policy read: of nothing else may be said that a response answers it."""
        return self.messages[-1:] if prompt is not None and prompt.last_only else self.messages


@dataclass(slots=True)
class Outcome:
    """What is shown, the first choice first, and what the user is asked. ``duel`` has the pair in its own order."""

    shown: list[Whole]
    asked: Literal["duel", "audit"] | None = None
    duel: tuple[Whole, Whole] | None = None
    information: float | None = None
    """Nats that an answer would have told, of a request for which it was looked at."""
    regret: float | None = None
    """Posterior mean of the best reward less that of what is shown."""
    by_chance: bool = False
    """Whether chance alone decided which of the two responses the user sees first."""

    @property
    def version(self) -> int | None:
        """The oldest version among the tokens shown. An audit, which shows the initial policy beside the live one, has
        that of the live one: it must not be told from other duels."""
        versions = [whole.version for whole in self.shown if whole.version is not None]
        return max(versions, default=None) if self.asked == "audit" else min(versions, default=None)


def pair_of(said: Said, everyone: list[Whole]) -> tuple[Whole, Whole] | None:
    """The two responses that the decider names, if it names two that differ."""
    if said.pair is None:
        return None
    first, second = (everyone[place] for place in said.pair)
    return (first, second) if first.text != second.text else None


def prompt_out(prompt: Prompt | None) -> dict[str, Any]:
    """A prompt as the decider and the store take it."""
    return {} if prompt is None else {"text": prompt.text, "token_ids": list(prompt.token_ids)}


def response_out(asked: Asked, index: int, whole: Whole) -> dict[str, Any]:
    """A response as the decider and the store take it."""
    return {
        "id": f"response-{asked.id.removeprefix('chatcmpl-')}-{index}",
        "text": whole.text,
        "token_ids": whole.token_ids,
        "logprobs": whole.logprobs,
        "policy_version": whole.version or 0,
    }


def duel_out(asked: Asked, outcome: Outcome, now: float, patience_hours: float) -> dict[str, Any] | None:
    """The duel as the store takes it, its responses in the order in which they were chosen."""
    if outcome.duel is None:
        return None
    first, second = outcome.duel
    values = {
        "client_key": asked.id,
        "prompt": prompt_out(first.prompt)["text"],
        "first": first.text,
        "second": second.text,
        "policy_version": first.version,
        "rule": "audit" if outcome.asked == "audit" else "sea_ee",
        "score": outcome.information,
        "votes_needed": 1,
        "priority": 0,
        "expires_at": now + patience_hours * HOUR,
        "gold": None,
    }
    (duel,) = queries.addressed([values])
    return duel


def answer_out(asked: Asked, outcome: Outcome, duel: dict[str, Any] | None) -> ChatOut:
    """The answer in OpenAI's shape."""
    prompt = outcome.shown[0].prompt
    usage = (0 if prompt is None else len(prompt.token_ids), sum(len(whole.token_ids) for whole in outcome.shown))
    return ChatOut(
        id=asked.id,
        created=int(asked.created_at),
        model=asked.run,
        choices=[
            Choice(
                index=index,
                message=MessageOut(content=whole.text),
                finish_reason="length" if whole.finish == "length" else "stop",
            )
            for index, whole in enumerate(outcome.shown)
        ],
        usage=Usage(prompt_tokens=usage[0], completion_tokens=usage[1], total_tokens=sum(usage)),
        sea=SeaOut(
            policy_version=outcome.version,
            duel=None if duel is None else DuelOut(id=duel["id"], expires_at=duel["expires_at"]),
        ),
    )
