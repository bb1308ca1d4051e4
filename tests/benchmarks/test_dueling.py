"""The bench of selection rules: its posterior is right, its regret is what it says, and the rules differ as claimed."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks import recursive
from benchmarks.dueling import Problem, Trace, _World, growth, interval, labels_to, play
from benchmarks.recursive import RecursiveLaplace
from sea_agent.bandit.laplace import Laplace
from sea_agent.config import LaplaceConfig, SelectionConfig

# --- the posterior ---------------------------------------------------------------------------------------------------


def labelled(labels: int, bandits: int, dimension: int, deviation: float) -> tuple[torch.Tensor, torch.Tensor]:
    """difference_N_P_F and wins_N_P of random duels of bandits drawn from the prior."""
    generator = np.random.default_rng(labels + dimension)
    weights_P_F = deviation * generator.standard_normal((bandits, dimension))
    difference_N_P_F = math.sqrt(2) * generator.standard_normal((labels, bandits, dimension))
    chance_N_P = 1 / (1 + np.exp(-(difference_N_P_F * weights_P_F).sum(2)))
    wins_N_P = (generator.random((labels, bandits)) < chance_N_P).astype(float)
    return torch.from_numpy(difference_N_P_F), torch.from_numpy(wins_N_P)


def fit_to(difference_N_F: torch.Tensor, wins_N: torch.Tensor, deviation: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mode and covariance of the weights by ``laplace.py``, the prior N(0, deviation² I)."""
    dimension = difference_N_F.shape[1]
    posterior = Laplace(dimension, LaplaceConfig(prior_deviation=deviation * math.sqrt(dimension)))
    posterior.add(difference_N_F, torch.zeros_like(difference_N_F), wins_N)
    posterior.update()
    mode_1_F, covariance_1_F_F = posterior._gaussian(torch.eye(dimension, dtype=torch.float64)[None])
    return mode_1_F[0], covariance_1_F_F[0]


def errors_after(labels: int, dimension: int = 12, deviation: float = 0.6) -> tuple[float, float]:
    """How far the recursion is from the fit of ``laplace.py`` to all labels, the worst of some bandits.

    Returns:
        distance of the modes in posterior standard deviations (root mean square over the dimensions), and the largest
        relative error of the variance of any linear reward.
    """
    bandits = 5
    difference_N_P_F, wins_N_P = labelled(labels, bandits, dimension, deviation)
    posterior = RecursiveLaplace(bandits, dimension, deviation)
    for difference_P_F, wins_P in zip(difference_N_P_F, wins_N_P, strict=True):
        posterior.add(difference_P_F, wins_P)
    distances, errors = [], []
    for bandit in range(bandits):
        mode_F, covariance_F_F = fit_to(difference_N_P_F[:, bandit], wins_N_P[:, bandit], deviation)
        white_F_F = torch.linalg.inv(torch.linalg.cholesky(covariance_F_F))
        offset_F = white_F_F @ (posterior.mode_P_F[bandit] - mode_F)
        whitened_F_F = white_F_F @ posterior.root_P_F_F[bandit]
        ratios_F = torch.linalg.eigvalsh(whitened_F_F @ whitened_F_F.T)
        distances.append(float(offset_F.square().mean().sqrt()))
        errors.append(float((ratios_F - 1).abs().max()))
    return max(distances), max(errors)


@pytest.mark.parametrize("labels", [1, 5, 10])
def test_the_first_ten_labels_give_exactly_the_laplace_posterior(labels: int) -> None:
    distance, error = errors_after(labels)
    assert distance < 1e-5
    assert error < 1e-3


@pytest.mark.parametrize("labels", [11, 60, 315])  # the last before a fit to all labels, or close to it
def test_between_fits_the_posterior_stays_close_to_the_laplace_posterior(labels: int) -> None:
    distance, error = errors_after(labels)
    assert distance < 0.1
    assert error < 0.2


