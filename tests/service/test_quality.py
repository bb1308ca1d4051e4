"""Figures of label quality against published examples, hand-worked tables, and definitions written out."""

from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from math import isclose, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_agent.service import quality
from sea_agent.service.quality import LEAST_DUELS, Answer
from sea_agent.service.schemas.quality import RateOut
from sea_agent.service.store.tables import OUTCOMES

NO = RateOut(n=0, share=None, low=None, high=None)


def table(*units: str) -> Any:
    """Counts of the letters in each unit, one column for each letter that occurs."""
    letters = sorted(set("".join(units)))
    return np.array([[unit.count(letter) for letter in letters] for unit in units])


def by_pairs(units: Sequence[str]) -> float | None:
    """α from its definition: 1 − mean disagreement of pairs within units / that of pairs of all values."""
    paired = [unit for unit in units if len(unit) >= 2]
    values = "".join(paired)
    within = sum((one != other) / (len(unit) - 1) for unit in paired for one, other in permutations(unit, 2))
    overall = sum(one != other for one, other in permutations(values, 2)) / max(len(values) - 1, 1)
    return None if overall == 0 else 1.0 - within / overall


# Votes on one duel each, as letters: f first, s second, t tie, b both bad.
votes_on_duels = st.lists(st.text("fstb", min_size=1, max_size=5), max_size=12)
NAMES = {"f": "first", "s": "second", "t": "tie", "b": "both_bad"}


def votes(units: Sequence[str]) -> list[Answer]:
    """An answer for each letter; the n-th of a unit is that of the n-th annotator."""
    return [
        Answer(f"duel {duel}", f"annotator {index}", "vote", NAMES[letter])
        for duel, unit in enumerate(units)
        for index, letter in enumerate(unit)
    ]


# --- α ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observers", "expected"),
    [
        # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", sections A, B and C.
        (["0100000010", "1110010000"], 0.095),
        (["aabbdcccedda", "babbbccceddd"], 0.692),
        (["123321412...", "1233224125.3", ".3332342251.", "12332441251."], 0.743),
    ],
    ids=["two values", "five values", "four observers and gaps"],
)
def test_alpha_of_published_examples(observers: list[str], expected: float) -> None:
    units = ["".join(values).replace(".", "") for values in zip(*observers, strict=True)]
    assert quality.alpha(table(*units)) == pytest.approx(expected, abs=5e-4)
    assert by_pairs(units) == pytest.approx(expected, abs=5e-4), "the definition of this file"


@given(votes_on_duels)
def test_alpha_is_what_its_definition_says(units: list[str]) -> None:
    found, expected = quality.agreement(votes(units)).alpha, by_pairs(units)
    assert (found is None) == (expected is None)
    assert found is None or isclose(found, expected or 0.0, abs_tol=1e-9)


@given(votes_on_duels)
def test_alpha_is_one_exactly_where_all_agree_and_there_is_something_to_agree_on(units: list[str]) -> None:
    paired = [unit for unit in units if len(unit) >= 2]
    all_agree = all(len(set(unit)) == 1 for unit in paired)
    alpha = quality.agreement(votes(units)).alpha
    if len(set("".join(paired))) < 2:
        assert alpha is None
    else:
        assert (alpha == pytest.approx(1.0, abs=1e-12)) is all_agree


@given(votes_on_duels, st.randoms(use_true_random=False))
def test_figures_do_not_hang_on_order_nor_alpha_on_the_names_of_outcomes_and_annotators(
    units: list[str], random: Any
) -> None:
    plain = votes(units)
    shuffled = random.sample(plain, len(plain))
    assert quality.agreement(shuffled) == quality.agreement(plain)
    assert quality.annotators(shuffled, {}) == quality.annotators(plain, {})
    renamed = dict(zip(OUTCOMES, random.sample(OUTCOMES, len(OUTCOMES)), strict=True))
    other = [Answer(one.query, one.annotator[::-1], "vote", renamed[one.outcome]) for one in plain]
    assert quality.agreement(other).alpha == pytest.approx(quality.agreement(plain).alpha)


@given(votes_on_duels)
def test_many_alphas_at_once_are_those_of_one_table_each(units: list[str]) -> None:
    paired = [unit for unit in units if len(unit) >= 2]
    patterns = np.array([[unit.count(letter) for letter in "fstb"] for unit in paired]).reshape(-1, 4)
    times = np.array([np.ones(len(paired)), np.arange(len(paired)), np.arange(len(paired)) % 2]).astype(int)
    for count, alpha in zip(times, quality.alphas(patterns, times), strict=True):
        expected = quality.alpha(patterns.repeat(count, axis=0))
        assert np.isnan(alpha) if expected is None else isclose(alpha, expected, abs_tol=1e-9)


