"""The gate of live mode: worse weights stay back, better ones go live, and audits take back what should not have."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from live.live_world import prompts
from live.made_policies import WORSE, Maker, better, reward
from live_gateway import KEY, RUN, Gateway

from oracle.base import bradley_terry
from oracle.service_client import ServiceClient
from sea_agent.agent import Agent
from sea_agent.config import GateConfig, LiveConfig
from sea_agent.live import publishing as publications_of_weights
from sea_agent.live.audits import evidence
from sea_agent.live.gate import Figures, objections, win_rate
from sea_agent.live.log import LiveLog
from sea_agent.live.measuring import Measuring, NotScored, Score
from sea_agent.live.publishing import Publishing
from sea_agent.types import Prompt, TokenRow

WIDEST: dict[str, Any] = {"margin": 1.0, "max_kl": 1e9, "least_distinct": 0.0, "longest": 1e9}
TRIES = 5  # of each kind of worse weights
GOOD = Figures(
    prompts=64,
    users=9,
    win_rate=0.6,
    win_low=0.52,
    judge_win_rate=None,
    kl=1.0,
    length=1.1,
    distinct=0.9,
    gap=0.001,
    engine_gap=None,
    engine_fault=None,
)
Open = Callable[..., tuple[Publishing, list[str]]]


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    opened = Gateway()
    yield opened
    opened.close()


@pytest.fixture
def publishing(gateway: Gateway, maker: Maker, tmp_path: Path) -> Open:
    """Publishes what the maker makes, compared on held-out prompts; and what it told."""

    def opened(
        engines: int = 1, clock: Callable[[], float] = time.time, score: Score | None = None, **gate: Any
    ) -> tuple[Publishing, list[str]]:
        maker.reset()
        told: list[str] = []
        live = LiveConfig(engines=engines, gate=GateConfig(prompts=48, **gate))
        log = LiveLog(ServiceClient(gateway.url, KEY, "users"), RUN)
        measuring = Measuring(seed=0, temperature=0.7, score=score)
        made = Publishing(live, log, tmp_path / "weights", measuring, heldout, told.append, clock=clock)
        made.begin(as_agent(maker))
        return made, told

    return opened


def heldout(count: int) -> list[Prompt]:
    """So many conversations, of which the file's first is the newest, the newest last."""
    return prompts("heldout.jsonl").first(count)[::-1]


def as_agent(maker: Maker) -> Agent:
    parts: Any = maker
    assert isinstance(parts, Maker)
    return parts


# --- what is measured decides ----------------------------------------------------------------------------------------


def test_good_figures_pass() -> None:
    assert objections(GOOD, GateConfig()) == []


@pytest.mark.parametrize(
    "fault",
    [
        {"prompts": 7},
        {"users": 2},
        {"win_low": 0.44},
        {"win_low": float("nan")},
        {"judge_win_rate": 0.44},
        {"kl": 10.1},
        {"kl": float("nan")},
        {"length": 2.1},
        {"length": 0.49},
        {"distinct": 0.49},
        {"gap": 0.051},
        {"engine_gap": 0.051},
        {"engine_gap": float("inf")},
        {"engine_fault": "it answered 409"},
    ],
    ids=str,
)
def test_each_fault_alone_keeps_weights_back(fault: dict[str, Any]) -> None:
    (only,) = objections(replace(GOOD, **fault), GateConfig())
    assert only


def test_the_lower_bound_knows_both_that_draws_and_that_conversations_differ() -> None:
    """Draws that are each sure, in different directions, average to a win over every conversation; so do conversations
    of which some are lost."""
    draws_disagree = torch.tensor([[0.95] * 30] * 7 + [[0.05] * 30] * 3)
    prompts_disagree = draws_disagree.T
    sure = torch.full((10, 30), float(draws_disagree.mean()))
    (mean, by_draws), (same, by_prompts), (again, unmoved) = (
        win_rate(wins, np.random.default_rng(0)) for wins in (draws_disagree, prompts_disagree, sure)
    )
    assert mean == pytest.approx(same) == pytest.approx(again)
    assert by_draws == pytest.approx(0.05)
    assert 0.05 < by_prompts < unmoved == pytest.approx(mean)
    averaged_first = win_rate(draws_disagree.mean(0, keepdim=True), np.random.default_rng(0))[1]
    assert averaged_first > 0.5, "this is what hides that all draws may be wrong together"


