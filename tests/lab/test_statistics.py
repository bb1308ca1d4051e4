"""Estimates and factors against closed forms, and honesty about runs that never reached the level."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sea_agent.lab.statistics import Reach, bootstrap, estimate, label_saving
from sea_agent.seeding import generator_for

queries = st.floats(1.0, 2000.0)


def reached(*values: float) -> list[Reach]:
    return [Reach(value, False) for value in values]


def pairs(baseline: list[Reach], method: list[Reach]) -> list[tuple[Reach, Reach]]:
    return list(zip(baseline, method, strict=True))


def all_resampled_means(values: tuple[float, ...]) -> np.ndarray:
    """The bootstrap distribution itself, by listing every resample."""
    return np.array([np.mean(sample) for sample in product(values, repeat=len(values))])


@pytest.mark.parametrize("values", [(1.0, 2.0, 4.0), (0.81, 0.84, 0.86, 0.8, 0.9)])
def test_the_interval_is_that_of_all_resamples(values: tuple[float, ...]) -> None:
    low, high = np.quantile(all_resampled_means(values), [0.025, 0.975], method="inverted_cdf")
    found = estimate(values)
    spread = max(values) - min(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.low == pytest.approx(low, abs=0.03 * spread)
    assert found.high == pytest.approx(high, abs=0.03 * spread)


def test_the_interval_covers_the_mean_nearly_as_often_as_it_says() -> None:
    """A percentile bootstrap of 20 covers a little under 95 %; of 5 it is known to cover far less."""
    generator = np.random.default_rng(0)

    def coverage(seeds: int) -> float:
        low, high = bootstrap(generator.standard_normal((seeds, 300))) or (np.inf, -np.inf)
        return float(np.mean((low <= 0.0) & (high >= 0.0)))

    assert 0.88 < coverage(20) < 0.97
    assert 0.75 < coverage(5) < 0.9


def test_the_t_interval_of_few_log_ratios_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        logs = generator.normal(math.log(5.0), 0.3, 5)
        factor = label_saving(pairs(reached(*(100.0 * np.exp(logs))), reached(*[100.0] * 5)))
        assert factor.t_low is not None
        assert factor.t_high is not None
        covered.append(factor.t_low <= 5.0 <= factor.t_high)
    assert 0.91 < np.mean(covered) < 0.99


@pytest.mark.parametrize("shape", [(3,), (5, 7), (12, 300)])
def test_the_interval_is_the_one_that_scipy_finds(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).random(shape)
    scipys = stats.bootstrap(
        (values,), np.mean, axis=0, n_resamples=10_000, method="percentile", rng=generator_for("bootstrap over seeds")
    ).confidence_interval
    low, high = bootstrap(values) or (None, None)
    assert low == pytest.approx(scipys.low)
    assert high == pytest.approx(scipys.high)


def test_repeated_calls_give_the_same_interval() -> None:
    assert estimate([1.0, 2.0, 5.0]) == estimate([1.0, 2.0, 5.0])


@pytest.mark.parametrize("values", [[3.0], [3.0, 5.0]])
def test_one_or_two_seeds_have_no_interval(values: list[float]) -> None:
    assert (estimate(values).low, estimate(values).high) == (None, None)
    factor = label_saving(pairs(reached(*values), reached(*values)))
    assert (factor.low, factor.high, factor.t_low, factor.t_high) == (None, None, None, None)


def test_equal_values_have_an_interval_of_no_width() -> None:
    same = estimate([0.8, 0.8, 0.8])
    assert (same.low, same.high) == (pytest.approx(0.8), pytest.approx(0.8))
    factor = label_saving(pairs(reached(40, 40, 40), reached(10, 10, 10)))
    ends = (factor.mean, factor.low, factor.high, factor.t_low, factor.t_high)
    assert ends == tuple(pytest.approx(4.0) for _ in ends)


def test_the_factor_is_the_geometric_mean_of_paired_ratios_and_its_t_interval_scipys() -> None:
    baseline, method = [1200.0, 900.0, 1500.0, 1000.0], [100.0, 150.0, 110.0, 130.0]
    factor = label_saving(pairs(reached(*baseline), reached(*method)))
    ratios = [b / m for b, m in zip(baseline, method, strict=True)]
    assert factor.ratios == pytest.approx(ratios)
    assert factor.mean == pytest.approx(stats.gmean(ratios))
    test = stats.ttest_1samp(np.log(ratios), 0.0).confidence_interval(0.95)
    assert (factor.t_low, factor.t_high) == pytest.approx((math.exp(test.low), math.exp(test.high)))
    assert factor.bound == ""


@given(st.lists(st.tuples(queries, queries), min_size=1, max_size=5))
def test_swapping_method_and_baseline_inverts_the_factor(values: list[tuple[float, float]]) -> None:
    ours, theirs = ([Reach(value, False) for value in side] for side in zip(*values, strict=True))
    assert label_saving(pairs(ours, theirs)).mean == pytest.approx(1 / label_saving(pairs(theirs, ours)).mean)


@pytest.mark.parametrize(
    ("baseline", "method", "bound"),
    [
        ((False, False), (False, False), ""),
        ((True, False), (False, False), ">="),
        ((False, False), (False, True), "<="),
        ((True, False), (False, True), "?"),
        ((True, False), (True, False), "?"),
    ],
)
def test_a_censored_run_counts_with_its_budget_and_makes_the_factor_a_bound(
    baseline: tuple[bool, bool], method: tuple[bool, bool], bound: str
) -> None:
    factor = label_saving([(Reach(800.0, b), Reach(200.0, m)) for b, m in zip(baseline, method, strict=True)])
    assert factor.bound == bound
    assert factor.mean == pytest.approx(4.0)


def test_a_level_that_held_before_the_first_answer_gives_a_finite_factor() -> None:
    assert label_saving(pairs(reached(50.0), reached(0.0))).mean == pytest.approx(50.0)
