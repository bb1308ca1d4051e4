"""Rules without a trained policy: the tilted policy, what an answer tells, the predictive yardstick, and whole runs."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from benchmarks import selection
from benchmarks.selection import LearningCurve, Responses
from sea_agent.bandit.laplace import Laplace
from sea_agent.config import LaplaceConfig
from sea_agent.seeding import generator_for

FEATURES = 6


def normal(*shape: int) -> torch.Tensor:
    return torch.from_numpy(generator_for("normal", *shape).standard_normal(shape)).float()


@pytest.fixture(scope="module")
def linear_world() -> Responses:
    """Responses whose reward is linear in what the posterior sees; the last ten repeat the first ten."""
    features_P_M_D = normal(420, 30, FEATURES)
    features_P_M_D = torch.cat([features_P_M_D, features_P_M_D[:, :10]], 1)
    texts_P_M = np.tile([*range(30), *range(10)], (420, 1))
    return Responses([], features_P_M_D, (FEATURES,), 2 * features_P_M_D.double().sum(2), texts_P_M)


def taught(features_P_M_D: torch.Tensor) -> Laplace:
    """A posterior with one label, so that responses differ under its mean."""
    posterior = Laplace(FEATURES, LaplaceConfig(prior_deviation=1.0), members=4)
    posterior.add(features_P_M_D[0, :1], features_P_M_D[0, 1:2], torch.ones(1), ["a"])
    posterior.update(generator_for("update"))
    return posterior


@given(nats=st.floats(0.05, 2.5))
@settings(max_examples=20, deadline=None)
def test_the_tilted_policy_has_the_divergence_that_is_asked_for(nats: float) -> None:
    features_P_M_D = normal(8, 40, FEATURES)
    policy_P_M = selection.tilted(taught(features_P_M_D), features_P_M_D, nats).numpy()
    found = (policy_P_M * np.log(np.maximum(policy_P_M, 1e-300) * 40)).sum(1).mean()
    assert found == pytest.approx(nats, abs=1e-6)


def test_the_tilted_policy_prefers_what_the_posterior_prefers_and_is_the_initial_one_before_any_label() -> None:
    features_P_M_D = normal(8, 40, FEATURES)
    posterior = taught(features_P_M_D)
    policy_P_M = selection.tilted(posterior, features_P_M_D, 1.0)
    assert torch.equal(policy_P_M.argsort(1), posterior.mean(features_P_M_D).argsort(1))
    unlabelled = Laplace(FEATURES, members=4)
    assert (selection.tilted(unlabelled, features_P_M_D, 1.0) == 1 / 40).all()


@given(seed=st.integers(0, 200))
@settings(max_examples=30, deadline=None)
def test_the_predictive_duel_leaves_least_variance_in_all_margins(seed: int) -> None:
    mix_M_M = generator_for("mix", seed).normal(size=(5, 5))
    rewards_S_M = generator_for("rewards", seed).standard_normal((60, 5)) @ mix_M_M
    pairs = list(combinations(range(5), 2))
    left = []
    for first, second in pairs:
        chance_S = expit(rewards_S_M[:, first] - rewards_S_M[:, second])
        # A noisy look at this margin beside all margins, and what is left of theirs given it (Schur complement).
        joint_S_Q = np.stack([rewards_S_M[:, a] - rewards_S_M[:, b] for a, b in [(first, second), *pairs]], 1)
        covariance = np.cov(joint_S_Q, rowvar=False, bias=True)
        covariance[0, 0] += 1 / (chance_S * (1 - chance_S)).mean()
        given = covariance[1:, 1:] - np.outer(covariance[1:, 0], covariance[0, 1:]) / covariance[0, 0]
        left.append(np.trace(given))
    chosen = selection.most_predictive(torch.from_numpy(rewards_S_M)[:, None], torch.ones(1, 5, dtype=torch.bool))
    assert tuple(chosen[0].tolist()) == pairs[int(np.argmin(left))]


def test_a_predictive_duel_is_conditioned_on_those_before_it() -> None:
    draws_S_2 = normal(400, 2) * 20
    prompt_S_M = torch.stack([torch.zeros(400), draws_S_2[:, 0], draws_S_2[:, 1]], 1)
    rewards_S_P_M = torch.stack([prompt_S_M, prompt_S_M], 1)
    one, other = selection.most_predictive(rewards_S_P_M, torch.ones(2, 3, dtype=torch.bool)).tolist()
    assert one != other


def test_every_prompt_has_one_predictive_duel_however_little_it_tells() -> None:
    rewards_S_P_M = torch.stack([normal(100, 3) * 10, normal(100, 3) * 1e-3], 1)
    pairs_P_2 = selection.most_predictive(rewards_S_P_M, torch.ones(2, 3, dtype=torch.bool))
    assert (pairs_P_2[:, 0] != pairs_P_2[:, 1]).all()


def test_what_the_best_pair_tells_leaves_out_candidates_that_are_not_there() -> None:
    signs_S = torch.tensor([1.0, -1.0] * 50)
    rewards_S_P_M = torch.stack([torch.zeros(100), torch.ones(100), 50 * signs_S], 1)[:, None]
    told_P, best_P = selection._bits(rewards_S_P_M, torch.tensor([[True, True, False]]), torch.tensor([[0, 1]]))
    assert float(told_P) == float(best_P) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("certain", [True, False])
def test_an_answer_tells_a_bit_where_the_draws_disagree_for_sure_and_nothing_where_they_agree(certain: bool) -> None:
    signs_S = torch.tensor([1.0, -1.0] * 50) if certain else torch.ones(100)
    rewards_S_P_M = torch.stack([50 * signs_S, torch.zeros(100)], 1)[:, None]
    told_P, best_P = selection._bits(rewards_S_P_M, torch.ones(1, 2, dtype=torch.bool), torch.tensor([[1, 0]]))
    assert float(told_P) == float(best_P) == pytest.approx(1.0 if certain else 0.0, abs=1e-9)


@given(repeated=st.integers(1, 40), sharp=st.booleans(), seed=st.integers(0, 50))
@settings(deadline=None)
def test_candidates_are_different_texts_and_two_at_least(repeated: int, sharp: bool, seed: int) -> None:
    text_M = np.minimum(np.arange(40), 40 - repeated)
    text_M[-1] = 0 if repeated == 40 else text_M[-1]
    if len(set(text_M)) < 2:
        text_M[0], text_M[1:] = 0, 1
    policy_M = np.full(40, 1 / 40)
    if sharp:
        policy_M = np.eye(40)[3]
    index_B_C, valid_B_C = selection._candidates(text_M[None], policy_M[None], generator_for(seed))
    found = index_B_C[valid_B_C].tolist()
    assert len(found) == len(set(found)) >= 2
    assert set(found) <= set(text_M.tolist())


@pytest.mark.parametrize(
    ("rates", "queries", "censored"),
    [((0.6, 0.7, 0.9), 40.0, False), ((0.85, 0.9, 0.9), 16.0, False), ((0.6, 0.7, 0.75), 48.0, True)],
)
def test_answers_to_the_level_are_linear_between_rounds(
    rates: tuple[float, ...], queries: float, censored: bool
) -> None:
    reach = LearningCurve((16, 32, 48), rates, 0.0, 0.0).reach
    assert (reach.queries, reach.censored) == (pytest.approx(queries), censored)


def test_a_run_learns_the_reward_and_can_be_done_again(linear_world: Responses) -> None:
    trace = selection.play(linear_world, "sea_ee", 0, 16)
    assert trace.win_rate[-1] > 0.85
    assert trace == selection.play(linear_world, "sea_ee", 0, 16)
    assert trace != selection.play(linear_world, "sea_ee", 1, 16)


def test_what_the_first_answers_taught_is_seen_at_once(linear_world: Responses) -> None:
    rates = selection.play(linear_world, "sea_ee", 0, 16).win_rate
    assert rates[0] > 0.75, "however little the policy that is asked about has moved"


def test_the_initial_policy_is_asked_about_on_request(linear_world: Responses) -> None:
    own, initial = (selection.play(linear_world, "uniform", 0, 16, follows=follows) for follows in (True, False))
    assert own.win_rate[0] == initial.win_rate[0], "before the first answer they are one"
    assert own.win_rate[1:] != initial.win_rate[1:]


def test_a_reward_that_the_posterior_cannot_see_is_not_learnt(linear_world: Responses) -> None:
    hidden_P_M = normal(420, 30).double()
    blind = Responses(
        [],
        linear_world.features_P_M_D,
        linear_world.blocks,
        torch.cat([hidden_P_M, hidden_P_M[:, :10]], 1),
        linear_world.text_P_M,
    )
    assert selection.play(blind, "sea_ee", 0, 16).win_rate[-1] < 0.6


def test_no_rule_tells_more_than_the_best_pair_and_the_informative_rule_more_than_chance(
    linear_world: Responses,
) -> None:
    traces = {rule: selection.play(linear_world, rule, 0, 16) for rule in selection.RULES}
    assert all(trace.told <= trace.tellable for trace in traces.values())
    assert traces["information"].told > traces["uniform"].told