# --- real weights ----------------------------------------------------------------------------------------------------


@pytest.mark.dear
@pytest.mark.parametrize("kind", WORSE)
def test_worse_weights_are_never_promoted(kind: str, maker: Maker, publishing: Open, gateway: Gateway) -> None:
    made, told = publishing()
    for seed in range(TRIES):
        maker.reset()
        WORSE[kind](maker, seed)
        if kind != "collapsed":
            assert maker.true_win_rate(heldout(24)) < 0.45, "they are not worse, so that this shows nothing"
        made.offer(as_agent(maker))
    states = [row["state"] for row in gateway.publications]
    assert states == ["live", *["rejected"] * TRIES], told
    assert gateway.live == 1


@pytest.mark.dear
@pytest.mark.parametrize("seed", range(2))
def test_better_weights_are_promoted(seed: int, maker: Maker, publishing: Open, gateway: Gateway) -> None:
    made, told = publishing()
    better(maker, seed)
    assert maker.true_win_rate(heldout(24)) > 0.55
    made.offer(as_agent(maker))
    assert (gateway.live, gateway.state_of(1)) == (2, "retired"), told
    assert Path(gateway.publications[1]["path"], "model.safetensors").is_file()


@pytest.mark.dear
def test_what_the_gate_looks_at_is_what_keeps_weights_back(maker: Maker, publishing: Open, gateway: Gateway) -> None:
    """With every limit at its widest the same worse weights pass."""
    made, _ = publishing(**WIDEST)
    WORSE["reversed_labels"](maker, 0)
    made.offer(as_agent(maker))
    assert gateway.live == 2


@pytest.mark.dear
def test_samplers_have_the_new_weights_again_after_the_comparison(maker: Maker, publishing: Open) -> None:
    made, _ = publishing()
    better(maker, 3)
    before = maker.samplers.samples(heldout(4), 1, 0.7, "again")
    made.offer(as_agent(maker))
    assert maker.samplers.samples(heldout(4), 1, 0.7, "again") == before
    maker.reset()
    assert maker.samplers.samples(heldout(4), 1, 0.7, "again") != before, "any weights would give these samples"