def test_without_fits_to_all_labels_the_posterior_drifts_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recursive.RecursiveLaplace, "_fit", lambda self: None)
    distance, error = errors_after(315)
    assert distance > 0.1
    assert error > 0.2


def test_one_label_of_any_strength_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fit: the recursion itself, from prior margins of a deviation of .1 to 30."""
    monkeypatch.setattr(recursive.RecursiveLaplace, "_fit", lambda self: None)
    for size in (0.1, 1.0, 30.0):
        difference_1_2 = torch.tensor([[size, 0.0]], dtype=torch.float64)
        posterior = RecursiveLaplace(1, 2, 1.0)
        posterior.add(difference_1_2, torch.ones(1, dtype=torch.float64))
        mode_2, covariance_2_2 = fit_to(difference_1_2, torch.ones(1, dtype=torch.float64), 1.0)
        torch.testing.assert_close(posterior.mode_P_F[0], mode_2, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(posterior.root_P_F_F[0] @ posterior.root_P_F_F[0].T, covariance_2_2)


def test_draws_have_the_mean_and_the_covariance_of_the_posterior() -> None:
    difference_N_P_F, wins_N_P = labelled(12, 2, 3, 0.8)
    posterior, draws = RecursiveLaplace(2, 3, 0.8), 200_000
    for difference_P_F, wins_P in zip(difference_N_P_F, wins_N_P, strict=True):
        posterior.add(difference_P_F, wins_P)
    unit_P_B_M_F = torch.eye(3, dtype=torch.float64).expand(2, 1, 3, 3)
    weights_S_P_M = posterior.draw(unit_P_B_M_F, draws, np.random.default_rng(0))[:, :, 0]
    for bandit in range(2):
        sample_S_M = weights_S_P_M[:, bandit].double().numpy()
        covariance = (posterior.root_P_F_F[bandit] @ posterior.root_P_F_F[bandit].T).numpy()
        np.testing.assert_allclose(sample_S_M.mean(0), posterior.mode_P_F[bandit], atol=5 * 0.8 / math.sqrt(draws))
        np.testing.assert_allclose(np.cov(sample_S_M.T), covariance, atol=5 * 0.64 * math.sqrt(2 / draws))
    torch.testing.assert_close(posterior.mean(unit_P_B_M_F)[:, 0], posterior.mode_P_F)


def test_contexts_get_draws_of_their_own_and_candidates_of_one_context_share_them() -> None:
    rewards_S_P_B_M = RecursiveLaplace(1, 2, 1.0).draw(torch.ones(1, 2, 2, 2).double(), 50, np.random.default_rng(0))
    assert torch.equal(rewards_S_P_B_M[..., 0], rewards_S_P_B_M[..., 1])
    assert (rewards_S_P_B_M[:, :, 0] != rewards_S_P_B_M[:, :, 1]).all()


# --- the bandits and their figures -----------------------------------------------------------------------------------


def run(rule: str, labels: int = 256, bandits: int = 40, problem: Problem | None = None, **options: object) -> Trace:
    return play(problem or Problem(), SelectionConfig.model_validate({"rule": rule}), labels, bandits, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("reward", ["linear", "neural"])
def test_rewards_and_features_have_the_scale_that_the_prior_assumes(reward: str) -> None:
    world = _World(Problem(reward=reward, deviation=2.0), bandits=60, seed=0)  # type: ignore[arg-type]
    inputs_P_B_M_D = world.contexts(0, 40)
    # Over teachers, the mean variance of a reward; of 60 bandits it is known to about 5 %.
    assert float(world.reward(inputs_P_B_M_D).flatten(1).var(1).mean().sqrt()) == pytest.approx(2.0, rel=0.15)
    features_P_N_F = world.embed(inputs_P_B_M_D).flatten(1, 2)
    assert float(features_P_N_F.mean(1).abs().mean()) < 0.06
    assert float(features_P_N_F.var(1).mean()) == pytest.approx(1.0, rel=0.05)


def test_fixed_arms_come_back_in_another_order() -> None:
    world = _World(Problem(fixed_arms=True), bandits=2, seed=0)
    reward_P_B_M = world.reward(world.contexts(3, 2))
    assert torch.equal(reward_P_B_M[:, 0].sort(1).values, reward_P_B_M[:, 1].sort(1).values)
    assert not torch.equal(reward_P_B_M[:, 0], reward_P_B_M[:, 1])
    assert torch.equal(reward_P_B_M[:, 0].sort(1).values, world.reward(world.held_out())[:, 0].sort(1).values)


def test_regret_of_random_pairs_is_what_extreme_value_theory_says() -> None:
    """E max of 16 standard normals is 1.766, of the second largest 1.285 (Harter 1961), times each bandit's scale."""
    bandits = 60
    world = _World(Problem(), bandits, seed=0)
    scale_P = (world._output_P_H.norm(dim=1)).numpy()
    trace = run("uniform", labels=256, bandits=bandits)
    np.testing.assert_allclose(trace.regret_P_C[:, -1].sum() / 256, 1.766 * scale_P.sum(), rtol=0.02)
    unavoidable_P = trace.regret_P_C[:, -1] - trace.avoidable_P_C[:, -1]
    np.testing.assert_allclose(unavoidable_P.sum() / 256, (1.766 - 1.285) / 2 * scale_P.sum(), rtol=0.03)


