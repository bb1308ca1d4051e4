"""Users of a stream read one response before the other: those who like a place bear no worthless belief out."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from loop.live_duels import FOUR, Known, choose, won
from scipy.stats import binomtest

from sea_agent.bandit.betting import ERROR, Wager
from sea_agent.loop import deciding
from sea_agent.loop.selector import Look
from sea_agent.types import Candidates


def test_beside_what_is_shown_the_first_two_samples_alone_are_a_test() -> None:
    draws = [0.0, 9, 3, 0], [0.0, 8, 3, 0]
    doubting = Known(*draws, mean=[0.0, 3, 2, -1], borne_out=False)
    assert choose(doubting, *FOUR, shown=0).as_sampled
    assert not choose(doubting, "w1", "w1", "w2", "w3", "w4", shown=0).as_sampled, "the commoner comes first here"
    assert not choose(doubting, *FOUR).as_sampled, "what was not shown yet is named for what is believed"
    assert choose(None, *FOUR, shown=0).as_sampled
    assert not choose(None, "w1", "w1", "w2", shown=0).as_sampled


def test_half_of_the_duels_beside_what_is_shown_stay_tests_once_the_posterior_is_borne_out() -> None:
    trusting = Known([0.0, 0, 3, 0], [0.0, 0, 4, 0], mean=[0.0, 0, 3, 0])
    found = [choose(trusting, *FOUR, shown=0, key=str(key)) for key in range(400)]
    assert {(one.pair, one.as_sampled) for one in found} == {((0, 1), True), ((0, 2), False)}
    assert binomtest(sum(one.as_sampled for one in found), 400, deciding.TESTS).pvalue > 0.001
    named = Known([0.0, 3, 0, 0], [0.0, 4, 0, 0], mean=[0.0, 3, 0, 0])
    also_named = [choose(named, *FOUR, shown=0, key=str(key)) for key in range(20)]
    assert {one.pair for one in also_named} == {(0, 1)}
    assert {one.as_sampled for one in also_named} == {True, False}, "a pair that a belief named is no test"
    assert not any(choose(trusting, *FOUR, key=str(key)).as_sampled for key in range(20)), "a drawn order needs none"


class Believing(Known):
    """A selector that believes so much of each text."""

    def __init__(self, rewards: dict[str, float], borne_out: bool) -> None:
        super().__init__(borne_out=borne_out)
        self._rewards = rewards

    def look(self, group: Candidates, key: str) -> Look:
        mean_M = torch.tensor([self._rewards[response.text] for response in group.responses])
        return Look(mean_M + torch.tensor([[0.2], [-0.2]]) * torch.arange(len(mean_M)), mean_M)


PEAKED = {"w1": 0.6, "w2": 0.25, "w3": 0.1, "w4": 0.05}
"""Texts of the policy and their chances."""


def streamed(seed: int, believed: dict[str, float], true: dict[str, float], liking: float, **how: Any) -> list[bool]:
    """Whether beliefs are borne out after each of 250 streams of a peaked policy, whose first sample is shown first.

    Users like that place by so many nats, and what is ``true`` of the texts. ``trusting``: the posterior is acted on
    from the start; ``all_count``: each answer moves the bet, whatever decided what comes first; ``wager``: goes on with
    this one.
    """
    generator, wager, found = np.random.default_rng(seed), how.get("wager", Wager()), []
    selector: Any = Believing(believed, how.get("trusting", False))
    for number in range(250):
        texts = generator.choice(list(PEAKED), 6, p=list(PEAKED.values())).tolist()
        decision = choose(selector, *texts, shown=0, key=f"{seed} {number}")
        if decision.pair is not None and (decision.as_sampled or how.get("all_count", False)):
            first, second = (texts[place] for place in decision.pair)
            wins = generator.random() < 1 / (1 + math.exp(true[second] - true[first] - liking))
            wager.add(torch.tensor([decision.belief]), torch.tensor([float(wins)]))
        found.append(wager.is_won)
    return found


COMMONER = {text: math.log(chance) for text, chance in PEAKED.items()}
"""Believing in what is common anyway: such a response is more often the first that streams, and seldom the second."""
RARER = {text: -reward for text, reward in COMMONER.items()}
NOTHING = dict.fromkeys(PEAKED, 0.0)


@pytest.mark.parametrize("trusting", [False, True])
@pytest.mark.parametrize(("believed", "liking"), [(COMMONER, 2.0), (RARER, -2.0), (RARER, 2.0), (COMMONER, 0.0)])
def test_users_who_like_a_place_bear_no_worthless_belief_out(
    believed: dict[str, float], liking: float, trusting: bool
) -> None:
    ever = sum(any(streamed(seed, believed, NOTHING, liking, trusting=trusting)) for seed in range(24))
    assert binomtest(ever, 24, ERROR, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize(
    ("believed", "liking", "trusting"), [(COMMONER, 2.0, False), (RARER, -2.0, False), (RARER, -2.0, True)]
)
def test_they_would_if_every_answer_counted(believed: dict[str, float], liking: float, trusting: bool) -> None:
    """The control of the test above: what was tried first."""
    how = {"trusting": trusting, "all_count": True}
    assert sum(any(streamed(seed, believed, NOTHING, liking, **how)) for seed in range(10)) >= 5


@pytest.mark.parametrize("liking", [-1.0, 0.0, 1.0])
def test_true_beliefs_are_borne_out_whatever_place_is_liked(liking: float) -> None:
    """Of a policy that says the same in most pairs, so that there is not much to compare."""
    begun = [streamed(seed, RARER, RARER, liking).index(True) for seed in range(10)]
    assert sorted(begun)[7] < 150


def test_beliefs_that_stop_to_be_true_are_acted_on_no_more_in_streams_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> bool:
        return not streamed(1, RARER, COMMONER, 0.0, trusting=True, wager=won(Wager(), 40))[-1]

    assert lost()
    monkeypatch.setattr(deciding, "TESTS", 0.0)
    assert not lost(), "the control: nothing puts them to the test"
