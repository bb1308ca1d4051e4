"""Duels that a run wrote down in an earlier life, when it lives their round again with other weights."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sea_agent.types import REFERENCE_VERSION, Duel, Response, TokenRow


def as_of_now(
    duels: Sequence[Duel],
    number: int,
    score: Callable[[Sequence[TokenRow]], list[list[float]]],
    *,
    tolerance: float,
) -> list[Duel]:
    """The duels as they stand to the weights of round ``number``; ``score`` gives log π(token) under these, in nats.

    Where the log-probabilities of both responses have moved by at most ``tolerance`` nats per token on average, the
    present policy could as well have sampled them: the duel belongs to the round, with the present log-probabilities.
    Otherwise it is one round and one version old. Responses of the frozen reference stay as they are.
    """
    rows = [
        (duel.prompt.token_ids, side.token_ids)
        for duel in duels
        for side in (duel.first, duel.second)
        if side.policy_version != REFERENCE_VERSION
    ]
    scores = iter(score(rows) if rows else [])
    return [_as_of_now(duel, number, lambda: next(scores), tolerance) for duel in duels]


def _as_of_now(duel: Duel, number: int, next_logprobs: Callable[[], list[float]], tolerance: float) -> Duel:
    first, second = (
        side if side.policy_version == REFERENCE_VERSION else replace(side, logprobs=tuple(next_logprobs()))
        for side in (duel.first, duel.second)
    )
    moved = max(_moved(duel.first, first), _moved(duel.second, second))
    late = not moved <= tolerance  # also where it is not a number
    first, second = (
        side if side.policy_version == REFERENCE_VERSION else replace(side, policy_version=number - 1 - late)
        for side in (first, second)
    )
    return replace(duel, first=first, second=second, round=number - late)


def _moved(before: Response, now: Response) -> float:
    """Mean absolute difference of the log-probabilities per token."""
    differences = [abs(a - b) for a, b in zip(before.logprobs, now.logprobs, strict=True)]
    return sum(differences) / max(len(differences), 1)
