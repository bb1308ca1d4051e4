"""Duels that a run wrote down in an earlier life, when it lives their round again with other weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sea_agent.types import REFERENCE_VERSION, Duel, TokenRow


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
    sampled = {
        side.id: (duel.prompt.token_ids, side.token_ids)
        for duel in duels
        for side in (duel.first, duel.second)
        if side.policy_version != REFERENCE_VERSION
    }
    now = dict(zip(sampled, score(list(sampled.values())), strict=True)) if sampled else {}
    return [_as_of_now(duel, number, now, tolerance) for duel in duels]


def _as_of_now(duel: Duel, number: int, now: Mapping[str, Sequence[float]], tolerance: float) -> Duel:
    """``now`` has the present log-probabilities of the policy's responses, by id."""
    sides = (duel.first, duel.second)
    moved = [_distance(side.logprobs, now[side.id]) for side in sides if side.id in now]
    late = not all(distance <= tolerance for distance in moved)  # also where one is not a number
    first, second = (
        replace(side, logprobs=tuple(now[side.id]), policy_version=number - 1 - late) if side.id in now else side
        for side in sides
    )
    return replace(duel, first=first, second=second, round=number - late)


def _distance(before: Sequence[float], now: Sequence[float]) -> float:
    """Mean absolute difference of the log-probabilities per token."""
    differences = [abs(a - b) for a, b in zip(before, now, strict=True)]
    return sum(differences) / max(len(differences), 1)
