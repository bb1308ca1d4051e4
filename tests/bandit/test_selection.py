"""Each rule takes the pair its definition names; all take two different valid candidates.

``diverse_duels`` takes the duels that tell most together.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sea_agent.bandit.selection import RULES, belief, diverse_duels, select_pairs, typical_disagreement
from sea_agent.config import parts as config
from sea_agent.errors import RunFailure

NAMES = sorted(RULES)
BY_REWARD = ["apl", "best_worst", "information", "sea_bai", "sea_ee", "uncertainty"]


def choose(rule: str, rewards_S_M: list[list[float]], valid_M: list[bool] | None = None, **options: Any) -> list[int]:
    """The pair for one prompt."""
    rewards_S_P_M = torch.tensor(rewards_S_M)[:, None, :]
    valid_P_M = torch.tensor([valid_M or [True] * rewards_S_P_M.shape[2]])
    return select_pairs(rule, rewards_S_P_M, valid_P_M, np.random.default_rng(0), **options)[0].tolist()


def test_the_config_offers_exactly_the_rules_of_the_table() -> None:
    assert set(config.RULES) == set(RULES)


def test_sea_ee_scans_draws_until_one_names_another_best() -> None:
    draws = [[0.0, 3.0, 1.0, 2.0], [0.0, 9.0, 1.0, 2.0], [5.0, 4.0, 1.0, 2.0], [0.0, 4.0, 1.0, 9.0]]
    assert choose("sea_ee", draws) == [1, 0]


def test_sea_ee_takes_the_runner_up_of_the_last_draw_when_all_name_the_same_best() -> None:
    draws = [[0.0, 9.0, 3.0, 2.0], [0.0, 9.0, 3.0, 2.0], [1.0, 9.0, 2.0, 8.0]]
    assert choose("sea_ee", draws) == [1, 3]


def test_sea_bai_duels_the_best_with_the_opponent_whose_probability_varies_most() -> None:
    # Against candidate 0, candidate 1 swings between σ(-1) and σ(1); candidate 2 only far out, where σ is flat.
    draws = [[9.0, 8.0, 1.0], [0.0, 1.0, -20.0]]
    assert choose("sea_bai", draws, variance="probability") == [0, 1]
    assert choose("sea_bai", draws, variance="difference") == [0, 2]


@pytest.mark.parametrize("variance", ["probability", "difference"])
def test_uncertainty_takes_the_pair_that_varies_most_not_the_most_variable_candidates(variance: str) -> None:
    # 0 and 1 vary most, but together: only pairs with candidate 2 or 3 are uncertain.
    draws = [[5.0, 5.0, 1.0, 0.0], [-5.0, -5.1, -1.0, 1.0]]
    assert choose("uncertainty", draws, variance=variance) == [1, 3]


def test_uncertainty_of_the_probability_disregards_rewards_that_are_far_apart() -> None:
    # Candidates 0 and 1 swing around each other; both are certain to beat 2, by an uncertain distance.
    draws = [[9.0, 8.0, 1.0], [0.0, 1.0, -20.0]]
    assert choose("uncertainty", draws, variance="probability") == [0, 1]
    assert choose("uncertainty", draws, variance="difference") == [1, 2]


def test_information_takes_the_label_that_tells_most_though_another_probability_varies_more() -> None:
    # σ(r0 − r1) is .3 or .7, a variance of .040 whose label is worth .082 nats, for it is noisy under both draws.
    # σ(r0 − r2) is .001 or .25, a variance of .016 worth .092 nats: a loss would settle the matter.
    # σ(r1 − r2) is .0023 or .125: .004 and .040 nats.
    def logit(chance: float) -> float:
        return math.log(chance / (1 - chance))

    draws = [[0.0, -logit(0.3), -logit(0.001)], [0.0, -logit(0.7), -logit(0.25)]]
    assert choose("information", draws) == [0, 2]
    assert choose("uncertainty", draws) == [0, 1]


def test_information_does_not_ask_what_chance_decides() -> None:
    # 0 and 1 are a fair coin under both draws: the least predictable label, and it tells nothing.
    assert choose("information", [[0.0, 0.0, 2.0], [0.0, 0.0, 3.0]]) == [0, 2]


def test_apl_takes_the_ends_of_the_mean_reward() -> None:
    assert choose("apl", [[2.0, 7.0, -1.0, 3.0]]) == [1, 2]
    assert choose("apl", [[2.0, 7.0, -1.0, 3.0], [0.0, 0.0, 9.0, 9.0]]) == [3, 0]


@pytest.mark.parametrize(
    ("rewards_M", "tied"),
    [
        ([0.0, 5.0, 0.0, 0.0], [[0, 2], [0, 3], [2, 0], [2, 3], [3, 0], [3, 2]]),  # 1 is not valid
        ([4.0, 9.0, -1.0, 4.0], [[0, 2], [3, 2]]),
    ],
)
def test_apl_breaks_ties_evenly_at_random(rewards_M: list[float], tied: list[list[int]]) -> None:
    prompts = 6000
    valid_P_M = torch.tensor([[True, False, True, True]]).expand(prompts, 4)
    rewards_S_P_M = torch.tensor(rewards_M).expand(1, prompts, 4)
    pairs_P_2 = select_pairs("apl", rewards_S_P_M, valid_P_M, np.random.default_rng(1))
    pairs, counts = np.unique(pairs_P_2.numpy(), axis=0, return_counts=True)
    assert pairs.tolist() == tied
    share = 1 / len(tied)
    assert (np.abs(counts - prompts * share) < 5 * np.sqrt(prompts * share * (1 - share))).all()


def test_best_worst_takes_the_ends_of_draw_0_only() -> None:
    assert choose("best_worst", [[2.0, 7.0, -1.0], [9.0, 0.0, 5.0]]) == [1, 2]


def test_best_worst_of_equal_rewards_is_still_two_candidates() -> None:
    assert len(set(choose("best_worst", [[1.0, 1.0, 1.0]]))) == 2


def test_passive_takes_the_first_two_valid_candidates() -> None:
    assert choose("passive", [[0.0] * 4], [False, True, False, True]) == [1, 3]


def test_uniform_takes_every_ordered_pair_equally_often() -> None:
    valid_P_M = torch.tensor([[True, False, True, True]]).expand(6000, 4)
    pairs_P_2 = select_pairs("uniform", None, valid_P_M, np.random.default_rng(1))
    pairs, counts = np.unique(pairs_P_2.numpy(), axis=0, return_counts=True)
    assert pairs.tolist() == [[0, 2], [0, 3], [2, 0], [2, 3], [3, 0], [3, 2]]
    assert (np.abs(counts - 1000) < 5 * np.sqrt(1000 * 5 / 6)).all()


@pytest.mark.parametrize("rule", ["passive", "uniform"])
def test_rules_without_rewards_do_not_read_them(rule: str) -> None:
    valid_P_M = torch.ones(3, 5, dtype=torch.bool)
    blind = select_pairs(rule, None, valid_P_M, np.random.default_rng(2))
    informed = select_pairs(rule, torch.randn(4, 3, 5), valid_P_M, np.random.default_rng(2))
    assert torch.equal(blind, informed)


@st.composite
def bandits(draw: st.DrawFn, distinct: bool = False) -> tuple[Tensor, Tensor]:
    """Rewards with NaN at invalid candidates; with ties unless ``distinct``."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(2, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    rewards_S_P_M = generator.normal(size=shape) if distinct else generator.integers(-2, 3, shape)
    valid_P_M = torch.from_numpy(generator.random(shape[1:]) < 0.6)
    valid_P_M[:, :2] = True
    return torch.from_numpy(rewards_S_P_M).float().masked_fill(~valid_P_M, torch.nan), valid_P_M