def test_the_interval_of_alpha_is_that_of_resampled_duels() -> None:
    """Against resampling written out: duels one by one, α by the definition."""
    units = ["ff", "ss", "ff", "fs", "tt", "ft", "sss", "ffs"] * 5
    rng = np.random.default_rng(5)
    drawn = [by_pairs([units[index] for index in rng.integers(len(units), size=len(units))]) for _ in range(1500)]
    low, high = np.quantile(np.array(drawn, dtype=float), [0.025, 0.975])
    found = quality.agreement(votes(units))
    assert found.alpha_low == pytest.approx(low, abs=0.03)
    assert found.alpha_high == pytest.approx(high, abs=0.03)
    assert found.alpha_low < (found.alpha or 0.0) < found.alpha_high


def test_few_duels_or_duels_of_one_kind_have_no_interval() -> None:
    just = ["ff", "ss"] * (LEAST_DUELS // 2)
    assert quality.agreement(votes(just)).alpha_low == 1.0
    assert quality.agreement(votes([*just[1:], "f"])).alpha_low is None, "a single vote compares with nothing"
    # One duel of its kind is missing in about a third of the resamples, which then have no α.
    lonely = quality.agreement(votes(["ff"] * LEAST_DUELS + ["ss"]))
    assert (lonely.alpha, lonely.alpha_low, lonely.alpha_high) == (1.0, None, None)


# --- κ and rates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("yes_yes", "yes_no", "no_yes", "no_no", "expected"),
    [(20, 5, 10, 15, 0.4), (45, 15, 25, 15, 0.1304), (25, 35, 5, 35, 0.2593), (5, 0, 0, 5, 1.0), (0, 5, 5, 0, -1.0)],
)
def test_kappa_of_known_tables(yes_yes: int, yes_no: int, no_yes: int, no_no: int, expected: float) -> None:
    pairs = [("y", "y")] * yes_yes + [("y", "n")] * yes_no + [("n", "y")] * no_yes + [("n", "n")] * no_no
    assert quality.kappa(pairs) == pytest.approx(expected, abs=5e-5)


ratings = st.lists(st.tuples(st.sampled_from(OUTCOMES), st.sampled_from(OUTCOMES)), min_size=1, max_size=30)


@given(ratings)
def test_kappa_does_not_hang_on_who_is_who_and_is_one_exactly_where_all_agree(pairs: list[tuple[str, str]]) -> None:
    found = quality.kappa(pairs)
    turned = quality.kappa([(other, one) for one, other in pairs])
    assert turned == found
    one_rating = len({rating for pair in pairs for rating in pair}) == 1
    assert (found is None) is one_rating
    if found is not None:
        assert (found == 1.0) == all(one == other for one, other in pairs)
        assert found <= 1.0


@given(ratings)
def test_kappa_is_its_definition_in_shares(pairs: list[tuple[str, str]]) -> None:
    n = len(pairs)
    agreed = sum(one == other for one, other in pairs) / n
    chance = sum(
        sum(one == name for one, _ in pairs) / n * sum(other == name for _, other in pairs) / n for name in OUTCOMES
    )
    found = quality.kappa(pairs)
    assert found is None or isclose(found * (1 - chance), agreed - chance, abs_tol=1e-9)


def test_kappa_of_nothing_is_nothing() -> None:
    assert quality.kappa([]) is None


@given(st.integers(0, 60), st.integers(0, 60))
def test_a_rate_has_wilsons_interval(hits: int, misses: int) -> None:
    n, z = hits + misses, 1.959963984540054
    found = quality.rate([True] * hits + [False] * misses)
    if n == 0:
        assert found == NO
        return
    share = hits / n
    centre, half = share + z * z / (2 * n), z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    assert (found.n, found.share) == (n, share)
    assert found.low == pytest.approx((centre - half) / (1 + z * z / n), abs=1e-9)
    assert found.high == pytest.approx((centre + half) / (1 + z * z / n), abs=1e-9)


@given(st.lists(st.sampled_from(OUTCOMES), max_size=9))
def test_a_majority_is_the_only_most_frequent_outcome(outcomes: list[str]) -> None:
    counts = Counter(outcomes)
    leaders = [name for name, count in counts.items() if count == max(counts.values())]
    assert quality.majority(outcomes) == (leaders[0] if len(leaders) == 1 else None)


# --- a run and its annotators ----------------------------------------------------------------------------------------


def test_self_agreement_compares_a_repeat_with_the_same_annotators_vote() -> None:
    answers = [
        Answer("a", "ann", "vote", "first"),
        Answer("a", "ann", "repeat", "first"),
        Answer("b", "ann", "vote", "tie"),
        Answer("b", "ann", "repeat", "second"),
        Answer("b", "bob", "vote", "second"),  # agrees with ann's repeat, and is nothing to her
        Answer("c", "bob", "vote", "first"),
        Answer("d", "bob", "repeat", "first"),
    ]
    assert (quality.agreement(answers).self_agreement.n, quality.agreement(answers).self_agreement.share) == (2, 0.5)
    ann, bob = quality.annotators(answers, {})
    assert (ann.self_agreement.n, bob.self_agreement) == (2, NO)


