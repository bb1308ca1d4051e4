"""Simulated users of live mode: what they answer, whom quotas keep from being asked, and that answers make the gain."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from benchmarks import live_houses
from benchmarks.live import METHOD, PARTS, row
from benchmarks.live_figures import markdown
from benchmarks.live_users import ANSWERED, Arm, Users, simulate
from benchmarks.selection import Responses
from sea_agent.lab.statistics import estimate
from sea_agent.types import Outcome

PROMPTS, RESPONSES, FEATURES = 30, 40, 4


@pytest.fixture(autouse=True)
def linear_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world whose reward is linear in the features."""
    generator = np.random.default_rng(0)
    features_P_M_D = torch.from_numpy(generator.normal(size=(PROMPTS, RESPONSES, FEATURES))).float()
    texts = [(f"p{place}", [f"{place}-{one}" for one in range(RESPONSES)]) for place in range(PROMPTS)]
    rewards_P_M = features_P_M_D @ torch.tensor([2.0, -1.0, 0.5, 0.0])
    world = Responses(texts, features_P_M_D, (FEATURES,), rewards_P_M, np.tile(np.arange(RESPONSES), (PROMPTS, 1)))
    monkeypatch.setattr(live_houses, "respond", lambda name: world)


def play(seed: int = 0, **changes: object) -> dict[str, Any]:
    return row(simulate("made up", replace(METHOD, **{"requests": 900} | changes), seed))


def test_answers_follow_the_law_of_bradley_and_terry_and_liars_turn_it() -> None:
    users = Users(Arm("liars", 0.1, 0.4, liars=0.5, requests=4000), PROMPTS, 0)
    said = [(users.lies(request), users.answer(request, 1.0)) for request in users.requests]
    given = [(lies, answer[1]) for lies, answer in said if answer is not None]
    assert binomtest(len(given), 4000, ANSWERED).pvalue > 0.001
    for liars, chance in ((False, 0.731), (True, 0.269)):
        firsts = [outcome is Outcome.FIRST for lies, outcome in given if lies is liars]
        assert binomtest(sum(firsts), len(firsts), chance).pvalue > 0.001
    assert binomtest(sum(lies for lies, _ in said), 4000, 0.8).pvalue > 0.001, "half of the users write 4 of 5 requests"


def test_quotas_keep_liars_from_being_asked_more_than_others() -> None:
    frozen = {"liars": 0.1, "learns": False, "requests": 10_000}
    free, equal = play(**frozen), play(**frozen, quotas=True)
    assert binomtest(free["lies"], free["answers"], 0.4 / 1.3).pvalue > 0.001
    assert equal["lies"] / equal["answers"] < 0.2


def test_answers_make_the_gain_and_nothing_else() -> None:
    """What is learnt from shuffled answers may be right by luck, so that is a mean over seeds."""
    learnt, never = play(), play(ask_share=0.0, considered_share=0.0)
    assert never["answers"] == sum(never["asked"]) == 0
    late = never["regret"][-1]
    assert learnt["regret"][-1] < 0.4 * late
    frozen, shuffled = play(learns=False), [play(seed, shuffled=True) for seed in range(8)]
    assert frozen["answers"] > 5 < min(run["answers"] for run in shuffled)
    assert frozen["regret"][-1] > 0.8 * late
    assert np.mean([run["regret"][-1] for run in shuffled]) > 0.7 * late


def test_a_run_is_the_same_again() -> None:
    assert play() == play() != play(shuffled=True)


def test_the_share_that_is_asked_is_kept() -> None:
    always = play(ask_share=1.0, considered_share=1.0)
    assert always["asked"][0] > 120, "of 150, before all draws agree"
    assert binomtest(sum(play(learns=False, requests=3000)["asked"]), 3000, 0.1).pvalue > 0.001


def test_the_tables_hold_means_and_intervals_over_the_seeds() -> None:
    done = {
        f"lexicon/never/{seed}": play() | {"regret": [9.0] * 5 + [late]} for seed, late in enumerate((1.0, 2.0, 6.0))
    }
    done["lexicon/never aside/0"] = done["lexicon/never/0"]
    text = markdown(done, {name: [arm.name for arm in part.arms] for name, part in PARTS.items()})
    found = estimate([1.0, 2.0, 6.0])
    assert f"| never | 3 | 3.000 [{found.low:.3f}, {found.high:.3f}] |" in text
    assert text.count("**") == 2, "parts without runs are left out"