@settings(max_examples=60, deadline=None)
@given(bandits(), st.sampled_from(NAMES), st.integers(0, 99))
def test_every_pair_is_two_different_valid_candidates_and_reproducible(
    bandit: tuple[Tensor, Tensor], rule: str, seed: int
) -> None:
    rewards_S_P_M, valid_P_M = bandit
    pairs_P_2 = select_pairs(rule, rewards_S_P_M, valid_P_M, np.random.default_rng(seed))
    assert pairs_P_2.dtype == torch.int64
    assert (pairs_P_2[:, 0] != pairs_P_2[:, 1]).all()
    assert valid_P_M.gather(1, pairs_P_2).all()
    again_P_2 = select_pairs(rule, rewards_S_P_M, valid_P_M, np.random.default_rng(seed))
    assert torch.equal(pairs_P_2, again_P_2)


@settings(max_examples=60, deadline=None)
@given(bandits(distinct=True), st.sampled_from(BY_REWARD), st.randoms(use_true_random=False))
def test_pairs_do_not_depend_on_the_order_of_the_candidates(
    bandit: tuple[Tensor, Tensor], rule: str, random: Any
) -> None:
    rewards_S_P_M, valid_P_M = bandit
    # One draw has no variance, so all opponents tie.
    assume(rule in ("sea_ee", "best_worst", "apl") or len(rewards_S_P_M) > 1)
    order = list(range(valid_P_M.shape[1]))
    random.shuffle(order)
    straight_P_2 = select_pairs(rule, rewards_S_P_M, valid_P_M, np.random.default_rng(0))
    moved_P_2 = select_pairs(rule, rewards_S_P_M[..., order], valid_P_M[:, order], np.random.default_rng(0))
    back_P_2 = torch.tensor(order)[moved_P_2]
    if rule in ("uncertainty", "information"):  # their pairs have no first and second
        straight_P_2, back_P_2 = straight_P_2.sort(1).values, back_P_2.sort(1).values
    assert torch.equal(straight_P_2, back_P_2)