def test_with_two_candidates_no_regret_is_avoidable() -> None:
    trace = run("uniform", labels=16, bandits=3, problem=Problem(candidates=2))
    np.testing.assert_allclose(trace.avoidable_P_C, 0.0, atol=1e-12)
    assert (trace.regret_P_C > 0).all()


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    first, again, other = (run("sea_ee", labels=16, bandits=3, seed=seed) for seed in (1, 1, 2))
    for field in dataclasses.fields(Trace):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    assert (first.regret_P_C != other.regret_P_C).any()


def test_labels_of_one_batch_do_not_see_each_other() -> None:
    """In one batch of all labels the rule knows only the prior; in batches of 8 it learns."""
    blind, learning = (run("sea_ee", labels=128, batch=batch) for batch in (128, 8))
    assert blind.labels_C.tolist() == [128]
    assert learning.labels_C[0] == 8
    assert learning.regret_P_C[:, -1].mean() < 0.6 * blind.regret_P_C[:, -1].mean()
    random = run("uniform", labels=128, batch=128)
    assert blind.regret_P_C[:, -1].mean() > 0.8 * random.regret_P_C[:, -1].mean()


def test_labels_must_fill_their_batches() -> None:
    with pytest.raises(ValueError, match="whole batches"):
        run("uniform", labels=100, batch=16)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_growth_is_the_exponent_of_a_power_law(power: float) -> None:
    labels_C = np.array([1, 10, 50, 70, 100])
    regret_P_C = np.outer([1.0, 7.0], labels_C**power)
    regret_P_C[:, :2] = 99.0  # before the last half
    assert growth(labels_C, regret_P_C) == pytest.approx(power)


def test_labels_to_a_level_are_read_off_a_power_law() -> None:
    labels_C = np.array([1.0, 4.0, 16.0, 64.0])
    simple_P_C = np.stack([1 / labels_C, 3 / labels_C])  # mean 2 / labels
    assert labels_to(0.2, labels_C, simple_P_C) == pytest.approx(10.0)
    assert labels_to(5.0, labels_C, simple_P_C) == 1.0
    assert labels_to(0.01, labels_C, simple_P_C) == math.inf


def test_a_level_that_is_left_again_is_not_reached() -> None:
    labels_C = np.array([1.0, 2.0, 4.0, 8.0])
    assert labels_to(0.5, labels_C, np.array([[1.0, 0.1, 0.9, 0.5]])) == pytest.approx(8.0)
    assert labels_to(0.5, labels_C, np.array([[1.0, 0.1, 0.9, 0.6]])) == math.inf
    assert 4.0 < labels_to(0.0, labels_C, np.array([[1.0, 0.1, 0.9, 0.0]])) <= 8.0


