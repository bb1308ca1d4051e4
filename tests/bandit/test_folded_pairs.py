"""The pairs of imagined rounds: every candidate against its mirror image in the posterior's order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sea_agent.bandit.mixing import folded_pairs, imagined_rounds
from sea_agent.config import ImaginationConfig


def test_the_best_meets_the_worst_and_the_second_best_the_second_worst() -> None:
    rewards_S_P_M = torch.tensor([[[0.0, 3.0, -1.0, 1.0, 9.0]], [[0.0, 5.0, -3.0, 1.0, 9.0]]])
    valid_P_M = torch.tensor([[True, True, True, True, False]])
    rows_Q, pairs_Q_2, probability_Q = folded_pairs(rewards_S_P_M, valid_P_M)
    assert rows_Q.tolist() == [0, 0]
    assert pairs_Q_2.tolist() == [[1, 2], [3, 0]]
    gaps = torch.tensor([[4.0, 1.0], [8.0, 1.0]])
    torch.testing.assert_close(probability_Q, gaps.sigmoid().mean(0))


def test_an_odd_candidate_in_the_middle_is_left_out() -> None:
    _, pairs_Q_2, _ = folded_pairs(torch.tensor([[[2.0, 1.0, 3.0]]]), torch.ones(1, 3, dtype=torch.bool))
    assert pairs_Q_2.tolist() == [[2, 1]]


def test_draws_that_disagree_give_a_probability_near_a_half() -> None:
    valid_P_M = torch.ones(1, 2, dtype=torch.bool)
    doubtful = folded_pairs(torch.tensor([[[6.0, 0.0]], [[-5.0, 0.0]]]), valid_P_M)[2]
    sure = folded_pairs(torch.tensor([[[0.5, 0.0]], [[0.5, 0.0]]]), valid_P_M)[2]
    # The same mean, and one of them is believed.
    assert doubtful.item() == pytest.approx(0.5, abs=0.01)
    assert sure.item() > 0.6


@given(st.integers(1, 4), st.integers(2, 7), st.integers(0, 2**31))
def test_each_valid_candidate_is_in_at_most_one_pair_and_never_with_itself(
    prompts: int, candidates: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards_S_P_M = torch.randn(5, prompts, candidates, generator=generator)
    valid_P_M = torch.rand(prompts, candidates, generator=generator) < 0.7
    valid_P_M[:, :2] = True
    rows_Q, pairs_Q_2, probability_Q = folded_pairs(rewards_S_P_M, valid_P_M)
    used = [(row, index) for row, pair in zip(rows_Q.tolist(), pairs_Q_2.tolist(), strict=True) for index in pair]
    assert len(set(used)) == len(used)
    assert all(valid_P_M[row, index] for row, index in used)
    assert torch.bincount(rows_Q, minlength=prompts).tolist() == (valid_P_M.sum(1) // 2).tolist()
    mean_P_M = rewards_S_P_M.mean(0)
    assert (mean_P_M[rows_Q, pairs_Q_2[:, 0]] >= mean_P_M[rows_Q, pairs_Q_2[:, 1]]).all()
    assert ((probability_Q > 0) & (probability_Q < 1)).all()


def test_imagined_rounds_wait_for_the_first_labels() -> None:
    config = ImaginationConfig(rounds=7, start=32)
    assert [imagined_rounds(config, labels) for labels in (0, 31, 32, 500)] == [0, 0, 7, 7]
    assert [imagined_rounds(config, 32, trust) for trust in (0.0, 0.049, 0.05, 1.0)] == [0, 0, 7, 7]
