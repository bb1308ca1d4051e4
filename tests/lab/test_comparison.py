"""Comparisons: levels, pairing by seed, censored runs, areas and means over seeds."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_agent.errors import UserError
from sea_agent.lab.comparison import Comparison, MethodFigures, area, band, compare, reach
from sea_agent.lab.records import Bounds, Curve, Record

MakeRecord = Callable[..., Record]


def curve(*points: tuple[int, float]) -> Curve:
    queries, rates = zip(*points, strict=True)
    return Curve(queries=queries, win_rate=rates, low=rates, high=rates)


def rows(comparison: Comparison) -> dict[str, MethodFigures]:
    (group,) = comparison.groups
    return {row.method: row for row in group.methods}


@pytest.fixture
def runs(make_record: MakeRecord) -> list[Record]:
    """Passive reaches .8 after 900, 1000 and 1100 queries, SEA after 90, 100 and 220."""
    passive = [make_record("passive", seed, [(0, 0.5), (900 + 100 * seed, 0.8), (1500, 0.85)]) for seed in range(3)]
    sea = [
        make_record("sea", seed, [(0, 0.5), (needed, 0.8), (256, 0.9)]) for seed, needed in enumerate((90, 100, 220))
    ]
    return sea + passive


# --- one curve -------------------------------------------------------------------------------------------------------


def test_queries_to_a_level_are_linear_between_evaluations() -> None:
    one = curve((0, 0.5), (100, 0.7), (200, 0.6), (300, 0.9))
    assert one.queries_to(0.6) == pytest.approx(50)
    assert one.queries_to(0.8) == pytest.approx(200 + 100 * 2 / 3)
    assert one.queries_to(0.7) == pytest.approx(100)
    assert one.queries_to(0.4) == 0
    assert one.queries_to(0.95) is None


def bounded(kl: tuple[float, ...], judge: tuple[float, ...]) -> Curve:
    rates = (0.5, 0.9, 0.9)
    return Curve(queries=(0, 100, 200), win_rate=rates, low=rates, high=rates, kl_to_reference=kl, judge_win_rate=judge)


def test_a_level_counts_only_where_all_bounds_hold_at_once() -> None:
    one = bounded(kl=(0.0, 8.0, 3.0), judge=(0.5, 0.6, 0.7))
    assert one.queries_to(0.8) == pytest.approx(75)
    assert one.queries_to(0.8, Bounds(max_kl=7)) == pytest.approx(75)  # 6 nats there
    assert one.queries_to(0.8, Bounds(max_kl=5)) == pytest.approx(160)  # 6 at 75, 8 at 100, back at 5
    assert one.queries_to(0.8, Bounds(max_kl=5, min_judge=0.68)) == pytest.approx(180)
    assert one.queries_to(0.8, Bounds(max_kl=2)) is None


def test_a_bound_that_holds_only_before_the_level_is_reached_is_never_met() -> None:
    one = bounded(kl=(0.0, 4.0, 6.0), judge=(0.5, 0.6, 0.6))
    assert one.queries_to(0.8, Bounds(max_kl=2.9)) is None
    assert one.queries_to(0.8, Bounds(max_kl=3.1)) == pytest.approx(75)


@given(
    rates=st.lists(st.floats(0, 1), min_size=2, max_size=6),
    kls=st.lists(st.floats(0, 10), min_size=6, max_size=6),
    level=st.floats(0.1, 0.9),
    limit=st.floats(0.5, 9),
)
def test_the_first_bounded_point_is_that_of_a_search_along_the_line(
    rates: list[float], kls: list[float], level: float, limit: float
) -> None:
    kls, queries = kls[: len(rates)], range(0, 10 * len(rates), 10)
    one = Curve(
        queries=tuple(queries), win_rate=tuple(rates), kl_to_reference=tuple(kls), low=tuple(rates), high=tuple(rates)
    )
    grid = np.linspace(0, queries[-1], 20_001)
    inside = (np.interp(grid, queries, rates) >= level) & (np.interp(grid, queries, kls) <= limit)
    found = one.queries_to(level, Bounds(max_kl=limit))
    if inside.any():
        assert found is not None
        assert found == pytest.approx(grid[inside.argmax()], abs=queries[-1] / 20_000)
    elif found is not None:  # between two points of the grid
        assert np.interp(found, queries, rates) == pytest.approx(level)
        assert np.interp(found, queries, kls) == pytest.approx(limit, abs=0.01)


def test_a_bound_on_what_a_run_did_not_measure_is_refused(make_record: MakeRecord) -> None:
    with pytest.raises(UserError, match="kl_to_reference: not measured by 1 of 1 runs"):
        compare([make_record("sea", 0, [(0, 0.5), (250, 0.79)])], bounds=Bounds(max_kl=5))


def test_a_run_that_never_reached_the_level_is_censored_at_its_budget(make_record: MakeRecord) -> None:
    record = make_record("sea", 0, [(0, 0.5), (250, 0.79)], budget=256)
    assert (reach(record, 0.8).queries, reach(record, 0.8).censored) == (256, True)
    assert (reach(record, 0.79).queries, reach(record, 0.79).censored) == (250, False)


def test_the_area_is_the_mean_of_the_broken_line() -> None:
    rising = curve((0, 0.5), (100, 0.9), (200, 0.9))
    assert area(rising, 100) == pytest.approx(0.7)
    assert area(rising, 200) == pytest.approx(0.8)
    assert area(rising, 50) == pytest.approx(0.6)
    assert area(rising, 201) is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.integers(1, 100))
def test_the_area_is_that_of_a_fine_grid(rates: list[float], horizon: int) -> None:
    one = curve(*((100 * index, rate) for index, rate in enumerate(rates)))
    grid = (np.arange(20_000) + 0.5) / 20_000 * horizon
    assert area(one, horizon) == pytest.approx(np.interp(grid, one.queries, one.win_rate).mean(), abs=1e-6)


# --- methods ---------------------------------------------------------------------------------------------------------


def test_methods_are_paired_by_seed(runs: list[Record]) -> None:
    found = rows(compare(runs))
    assert found["passive"].queries.mean == pytest.approx(1000)
    assert found["sea"].queries.values == pytest.approx((90, 100, 220))
    factor = found["sea"].factor
    assert factor is not None
    assert factor.ratios == pytest.approx((10, 10, 5))
    assert factor.mean == pytest.approx(500 ** (1 / 3))
    assert found["passive"].factor is None


def test_the_order_of_the_records_does_not_matter(runs: list[Record]) -> None:
    assert rows(compare(runs)) == rows(compare(runs[::-1]))


def test_the_baseline_stands_first(runs: list[Record]) -> None:
    assert list(rows(compare(runs))) == ["passive", "sea"]
    assert list(rows(compare(runs, baseline="sea"))) == ["sea", "passive"]


def test_runs_without_a_partner_count_for_themselves_but_not_for_the_factor(
    runs: list[Record], make_record: MakeRecord
) -> None:
    found = rows(compare([*runs, make_record("sea", 8, [(0, 0.5), (300, 0.8)])]))
    assert len(found["sea"].queries.values) == 4
    assert found["sea"].factor is not None
    assert len(found["sea"].factor.ratios) == 3


def test_one_seed_on_another_model_is_no_pair(make_record: MakeRecord) -> None:
    points = [(0, 0.5), (100, 0.9)]
    found = rows(compare([make_record("passive", 0, points, model=0), make_record("sea", 0, points, model=1)]))
    assert found["sea"].factor is None


def test_a_censored_method_is_counted_and_its_factor_an_upper_bound(
    runs: list[Record], make_record: MakeRecord
) -> None:
    found = rows(
        compare([*runs, *(make_record("weak", seed, [(0, 0.5), (500, 0.72 + 0.1 * seed)]) for seed in range(3))])
    )
    assert found["weak"].censored == 1
    assert found["weak"].queries.values[0] == 500
    assert found["weak"].factor is not None
    assert found["weak"].factor.bound == "<="
    assert found["weak"].factor.ratios[0] == pytest.approx(900 / 500)


def test_a_censored_baseline_makes_the_factor_a_lower_bound(runs: list[Record]) -> None:
    found = rows(compare(runs, level=0.87))
    assert found["passive"].censored == 3
    assert found["sea"].factor is not None
    assert found["sea"].factor.bound == ">="
    assert found["sea"].factor.ratios[1] == pytest.approx(1500 / (100 + 156 * 0.7))


def test_worlds_losses_and_labels_are_compared_apart(make_record: MakeRecord) -> None:
    points = [(0, 0.5), (100, 0.9)]
    records = [
        make_record(method, 0, points, **{key: value})
        for method in ("passive", "sea")
        for key, value in (("world", "kitchen"), ("loss", "ipo"), ("labels", "threshold"))
    ]
    found = compare(records)
    assert {(group.world, group.loss, group.labels) for group in found.groups} == {
        ("kitchen", "dpo", "bernoulli"),
        ("lexicon", "ipo", "bernoulli"),
        ("lexicon", "dpo", "threshold"),
    }
    assert all([row.method for row in group.methods] == ["passive", "sea"] for group in found.groups)


def test_the_horizon_is_the_shortest_runs_unless_given(runs: list[Record]) -> None:
    found = compare(runs)
    assert found.groups[0].horizon == 256
    assert rows(found)["passive"].area is not None
    longer = rows(compare(runs, horizon=1000))
    assert longer["passive"].area is not None
    assert longer["sea"].area is None


def test_what_was_spent_is_told_at_the_level_and_in_all(runs: list[Record]) -> None:
    sea = rows(compare(runs))["sea"]
    assert sea.at_level["policy_samples"] is not None
    assert sea.at_level["policy_samples"].values == pytest.approx((1800, 2000, 4400))
    assert sea.final["policy_samples"] is not None
    assert sea.final["policy_samples"].mean == 256 * 20
    assert sea.at_level["cpu_seconds"] is not None
    assert sea.at_level["cpu_seconds"].values == pytest.approx((45, 50, 110))


def test_a_column_that_one_run_did_not_measure_has_no_mean(runs: list[Record], make_record: MakeRecord) -> None:
    blind = make_record("sea", 5, [(0, 0.5), (256, 0.9)], curve={"judge_win_rate": None})
    found = rows(compare([*runs, blind]))["sea"]
    assert found.final["judge_win_rate"] is None
    assert found.final["best_of_win_rate"] is None
    assert found.final["win_rate"] is not None


def test_passive_is_the_baseline_unless_another_is_named(runs: list[Record]) -> None:
    assert compare(runs).baseline == "passive"
    assert compare(runs, baseline="sea").baseline == "sea"
    alone = compare([record for record in runs if record.method == "sea"])
    assert alone.baseline is None
    assert rows(alone)["sea"].factor is None
    with pytest.raises(UserError, match=r"--baseline pasive.*passive, sea|--baseline pasive.*sea, passive"):
        compare(runs, baseline="pasive")


# --- curves over seeds -----------------------------------------------------------------------------------------------


def test_the_mean_curve_is_over_all_seeds_up_to_the_end_of_the_shortest(make_record: MakeRecord) -> None:
    records = [
        make_record("sea", 0, [(0, 0.5), (100, 0.7)]),
        make_record("sea", 1, [(0, 0.5), (50, 0.7), (200, 0.9)]),
        make_record("sea", 2, [(0, 0.6), (100, 0.8)]),
    ]
    mean = band(records, "win_rate")
    assert mean is not None
    assert mean.x_P.tolist() == [0, 50, 100]
    assert mean.mean_P == pytest.approx([1.6 / 3, 2.0 / 3, (0.7 + 0.7 + 0.2 / 3 + 0.8) / 3])
    assert mean.low_P is not None
    assert mean.high_P is not None
    assert np.all(mean.low_P <= mean.mean_P)
    assert np.all(mean.mean_P <= mean.high_P)
    few = band(records[:2], "win_rate")
    assert few is not None
    assert few.low_P is None
    assert band(records, "best_of_win_rate") is None


def test_a_band_of_fewer_points_keeps_their_values_and_both_ends(make_record: MakeRecord) -> None:
    generator = np.random.default_rng(0)
    records = [
        make_record("sea", seed, [(8 * n, rate) for n, rate in enumerate(generator.random(101))]) for seed in range(4)
    ]
    whole, thin = band(records, "win_rate"), band(records, "win_rate", most=9)
    assert whole is not None
    assert thin is not None
    assert (len(thin.x_P), thin.x_P[0], thin.x_P[-1]) == (9, 0, 800)
    kept = np.isin(whole.x_P, thin.x_P)
    for name in ("mean_P", "low_P", "high_P"):
        assert getattr(thin, name) == pytest.approx(getattr(whole, name)[kept]), name


def test_a_band_along_another_axis_ends_with_the_shortest_run(make_record: MakeRecord) -> None:
    records = [make_record("sea", seed, [(0, 0.5), (100 + 100 * seed, 0.9)]) for seed in range(2)]
    mean = band(records, "win_rate", along="policy_samples")
    assert mean is not None
    assert mean.x_P.tolist() == [0, 2000]
    assert mean.mean_P == pytest.approx([0.5, 0.8])
    assert band(records, "win_rate", along="wall_seconds") is None, "not measured in these"