def test_how_far_prompts_have_drifted_is_reported_of_the_newest_against_those_before_them(
    maker: Maker, publishing: Open, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = publishing(**WIDEST)
    compared: list[tuple[list[str], list[str]]] = []

    def told(recent: Sequence[Prompt], earlier: Sequence[Prompt]) -> float:
        compared.append(([one.id for one in recent], [one.id for one in earlier]))
        return 0.25

    monkeypatch.setattr(publications_of_weights, "drift", told)
    WORSE["noisy"](maker, 0)
    made.offer(as_agent(maker))
    there = [one.id for one in heldout(96)]
    assert compared == [(there[48:], there[:48])]
    assert gateway.publications[1]["report"]["drift"] == 0.25


def test_frozen_nothing_goes_live_and_only_what_is_kept_stays_on_disk(
    maker: Maker, publishing: Open, gateway: Gateway, tmp_path: Path
) -> None:
    made, _ = publishing(**WIDEST)
    for seed in range(5):
        gateway.frozen = seed == 4
        WORSE["noisy"](maker, seed)
        made.offer(as_agent(maker))
    assert [row["state"] for row in gateway.publications] == [*["retired"] * 4, "live", "rejected"]
    assert "frozen" in gateway.publications[-1]["reason"]
    there = {path.name for path in (tmp_path / "weights").iterdir() if path.is_dir()}
    kept = [row["checksum"] for row in gateway.publications if row["version"] in (1, 3, 4, 5, 6)]
    assert there == set(kept), "the initial policy, three that were live, and the last that was turned down"
    assert [row["version"] for row in gateway.publications if not row["path"]] == [2]


def test_while_no_engine_tells_its_log_probabilities_weights_stay_back_and_the_next_are_judged_anew(
    maker: Maker, publishing: Open, gateway: Gateway
) -> None:
    tells = False

    def score(rows: Sequence[TokenRow], version: int) -> list[list[float]]:
        if not tells:
            raise NotScored("it holds version 7")
        return maker.samplers.logprobs(rows)

    made, told = publishing(score=score, **WIDEST)
    WORSE["noisy"](maker, 0)
    made.offer(as_agent(maker))
    assert (gateway.live, gateway.state_of(2)) == (1, "rejected")
    assert "no engine gave log-probabilities" in gateway.publications[1]["reason"]
    assert gateway.publications[1]["report"]["engine_fault"] == "it holds version 7"
    assert "it holds version 7" in told[-1], "the agent's log says why"
    tells = True
    WORSE["noisy"](maker, 1)
    made.offer(as_agent(maker))
    assert gateway.live == 3
    assert gateway.publications[2]["report"]["engine_gap"] < 1e-3


# --- canaries --------------------------------------------------------------------------------------------------------


class Trial:
    """Weights that are tried on some users, by a clock that stands."""

    def __init__(self, publishing: Open, maker: Maker, gateway: Gateway) -> None:
        self.maker, self.gateway = maker, gateway
        self.log = LiveLog(ServiceClient(gateway.url, KEY, "users"), RUN)
        self.later = 0.0
        self._open = lambda: publishing(2, lambda: time.time() + self.later, canary_share=0.5, **WIDEST)[0]
        self.made = self._open()
        self.offer(0)

    def again(self) -> None:
        """Another life of the agent, with the weights that it has."""
        state = self.maker.learner.state()
        self.made = self._open()
        self.maker.learner.load_state(state)
        self.maker.publish()

    def offer(self, seed: int) -> list[str]:
        """The states after new weights were offered."""
        WORSE["noisy"](self.maker, seed)
        self.made.offer(as_agent(self.maker))
        return self.states()

    def tend(self, lost: int = 0) -> list[str]:
        self.made.tend(self.log.serving(), {2: [0.0] * lost})
        return self.states()

    def states(self) -> list[str]:
        return [row["state"] for row in self.gateway.publications]


@pytest.fixture
def trial(publishing: Open, maker: Maker, gateway: Gateway) -> Trial:
    return Trial(publishing, maker, gateway)


def test_newer_weights_wait_until_the_canary_has_had_its_time(trial: Trial) -> None:
    """They would take its place, and where rounds are shorter than its time nothing would ever go live."""
    assert trial.states() == ["live", "canary"]
    for seed in (1, 2):
        assert trial.offer(seed) == ["live", "canary"]
        assert trial.tend() == ["live", "canary"]
    trial.later = GateConfig().canary_seconds
    assert trial.tend() == ["retired", "live"]
    trial.made.offer(as_agent(trial.maker))
    assert trial.states() == ["retired", "live", "canary"], "the newest of those that waited are offered"


def test_a_canary_that_loses_its_audits_goes_back_and_the_next_is_tried(trial: Trial) -> None:
    assert trial.tend(lost=3) == ["live", "canary"]
    assert trial.tend(lost=30) == ["live", "rejected"]
    trial.later = GateConfig().canary_seconds
    assert trial.tend(lost=30) == ["live", "rejected"]
    assert trial.offer(1) == ["live", "rejected", "canary"]


def test_another_life_of_the_agent_goes_on_with_the_canary_of_the_last(trial: Trial) -> None:
    trial.again()
    trial.made.offer(as_agent(trial.maker))
    assert trial.tend() == ["live", "canary"]
    trial.later = GateConfig().canary_seconds
    assert trial.tend() == ["retired", "live"]


# --- audits ----------------------------------------------------------------------------------------------------------


@pytest.mark.dear
def test_worse_weights_that_were_forced_in_are_taken_back_by_audits(
    maker: Maker, publishing: Open, gateway: Gateway
) -> None:
    made, told = publishing()
    better(maker, 0)
    made.offer(as_agent(maker))
    maker.reset()
    WORSE["reversed_labels"](maker, 0)
    made.offer(as_agent(maker))
    assert (gateway.live, gateway.state_of(3)) == (2, "rejected")
    gateway.promote(3)
    draw, outcomes = np.random.default_rng(0), []
    log = LiveLog(ServiceClient(gateway.url, KEY, "users"), RUN)
    theirs = {group.prompt.id: group.responses[0] for group in maker.pool}
    for group in maker.pool:
        (mine,) = maker.samplers.samples([group.prompt], 1, 0.7, "audit")[0]
        chance = bradley_terry(reward(group.prompt, mine), reward(group.prompt, theirs[group.prompt.id]))
        outcomes.append(float(draw.random() < chance))
        made.tend(log.serving(), {3: outcomes, 2: [1.0] * len(outcomes)})
        if gateway.state_of(3) == "withdrawn":
            break
    assert (gateway.live, gateway.state_of(3)) == (2, "withdrawn"), told
    assert 5 < len(outcomes) < len(maker.pool)
    assert gateway.publications[2]["report"]["evidence"] >= 20
    assert told[-1].startswith("version 3 is taken back")


def test_the_initial_policy_is_never_taken_back(publishing: Open, gateway: Gateway) -> None:
    made, _ = publishing()
    log = LiveLog(ServiceClient(gateway.url, KEY, "users"), RUN)
    made.tend(log.serving(), {1: [0.0] * 100})
    assert gateway.live == 1


SEQUENCES, LENGTH, ALARM = 2000, 400, 0.05


def alarms(chance: float, ties: float = 0.0, seed: int = 0) -> float:
    """Share of sequences that are ever taken for worse."""
    draw = np.random.default_rng(seed)
    outcomes = np.where(
        draw.random((SEQUENCES, LENGTH)) < ties, 0.5, (draw.random((SEQUENCES, LENGTH)) < chance).astype(float)
    )
    return float(np.mean([evidence(row.tolist()) >= 1 / ALARM for row in outcomes]))


def test_false_alarms_are_as_rare_as_promised_however_often_one_looks() -> None:
    assert alarms(0.5) <= ALARM
    assert alarms(0.5, ties=0.4, seed=1) <= ALARM
    assert alarms(0.55, seed=2) <= alarms(0.5) / 2


def test_a_test_that_is_not_anytime_valid_would_alarm_too_often() -> None:
    """The control: the usual test at 5 %, looked at after each audit."""
    draw = np.random.default_rng(0)
    lost = (draw.random((SEQUENCES, LENGTH)) < 0.5).cumsum(axis=1)
    count = np.arange(1, LENGTH + 1)
    beyond = (lost - count / 2) / np.sqrt(count / 4) > 1.645
    assert np.mean(beyond[:, 10:].any(axis=1)) > 4 * ALARM


def test_an_average_over_bets_costs_nothing_in_expectation() -> None:
    """Exactly: over all sequences of eight fair audits the stake stays what it was, and no look is worth more."""
    sequences = np.array(np.meshgrid(*[[0.0, 1.0]] * 8)).reshape(8, -1).T
    ever = [evidence(row.tolist()) for row in sequences]
    assert np.mean([value >= 4.0 for value in ever]) <= 1 / 4
    assert max(ever) > 4.0, "nothing could ever alarm"


def test_losses_are_found_and_wins_are_not_taken_for_losses() -> None:
    assert alarms(0.35) > 0.95
    assert evidence([1.0] * 300) == 1.0
    assert evidence([]) == 1.0