def test_the_interval_of_a_mean_is_that_of_normal_theory() -> None:
    sample_P = np.random.default_rng(0).normal(3.0, 2.0, 400)
    value, low, high = interval(lambda chosen_P: float(chosen_P.mean()), sample_P)
    expected = stats.norm.interval(0.95, sample_P.mean(), stats.sem(sample_P))
    assert value == sample_P.mean()
    np.testing.assert_allclose((low, high), expected, atol=0.03)


# --- what the bench is there to show, in short form ------------------------------------------------------------------


@pytest.fixture(scope="module")
def traces() -> dict[str, Trace]:
    rules = ("passive", "uniform", "uncertainty", "information", "best_worst", "sea_ee", "sea_bai")
    return {rule: run(rule, labels=384, bandits=60) for rule in rules}


def higher(one_P: np.ndarray, other_P: np.ndarray) -> bool:
    """Whether the mean of ``one_P`` is above that of ``other_P``, bandit by bandit, by three standard errors."""
    return bool((one_P - other_P).mean() > 3 * stats.sem(one_P - other_P))


def growth_interval(trace: Trace) -> tuple[float, float]:
    """95 % interval of the exponent of the avoidable regret."""
    return interval(lambda regret_P_C: growth(trace.labels_C, regret_P_C), trace.avoidable_P_C)[1:]


def test_explore_and_exploit_has_the_smallest_cumulative_regret(traces: dict[str, Trace]) -> None:
    ours_P = traces["sea_ee"].regret_P_C[:, -1]
    assert all(higher(trace.regret_P_C[:, -1], ours_P) for rule, trace in traces.items() if rule != "sea_ee")


def test_avoidable_regret_of_explore_and_exploit_is_sub_linear_and_that_of_passive_is_not(
    traces: dict[str, Trace],
) -> None:
    assert growth_interval(traces["sea_ee"])[1] < 0.5
    for rule in ("passive", "uniform"):
        low, high = growth_interval(traces[rule])
        assert 0.95 < low < high < 1.05


@pytest.mark.parametrize("rule", ["sea_bai", "uncertainty", "information"])
def test_rules_that_seek_knowledge_recommend_better_than_passive(rule: str, traces: dict[str, Trace]) -> None:
    """Over the second half of the checkpoints, where the curves are apart."""
    ours_P = traces[rule].simple_P_C[:, -8:].mean(1)
    assert all(higher(traces[other].simple_P_C[:, -8:].mean(1), ours_P) for other in ("passive", "uniform"))


def test_with_a_posterior_that_ignores_its_labels_nothing_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecursiveLaplace, "add", lambda self, difference_P_F, wins_P: None)
    for rule in ("sea_ee", "sea_bai"):
        trace = run(rule, labels=256, bandits=40)
        low, high = growth_interval(trace)
        assert 0.95 < low < high < 1.05
        assert trace.simple_P_C[:, -1].mean() == pytest.approx(trace.simple_P_C[:, 0].mean())


def test_duels_chosen_from_a_pool_teach_more_than_the_first_ones() -> None:
    first, diverse = (run("sea_ee", bandits=60, batch=16, pool=4, keep=keep) for keep in ("first", "diverse"))
    assert higher(first.simple_P_C[:, -6:].mean(1), diverse.simple_P_C[:, -6:].mean(1))


def test_where_contexts_repeat_diverse_duels_beat_the_most_informative_ones() -> None:
    keeps: tuple[str, ...] = ("informative", "diverse")
    informative, diverse = (
        run("sea_bai", labels=128, bandits=200, problem=Problem(fixed_arms=True), batch=16, pool=4, keep=keep)
        for keep in keeps
    )
    assert diverse.simple_P_C.mean() < 0.85 * informative.simple_P_C.mean()