@settings(max_examples=60, deadline=None)
@given(bandits(), st.sampled_from(NAMES), st.floats(width=32))
def test_pairs_do_not_depend_on_what_stands_where_no_candidate_is(
    bandit: tuple[Tensor, Tensor], rule: str, filling: float
) -> None:
    rewards_S_P_M, valid_P_M = bandit
    other_S_P_M = rewards_S_P_M.masked_fill(~valid_P_M, filling)
    pairs_P_2, other_P_2 = (
        select_pairs(rule, rewards, valid_P_M, np.random.default_rng(0)) for rewards in (rewards_S_P_M, other_S_P_M)
    )
    assert torch.equal(pairs_P_2, other_P_2)


def test_the_order_check_notices_a_rule_that_looks_at_positions() -> None:
    valid_P_M = torch.ones(1, 3, dtype=torch.bool)
    order = [2, 0, 1]
    moved_P_2 = select_pairs("passive", None, valid_P_M[:, order], np.random.default_rng(0))
    assert torch.tensor(order)[moved_P_2].tolist() != [[0, 1]]


@pytest.mark.parametrize("rule", NAMES)
def test_a_prompt_with_one_candidate_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="fewer than two"):
        choose(rule, [[1.0, 2.0]], [True, False])


@pytest.mark.parametrize("rule", BY_REWARD)
def test_rules_by_reward_refuse_missing_and_broken_rewards(rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        select_pairs(rule, None, torch.ones(1, 2, dtype=torch.bool), np.random.default_rng(0))
    with pytest.raises(RunFailure, match="not finite"):
        choose(rule, [[1.0, float("nan")]])


def test_belief_is_mean_and_deviation_of_the_probability_over_draws() -> None:
    # σ(log 3) = 3/4 and σ(-log 3) = 1/4; the second prompt's draws agree.
    rewards_S_P_M = torch.tensor([[[0.0, math.log(3.0)], [0.0, 0.0]], [[math.log(3.0), 0.0], [2.0, 2.0]]])
    mean_P, deviation_P = belief(rewards_S_P_M, torch.tensor([[0, 1], [1, 0]]))
    torch.testing.assert_close(mean_P, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(deviation_P, torch.tensor([0.25, 0.0]))


def test_belief_in_the_swapped_duel_is_the_complement() -> None:
    rewards_S_P_M = torch.randn(7, 5, 3, generator=torch.Generator().manual_seed(0))
    pairs_P_2 = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2], [1, 0]])
    mean_P, deviation_P = belief(rewards_S_P_M, pairs_P_2)
    swapped_mean_P, swapped_deviation_P = belief(rewards_S_P_M, pairs_P_2.flip(1))
    torch.testing.assert_close(mean_P + swapped_mean_P, torch.ones(5))
    torch.testing.assert_close(deviation_P, swapped_deviation_P)


