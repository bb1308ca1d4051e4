"""Each rule takes the pair its definition names; all take two different valid candidates."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sea_agent.bandit.selection import RULES, belief, select_pairs
from sea_agent.config import SelectionConfig
from sea_agent.errors import RunFailure

NAMES = sorted(RULES)
BY_REWARD = ["best_worst", "sea_bai", "sea_ee", "uncertainty"]


def choose(rule: str, rewards_S_M: list[list[float]], valid_M: list[bool] | None = None, **options: Any) -> list[int]:
    """The pair for one prompt."""
    rewards_S_P_M = torch.tensor(rewards_S_M)[:, None, :]
    valid_P_M = torch.tensor([valid_M or [True] * rewards_S_P_M.shape[2]])
    config = SelectionConfig.model_validate({"rule": rule, **options})
    return select_pairs(config, rewards_S_P_M, valid_P_M, np.random.default_rng(0))[0].tolist()


def test_the_config_offers_exactly_the_rules_of_the_table() -> None:
    offered = SelectionConfig.model_json_schema()["properties"]["rule"]["enum"]
    assert sorted(offered) == NAMES


def test_sea_ee_scans_draws_until_one_names_another_best() -> None:
    draws = [[0.0, 3.0, 1.0, 2.0], [0.0, 9.0, 1.0, 2.0], [5.0, 4.0, 1.0, 2.0], [0.0, 4.0, 1.0, 9.0]]
    assert choose("sea_ee", draws) == [1, 0]


def test_sea_ee_takes_the_runner_up_of_the_last_draw_when_all_name_the_same_best() -> None:
    draws = [[0.0, 9.0, 3.0, 2.0], [0.0, 9.0, 3.0, 2.0], [1.0, 9.0, 2.0, 8.0]]
    assert choose("sea_ee", draws) == [1, 3]


def test_sea_bai_duels_the_best_with_the_opponent_whose_probability_varies_most() -> None:
    # Against candidate 0, candidate 1 swings between σ(-1) and σ(1); candidate 2 only far out, where σ is flat.
    draws = [[9.0, 8.0, 1.0], [0.0, 1.0, -20.0]]
    assert choose("sea_bai", draws, bai_variance="probability") == [0, 1]
    assert choose("sea_bai", draws, bai_variance="difference") == [0, 2]


def test_uncertainty_takes_the_pair_of_largest_difference_variance_not_the_most_variable_candidates() -> None:
    # 0 and 1 vary most, but together: only pairs with candidate 2 or 3 have an uncertain difference.
    draws = [[5.0, 5.0, 1.0, 0.0], [-5.0, -5.1, -1.0, 1.0]]
    assert choose("uncertainty", draws) == [1, 3]


def test_best_worst_takes_the_ends_of_draw_0_only() -> None:
    assert choose("best_worst", [[2.0, 7.0, -1.0], [9.0, 0.0, 5.0]]) == [1, 2]


def test_best_worst_of_equal_rewards_is_still_two_candidates() -> None:
    assert len(set(choose("best_worst", [[1.0, 1.0, 1.0]]))) == 2


def test_passive_takes_the_first_two_valid_candidates() -> None:
    assert choose("passive", [[0.0] * 4], [False, True, False, True]) == [1, 3]


def test_uniform_takes_every_ordered_pair_equally_often() -> None:
    valid_P_M = torch.tensor([[True, False, True, True]]).expand(6000, 4)
    pairs_P_2 = select_pairs(SelectionConfig(rule="uniform"), None, valid_P_M, np.random.default_rng(1))
    pairs, counts = np.unique(pairs_P_2.numpy(), axis=0, return_counts=True)
    assert pairs.tolist() == [[0, 2], [0, 3], [2, 0], [2, 3], [3, 0], [3, 2]]
    assert (np.abs(counts - 1000) < 5 * np.sqrt(1000 * 5 / 6)).all()


@pytest.mark.parametrize("rule", ["passive", "uniform"])
def test_rules_without_rewards_do_not_read_them(rule: str) -> None:
    valid_P_M = torch.ones(3, 5, dtype=torch.bool)
    config = SelectionConfig.model_validate({"rule": rule})
    blind = select_pairs(config, None, valid_P_M, np.random.default_rng(2))
    informed = select_pairs(config, torch.randn(4, 3, 5), valid_P_M, np.random.default_rng(2))
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
    config = SelectionConfig.model_validate({"rule": rule})
    pairs_P_2 = select_pairs(config, rewards_S_P_M, valid_P_M, np.random.default_rng(seed))
    assert pairs_P_2.dtype == torch.int64
    assert (pairs_P_2[:, 0] != pairs_P_2[:, 1]).all()
    assert valid_P_M.gather(1, pairs_P_2).all()
    again_P_2 = select_pairs(config, rewards_S_P_M, valid_P_M, np.random.default_rng(seed))
    assert torch.equal(pairs_P_2, again_P_2)


@settings(max_examples=60, deadline=None)
@given(bandits(distinct=True), st.sampled_from(BY_REWARD), st.randoms(use_true_random=False))
def test_pairs_do_not_depend_on_the_order_of_the_candidates(
    bandit: tuple[Tensor, Tensor], rule: str, random: Any
) -> None:
    rewards_S_P_M, valid_P_M = bandit
    # One draw has no variance, so all opponents tie.
    assume(rule in ("sea_ee", "best_worst") or len(rewards_S_P_M) > 1)
    order = list(range(valid_P_M.shape[1]))
    random.shuffle(order)
    config = SelectionConfig.model_validate({"rule": rule})
    straight_P_2 = select_pairs(config, rewards_S_P_M, valid_P_M, np.random.default_rng(0))
    moved_P_2 = select_pairs(config, rewards_S_P_M[..., order], valid_P_M[:, order], np.random.default_rng(0))
    back_P_2 = torch.tensor(order)[moved_P_2]
    if rule == "uncertainty":  # its pair has no first and second
        straight_P_2, back_P_2 = straight_P_2.sort(1).values, back_P_2.sort(1).values
    assert torch.equal(straight_P_2, back_P_2)


def test_the_order_check_notices_a_rule_that_looks_at_positions() -> None:
    valid_P_M = torch.ones(1, 3, dtype=torch.bool)
    order = [2, 0, 1]
    moved_P_2 = select_pairs(SelectionConfig(rule="passive"), None, valid_P_M[:, order], np.random.default_rng(0))
    assert torch.tensor(order)[moved_P_2].tolist() != [[0, 1]]


@pytest.mark.parametrize("rule", NAMES)
def test_a_prompt_with_one_candidate_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="fewer than two"):
        choose(rule, [[1.0, 2.0]], [True, False])


@pytest.mark.parametrize("rule", BY_REWARD)
def test_rules_by_reward_refuse_missing_and_broken_rewards(rule: str) -> None:
    config = SelectionConfig.model_validate({"rule": rule})
    with pytest.raises(ValueError, match=rule):
        select_pairs(config, None, torch.ones(1, 2, dtype=torch.bool), np.random.default_rng(0))
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
