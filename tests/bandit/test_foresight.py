"""What a posterior said of answers before they came, and how far it is trusted for that."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from sea_agent.bandit.foresight import HALF_LIFE, LUCK, VOUCHED, Foresight, information
from sea_agent.bandit.laplace import Laplace
from sea_agent.errors import UnfitState


def of(probability: list[float], wins: list[float]) -> Foresight:
    foresight = Foresight()
    foresight.add(torch.tensor(probability), torch.tensor(wins))
    return foresight


def test_information_is_none_for_a_coin_and_ln_2_for_certainty() -> None:
    probability = torch.tensor([0.5, 0.0, 1.0, 0.9], dtype=torch.float64)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert information(probability).tolist() == pytest.approx(
        [0.0, math.log(2), math.log(2), math.log(2) - entropy], abs=1e-12
    )


def test_trust_is_the_gain_over_a_coin_beyond_luck_for_the_gain_that_was_promised() -> None:
    """Five answers, each at the weight of its age: by hand."""
    gained = promised = 0.0
    for age, probability, won in ((4, 0.95, 0.95), (3, 0.95, 0.95), (2, 0.9, 0.9), (1, 0.8, 0.8), (0, 0.3, 0.7)):
        kept = 0.5 ** (age / HALF_LIFE)
        gained += kept * math.log(2 * won)
        promised += kept * float(information(torch.tensor(probability)))
    trust = (gained - LUCK) / (promised + LUCK)
    assert trust > 0.1
    assert of([0.95, 0.95, 0.9, 0.8, 0.3], [1.0, 1.0, 1.0, 1.0, 0.0]).trust == pytest.approx(trust, abs=1e-6)
    assert of([0.8, 0.7], [1.0, 1.0]).trust == 0.0, "two right answers may be luck"


def test_trust_grows_with_what_answers_bear_out_and_is_nothing_for_a_coin_or_worse() -> None:
    calibrated = [0.8] * 10, ([1.0] * 4 + [0.0]) * 2
    few, many = of(calibrated[0] * 3, calibrated[1] * 3), of(calibrated[0] * 40, calibrated[1] * 40)
    assert 0.3 < few.trust < 0.6, "what may be luck is kept back"
    assert many.trust > 0.8
    assert of([0.5] * 50, [1.0] * 50).trust == 0.0
    assert of(calibrated[0] * 20, [1 - wins for wins in calibrated[1]] * 20).trust == 0.0
    overconfident = of([0.95] * 100, ([1.0] * 4 + [0.0]) * 20).trust
    assert 0.0 < overconfident < 0.5
    assert of([0.05] * 100, ([0.0] * 4 + [1.0]) * 20).trust == pytest.approx(overconfident, abs=1e-5)


def test_who_vouches_for_a_score_is_believed_sooner() -> None:
    told = torch.tensor([0.9, 0.9, 0.9]), torch.ones(3)
    vouched, own = Foresight(VOUCHED), Foresight()
    for foresight in (vouched, own):
        foresight.add(*told)
    assert vouched.trust > 0.2 > own.trust == 0.0


def test_trust_falls_when_answers_stop_bearing_out_what_is_believed_and_returns_when_they_do_again() -> None:
    foresight = of([0.8] * 80, [1.0] * 80)
    assert foresight.trust == 1.0
    foresight.add(torch.full((HALF_LIFE,), 0.8), torch.zeros(HALF_LIFE))
    assert foresight.trust == 0.0
    foresight.add(torch.full((3 * HALF_LIFE,), 0.8), torch.ones(3 * HALF_LIFE))
    assert foresight.trust > 0.9


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=20))
def test_trust_is_a_share_whatever_is_claimed_and_however_answers_come(claims: list[tuple[float, float]]) -> None:
    probability, wins = map(list, zip(*claims, strict=True))
    at_once, one_by_one = of(probability, wins), Foresight()
    for claim in claims:
        one_by_one.add(*map(torch.tensor, zip(claim, strict=True)))
    assert 0.0 <= at_once.trust <= 1.0
    assert one_by_one.trust == pytest.approx(at_once.trust)


def test_a_record_goes_on_where_it_was_saved_and_no_other_thing_is_taken_for_one() -> None:
    foresight, restored = of([0.9] * 5, [1.0] * 5), Foresight()
    restored.load_state(foresight.state())
    assert restored.trust == foresight.trust > 0
    for state in ({"gained": 1.0}, {"gained": 1.0, "promised": "much"}):
        with pytest.raises(UnfitState):
            restored.load_state(state)


def test_a_coin_is_rarely_called_lucky_whatever_is_claimed() -> None:
    """Its gain exceeds x nats at any time with probability exp(-x) at most; the claims are the most tempting ones."""
    generator = np.random.default_rng(0)
    for claim in (0.55, 0.7, 0.9):
        lucky = 0
        for _ in range(200):
            foresight, seen = Foresight(), False
            for wins in generator.integers(2, size=60).astype(float):
                foresight.add(torch.tensor([claim]), torch.tensor([wins]))
                seen |= foresight.trust > 0
            lucky += seen
        assert binomtest(lucky, 200, math.exp(-LUCK), alternative="greater").pvalue > 0.001, claim


@pytest.mark.parametrize(("strength", "low", "high"), [(0.0, 0.0, 0.02), (2.0, 0.7, 1.0)])
def test_a_posterior_on_shuffled_labels_is_not_trusted_and_one_on_true_labels_is(
    strength: float, low: float, high: float
) -> None:
    """Batches of 16 out of 160, each predicted by the posterior of those before it."""
    found = []
    for seed in range(6):
        generator = np.random.default_rng(seed)
        difference_N_D = torch.from_numpy(generator.normal(size=(160, 6))).float()
        direction_D = torch.from_numpy(generator.normal(size=6)).float()
        chance_N = (strength * difference_N_D @ direction_D).sigmoid()
        wins_N = (torch.from_numpy(generator.random(160)) < chance_N).float()
        posterior, foresight = Laplace(6), Foresight()
        for rows_16_D, wins_16 in zip(difference_N_D.split(16), wins_N.split(16), strict=True):
            foresight.add(posterior.chance(rows_16_D, torch.zeros_like(rows_16_D)), wins_16)
            posterior.add(rows_16_D, torch.zeros_like(rows_16_D), wins_16)
            posterior.update()
        found.append(foresight.trust)
    assert low <= sum(found) / 6 <= high, found