def test_position_bias_looks_at_what_was_shown_first_whoever_won() -> None:
    shown = {("first", False): True, ("second", True): True, ("second", False): False, ("first", True): False}
    for (outcome, swapped), chose_first in shown.items():
        rate = quality.first_shown([Answer("a", "ann", "vote", outcome, swapped)])
        assert (rate.n, rate.share) == (1, float(chose_first))
    nothing = [Answer("a", "ann", "vote", outcome, True) for outcome in ("tie", "both_bad")]
    assert quality.first_shown([*nothing, Answer("b", "judge", "vote", "first", None)]) == NO


def test_an_annotator_who_always_takes_the_left_is_found_and_one_who_looks_is_not() -> None:
    rng = np.random.default_rng(1)
    swapped = (rng.random(400) < 0.5).tolist()
    better = (rng.random(400) < 0.5).tolist()
    left = [Answer(str(n), "left", "vote", "second" if swap else "first", swap) for n, swap in enumerate(swapped)]
    looks = [
        Answer(str(n), "looks", "vote", "first" if first else "second", swap)
        for n, (first, swap) in enumerate(zip(better, swapped, strict=True))
    ]
    by_left, by_look = quality.annotators([*left, *looks], {})[0], quality.annotators([*left, *looks], {})[1]
    assert (by_left.annotator, by_look.annotator) == ("left", "looks")
    assert by_left.first_shown.low > 0.9
    assert by_look.first_shown.low < 0.5 < by_look.first_shown.high


def test_gold_counts_apart_from_votes() -> None:
    answers = [
        Answer("g1", "ann", "gold", "first", gold="first"),
        Answer("g2", "ann", "gold", "second", gold="second"),
        Answer("g3", "ann", "gold", "tie", gold="second"),
        Answer("g1", "bob", "gold", "second", gold="first"),
        Answer("v", "ann", "vote", "first"),
        Answer("v", "bob", "vote", "second"),
    ]
    run = quality.agreement(answers)
    assert (run.votes, run.duels, run.compared, run.annotators) == (2, 1, 1, 2)
    assert (run.gold_accuracy.n, run.gold_accuracy.share) == (4, 0.5)
    # By hand: of 4 pairs 2 agree; chance is (1·2 + 2·2 + 1·0) / 16 = 3/8.
    assert run.gold_kappa == pytest.approx((1 / 2 - 3 / 8) / (1 - 3 / 8))
    ann, bob = quality.annotators(answers, {})
    assert (ann.gold_accuracy.n, ann.gold_accuracy.share, ann.answers, ann.votes) == (3, 2 / 3, 4, 1)
    # By hand: 2 of 3 agree; chance is (1·1 + 1·2 + 1·0) / 9 = 1/3.
    assert ann.gold_kappa == pytest.approx(1 / 2)
    assert (bob.gold_accuracy.share, bob.gold_kappa) == (0.0, 0.0)


def test_agreement_with_the_others_leaves_out_the_annotators_own_vote_and_undecided_duels() -> None:
    answers = votes(["ffs", "fs", "f", "ffss", "sft"])
    agreed = quality.agreed_with_others(answers)
    # Duel 1: for 0 the others say f and s, which is undecided; for 2 they say f twice. Duel 2: each has one other.
    # Duel 4: for everyone the others have a majority, and it is the other side. Duel 5: two others never agree.
    assert agreed == {
        "annotator 0": [False, False],
        "annotator 1": [False, False],
        "annotator 2": [False, False],
        "annotator 3": [False],
    }
    unanimous = quality.annotators(votes(["fff", "sss"]), {})
    assert [row.with_others.share for row in unanimous] == [1.0, 1.0, 1.0]


def test_times_late_answers_and_skips_are_told_by_annotator() -> None:
    answers = [Answer(str(n), "ann", "vote", "first", late=n == 0, elapsed_ms=1000 * (n + 1)) for n in range(11)]
    answers.append(Answer("x", "ann", "vote", "tie"))
    answers.append(Answer("x", "judge", "vote", "tie"))
    ann, judge, zoe = quality.annotators(answers, {"zoe": 3, "ann": 1})
    assert (ann.median_s, ann.p90_s, ann.skips, ann.answers) == (6.0, 10.0, 1, 12)
    assert (ann.late.n, ann.late.share) == (12, 1 / 12)
    assert (judge.median_s, judge.p90_s, judge.skips) == (None, None, 0)
    assert (zoe.annotator, zoe.answers, zoe.skips, zoe.late) == ("zoe", 0, 3, NO)


def test_a_run_without_answers_has_no_figures() -> None:
    run = quality.agreement([])
    assert (run.votes, run.duels, run.compared, run.annotators) == (0, 0, 0, 0)
    assert (run.alpha, run.alpha_low, run.gold_kappa) == (None, None, None)
    assert run.self_agreement == run.gold_accuracy == run.first_shown == run.ties == run.both_bad == NO
    assert quality.annotators([], {}) == []


def test_shares_of_ties_and_both_bad_are_of_votes() -> None:
    run = quality.agreement([*votes(["ttfb", "b"]), Answer("g", "ann", "gold", "tie", gold="first")])
    assert (run.ties.n, run.ties.share, run.both_bad.share) == (5, 2 / 5, 2 / 5)
