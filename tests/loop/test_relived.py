"""Duels of an earlier life belong to their round, or are late, by how far the policy has moved."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from made_duels import duel

from sea_agent.loop.relived import as_of_now
from sea_agent.types import REFERENCE_VERSION, Duel, TokenRow

NUMBER = 7


def moved_by(*distances: float) -> list[Duel]:
    """A duel for each pair of distances, in round 7 under weights that give the responses' tokens so much more."""
    duels = [duel(f"x{index}", number=NUMBER) for index in range(len(distances) // 2)]
    before = [list(side.logprobs) for one in duels for side in (one.first, one.second)]

    def score(rows: Sequence[TokenRow]) -> list[list[float]]:
        assert list(rows) == [
            (one.prompt.token_ids, side.token_ids) for one in duels for side in (one.first, one.second)
        ]
        return [[value + by for value in row] for row, by in zip(before, distances, strict=True)]

    return as_of_now(duels, NUMBER, score, tolerance=0.05)


def test_what_the_present_policy_would_sample_as_well_belongs_to_the_round_with_the_present_logprobs() -> None:
    (now,) = moved_by(0.049, -0.03)
    assert now.round == NUMBER
    assert (now.first.policy_version, now.second.policy_version) == (NUMBER - 1, NUMBER - 1)
    assert now.first.logprobs == pytest.approx((-0.5 + 0.049, -0.1 + 0.049))
    assert now.second.logprobs == pytest.approx((-0.7 - 0.03, -0.2 - 0.03))


@pytest.mark.parametrize(
    "distances", [(0.051, 0.0), (0.0, -0.051), (float("nan"), 0.0), (0.0, float("nan")), (0.0, float("inf"))]
)
def test_a_duel_of_which_one_response_has_moved_further_is_a_round_and_a_version_old(
    distances: tuple[float, float],
) -> None:
    (now,) = moved_by(*distances)
    assert now.round == NUMBER - 1
    assert (now.first.policy_version, now.second.policy_version) == (NUMBER - 2, NUMBER - 2)


def test_each_duel_is_judged_by_its_own_responses() -> None:
    assert [one.round for one in moved_by(0.0, 0.2, 0.0, 0.0, 0.3, 0.3)] == [NUMBER - 1, NUMBER, NUMBER - 1]


def test_responses_of_the_reference_stay_as_they_are_and_are_not_scored() -> None:
    one = duel("x", number=NUMBER)
    frozen = replace(one.second, policy_version=REFERENCE_VERSION)
    asked: list[TokenRow] = []

    def score(rows: Sequence[TokenRow]) -> list[list[float]]:
        asked.extend(rows)
        return [[value + 1.0 for value in one.first.logprobs]]

    (now,) = as_of_now([replace(one, second=frozen)], NUMBER, score, tolerance=0.05)
    assert asked == [(one.prompt.token_ids, one.first.token_ids)]
    assert now.second == frozen
    assert (now.round, now.first.policy_version) == (NUMBER - 1, NUMBER - 2)
    both = replace(one, first=replace(one.first, policy_version=REFERENCE_VERSION), second=frozen)
    assert as_of_now([both], NUMBER, pytest.fail, tolerance=0.05) == [both]