def test_typical_disagreement_is_the_mean_over_all_pairs_of_real_candidates() -> None:
    rewards_S_P_M = torch.randn(9, 2, 4, generator=torch.Generator().manual_seed(0))
    valid_P_M = torch.tensor([[True, True, True, True], [True, False, True, True]])
    expected = [
        np.mean(
            [
                belief(rewards_S_P_M, torch.tensor([[one, other]]).expand(2, 2))[1][row].item()
                for one in range(4)
                for other in range(one)
                if valid_P_M[row, one] and valid_P_M[row, other]
            ]
        )
        for row in range(2)
    ]
    np.testing.assert_allclose(typical_disagreement(rewards_S_P_M, valid_P_M), expected, rtol=1e-6)
    assert typical_disagreement(rewards_S_P_M, torch.ones(2, 4, dtype=torch.bool))[1] != pytest.approx(expected[1])


# --- duels that are asked together -----------------------------------------------------------------------------------


def information_of(margins_S_Q: Tensor, chosen: list[int]) -> float:
    """½ log det(I + W½ C W½) of some duels, in nats."""
    margins = margins_S_Q.double().numpy()[:, chosen]
    covariance = np.atleast_2d(np.cov(margins.T, bias=True))
    chance = 1 / (1 + np.exp(-margins))
    root = np.sqrt((chance * (1 - chance)).mean(0))
    return float(np.linalg.slogdet(np.eye(len(chosen)) + root[:, None] * covariance * root)[1] / 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.integers(1, 6), st.integers(0, 2**32), st.sampled_from([0.1, 1.0, 5.0]))
def test_each_duel_chosen_adds_most_to_the_information_of_those_before_it(
    draws: int, duels: int, seed: int, scale: float
) -> None:
    margins_S_Q = torch.from_numpy(scale * np.random.default_rng(seed).normal(size=(draws, duels)))
    chosen = diverse_duels(margins_S_Q, duels).tolist()
    assert sorted(chosen) == list(range(duels))
    for done in range(duels):
        values = [information_of(margins_S_Q, [*chosen[:done], other]) for other in set(chosen[done:])]
        assert information_of(margins_S_Q, chosen[: done + 1]) >= max(values) - 1e-9


def test_duels_that_tell_the_same_are_not_asked_together() -> None:
    # 0 and 1 are one question; 2 is another, less uncertain by itself.
    margins_S_Q = torch.tensor([[1.1, 1.1, 1.0], [-1.1, -1.1, 1.0], [1.1, 1.1, -1.0], [-1.1, -1.1, -1.0]])
    assert diverse_duels(margins_S_Q, 2).tolist() == [0, 2]
    alone = [information_of(margins_S_Q, [duel]) for duel in range(3)]
    assert min(alone[:2]) > alone[2], "each by itself, 0 and 1 would be asked"


def test_a_duel_whose_answer_is_certain_is_asked_last() -> None:
    margins_S_Q = torch.tensor([[6.0, 0.5, 9.0], [14.0, -0.5, 10.0]])
    assert diverse_duels(margins_S_Q, 3)[0] == 1


def test_more_duels_than_there_are_cannot_be_chosen() -> None:
    with pytest.raises(ValueError, match="3 of 2"):
        diverse_duels(torch.zeros(4, 2), 3)
