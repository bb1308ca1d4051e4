"""Evidence by betting: rare where there is nothing to find, soon where there is, and lost again."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from sea_agent.bandit import betting
from sea_agent.bandit.betting import ERROR, Wager, won
from sea_agent.bandit.laplace import Laplace
from sea_agent.errors import UnfitState


def money(wager: Wager) -> float:
    """What the stake of 1 has come to, by the definition."""
    return float(np.exp(wager.state()["money"].numpy()).mean())


def after(probability: list[float], wins: list[float]) -> Wager:
    wager = Wager()
    wager.add(torch.tensor(probability, dtype=torch.float64), torch.tensor(wins, dtype=torch.float64))
    return wager


def test_the_money_is_that_of_each_bet_by_hand() -> None:
    bets = [0.05 + 0.1 * place for place in range(20)]
    expected = np.mean([(1 + bet * 0.4) * (1 - bet * 0.1) * (1 + bet * 0.25) for bet in bets])
    assert money(after([0.9, 0.6, 0.25], [1.0, 0.0, 0.0])) == pytest.approx(expected)
    assert math.exp(won([0.4, -0.1, 0.25])[-1]) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_nothing_is_won_from_a_coin_whatever_is_believed_after_what_came_before(seed: int) -> None:
    """Exactly: the mean over all sequences of seven fair answers, the beliefs any function of those before."""
    found, borne_out = [], []
    for wins in itertools.product((0.0, 1.0), repeat=7):
        beliefs = [
            float(np.random.default_rng([seed, *map(int, wins[:place])]).beta(0.3, 0.3)) for place in range(len(wins))
        ]
        wager = after(beliefs, list(wins))
        found.append(money(wager))
        borne_out.append(wager.is_won)
    assert np.mean(found) == pytest.approx(1.0)
    assert np.mean(borne_out) <= ERROR


def test_beliefs_that_know_their_answers_would_win_from_a_coin() -> None:
    """The control: beliefs by what came after."""
    outcomes = list(itertools.product((0.0, 1.0), repeat=7))
    assert np.mean([money(after([0.5 + 0.3 * (win - 0.5) for win in wins], list(wins))) for wins in outcomes]) > 1.5


def play(seed: int, strength: float, answers: int = 120, *, first: float = 0.5, foretold: bool = True) -> list[bool]:
    """Whether a posterior is borne out, after each eight answers of people who pick a response the more surely the more
    ``strength``, or the first one with the chance ``first``; the order is by chance."""
    generator = np.random.default_rng(seed)
    difference_N_D = torch.from_numpy(generator.normal(size=(answers, 6))).float()
    direction_D = torch.from_numpy(generator.normal(size=6)).float()
    chance_N = (strength * difference_N_D @ direction_D + math.log(first / (1 - first))).sigmoid()
    wins_N = (torch.from_numpy(generator.random(answers)) < chance_N).float()
    posterior, wager, found = Laplace(6), Wager(), []
    for rows_8_D, wins_8 in zip(difference_N_D.split(8), wins_N.split(8), strict=True):
        if foretold:
            wager.add(posterior.chance(rows_8_D, torch.zeros_like(rows_8_D)), wins_8)
        posterior.add(rows_8_D, torch.zeros_like(rows_8_D), wins_8)
        posterior.update()
        if not foretold:
            wager.add(posterior.chance(rows_8_D, torch.zeros_like(rows_8_D)), wins_8)
        found.append(wager.is_won)
    return found


@pytest.mark.parametrize("first", [0.5, 0.9])
def test_a_posterior_on_answers_that_have_nothing_to_do_with_the_responses_is_hardly_ever_borne_out(
    first: float,
) -> None:
    ever = sum(any(play(seed, 0.0, first=first)) for seed in range(20))
    assert binomtest(ever, 20, ERROR, alternative="greater").pvalue > 0.01
    assert sum(play(seed, 1.0)[-1] for seed in range(5)) >= 4, "the control: honest answers"


def test_a_posterior_that_is_asked_about_what_it_has_learnt_would_be_borne_out_by_noise() -> None:
    """The control of the test above."""
    ever = sum(any(play(seed, 0.0, foretold=False)) for seed in range(5))
    assert binomtest(ever, 5, ERROR, alternative="greater").pvalue < 0.01


def test_ties_are_bets_that_are_called_off() -> None:
    assert money(after([0.9] * 30, [0.5] * 30)) == 1.0
    assert money(after([0.9, 0.8, 0.9], [1.0, 0.5, 1.0])) == pytest.approx(money(after([0.9, 0.9], [1.0, 1.0])))


def test_it_is_enough_at_one_over_the_error_and_until_the_stake_is_lost() -> None:
    wager, seen = Wager(), []
    for wins in [1.0] * 10 + [0.0] * 10:
        wager.add(torch.tensor([0.8]), torch.tensor([wins]))
        seen.append((wager.is_won, money(wager)))
    begins = next(place for place, (is_won, _) in enumerate(seen) if is_won)
    assert seen[begins - 1][1] < 1 / ERROR <= seen[begins][1]
    ends = next(place for place, (is_won, _) in enumerate(seen) if place > begins and not is_won)
    assert seen[ends][1] < 1.0 <= seen[ends - 1][1]
    assert begins < 10 < ends


def lost_after(wager: Wager) -> int:
    """Answers against beliefs of .8 until they are borne out no more."""
    for count in range(1, 1000):
        wager.add(torch.tensor([0.8]), torch.tensor([0.0]))
        if not wager.is_won:
            return count
    raise AssertionError("never")


def test_however_much_was_won_it_is_lost_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = after([0.8] * 30, [1.0] * 30), after([0.8] * 3000, [1.0] * 3000)
    soon = lost_after(few)
    assert lost_after(many) <= soon + 5 < 30
    monkeypatch.setattr(betting, "_MOST", math.inf)
    assert lost_after(after([0.8] * 600, [1.0] * 600)) > 200, "the control: nothing is given away"


def test_a_saved_wager_goes_on_as_it_was() -> None:
    wager, other = after([0.8] * 9, [1.0] * 9), Wager()
    other.load_state(wager.state())
    for one in (wager, other):
        one.add(torch.tensor([0.7, 0.2]), torch.tensor([0.0, 1.0]))
    assert torch.equal(wager.state()["money"], other.state()["money"])
    assert wager.is_won == other.is_won
    with pytest.raises(UnfitState, match=r"wager\.money"):
        other.load_state({"money": torch.zeros(3, dtype=torch.float64), "won": True})
