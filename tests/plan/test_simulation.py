"""Rounds that are played through take what closed forms say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng

from sea_agent.config.files import parse_config
from sea_agent.plan.answering import Workers
from sea_agent.plan.machine import Judge, Machine, People
from sea_agent.plan.planned import Costs, Planned
from sea_agent.plan.simulation import play

SERVICE = {"kind": "feedback_service", "url": "http://127.0.0.1:8400", "run": "r"}


def run(**sections: Any) -> Planned:
    tree = {
        "batch_size": 10,
        "policy": {"path": "p"},
        "prompts": {"path": "q"},
        "oracle": {"kind": "world"},
        "budget": {"oracle_queries": 100},
        "sampler": {"candidates": 4, "chunk": 10},
    }
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values} if isinstance(values, dict) and name != "oracle" else values
    return Planned(parse_config(tree, "test"), Machine())


def costs(
    evaluation: float = 0.0, once: float = 0.0, imagined: dict[str, float] | None = None, **asked: float
) -> Costs:
    """A round that asks takes 8.5 seconds, an imagined one 9.5."""
    usual = {"sample": 4.0, "select": 1.0, "learn": 2.0, "publish": 0.5, "update": 1.0}
    imagined = imagined or {"sample": 3.0, "imagine": 1.0, "learn": 5.0, "publish": 0.5}
    return Costs(usual | asked, imagined, evaluation, once, actors=1, imagined_share=1.0, source="recorded")


class Now:
    """Answers at once."""

    busy = 0.0

    def could_work(self, until: float) -> float:
        return until

    def ask(self, now: float, duels: int) -> list[float]:
        return [now] * duels


def people(annotators: int = 2, seconds: float = 30.0, hours: float = 24.0, votes: int = 1) -> Workers:
    """Without any spread."""
    return Workers(People(annotators=annotators, seconds=seconds, spread=0, hours_a_day=hours), votes, default_rng(0))


def test_one_stage_after_the_other_takes_their_sum() -> None:
    played = play(run(), costs(once=3.0), Now())
    assert played.rounds == 10
    assert played.wall == pytest.approx(3 + 10 * 8.5)
    busy = {"samplers": 40, "posterior": 20, "learner": 20, "publishing": 5, "evaluation": 0, "oracle": 0}
    assert played.busy == pytest.approx(busy)


def test_imagined_rounds_come_after_each_round_that_asks_from_their_start_on() -> None:
    played = play(run(imagination={"rounds": 2, "start": 50}), costs(), Now())
    assert played.rounds == 10 + 2 * 6
    assert played.wall == pytest.approx(10 * 8.5 + 12 * 9.5)


def test_evaluations_are_at_the_start_at_the_end_and_as_often_as_the_run_evaluates() -> None:
    often = run(batch_size=48, budget={"oracle_queries": 960}, evaluation={"every": 64})
    assert play(often, costs(evaluation=7.0), Now()).busy["evaluation"] == 7 * 16  # after 96, 144, 192 of every 192
    seldom = run(evaluation={"every": 1000})
    assert play(seldom, costs(evaluation=7.0), Now()).wall == pytest.approx(10 * 8.5 + 2 * 7)


@given(sample=st.floats(0.1, 20.0), learn=st.floats(0.1, 20.0))
def test_sampling_ahead_hides_the_shorter_of_sampling_and_learning(sample: float, learn: float) -> None:
    ahead = run(runtime="ray", sampler={"ahead": 1}, learner={"max_staleness": 1})
    played = play(ahead, costs(sample=sample, learn=learn, select=0.0, update=0.0), Now())
    # New weights wait for what is being sampled. The first round has nothing ahead, and the last begins nothing.
    assert played.wall == pytest.approx(sample + 9 * (max(sample, learn) + 0.5) + learn + 0.5)


def test_what_is_sampled_ahead_is_of_the_kind_that_comes() -> None:
    """A long sampling hides behind the short learning before it, and the other way round."""
    ahead = {"runtime": "ray", "sampler": {"ahead": 1}, "learner": {"max_staleness": 1}}
    turns = run(imagination={"rounds": 1, "start": 0}, **ahead)
    short = {"sample": 1.0, "imagine": 0.0, "learn": 1.0, "publish": 0.0}
    found = costs(imagined=short, sample=10.0, learn=10.0, select=0.0, publish=0.0, update=0.0)
    assert play(turns, found, Now()).wall == pytest.approx(10 + 10 * 10 + 9 * 10 + 1)


@pytest.mark.parametrize(("actors", "seconds"), [(2, 2), (4, 1), (9, 1)])
def test_more_samplers_share_the_chunks(actors: int, seconds: float) -> None:
    played = play(run(runtime="ray", sampler={"actors": actors}), costs(), Now())
    assert played.wall == pytest.approx(10 * (seconds + 4.5))
    assert played.busy["samplers"] == pytest.approx(10 * seconds), "no part works longer than the run"


def test_one_chunk_is_no_faster_with_more_samplers() -> None:
    few = run(runtime="ray", sampler={"actors": 4, "chunk": 20}, imagination={"rounds": 1, "start": 0, "candidates": 2})
    assert play(few, costs(), Now()).busy["samplers"] == pytest.approx(10 * 4 / 2 + 10 * 3)


def test_a_round_waits_for_the_last_of_its_answers() -> None:
    played = play(run(oracle=SERVICE), costs(), people(annotators=4))
    assert played.waited == pytest.approx(10 * 3 * 30)  # ten duels are three for the busiest of four
    assert played.busy["oracle"] == pytest.approx(100 * 30)


def test_each_vote_takes_another_person() -> None:
    played = play(run(oracle=SERVICE), costs(), people(annotators=4, votes=2))
    assert played.waited == pytest.approx(10 * 5 * 30)


def test_a_round_that_need_not_wait_goes_on_while_few_duels_are_open() -> None:
    patient = run(oracle=SERVICE | {"wait": False, "pending": 100}, learner={"max_staleness": 99})
    played = play(patient, costs(), people(annotators=4))
    assert played.answers == 100
    assert played.rounds > 10
    assert played.open_duels > 0
    assert played.wall < play(run(oracle=SERVICE), costs(), people(annotators=4)).wall


def test_people_answer_in_their_working_hours() -> None:
    work = people(annotators=1, seconds=1800, hours=1.0)
    assert list(work.ask(0.0, 3)) == pytest.approx([1800, 24 * 3600, 24 * 3600 + 1800])
    assert list(work.ask(30 * 3600, 1)) == pytest.approx([48 * 3600 + 1800])  # nobody works at that hour
    assert work.could_work(900) == pytest.approx(900)
    assert work.could_work(30 * 3600) == pytest.approx(2 * 3600)


def test_a_judge_answers_as_many_at_once_as_it_may() -> None:
    judge = Workers(Judge(parallel=5, seconds=2.0, spread=0.0), 1, default_rng(0))
    assert list(judge.ask(10.0, 10)) == pytest.approx([12.0] * 5 + [14.0] * 5)


@pytest.mark.parametrize(("share", "rounds"), [(0.5, 2 + 16), (0.95, 2 + 9), (0.02, 2 + 400)])
def test_what_the_posterior_labels_is_not_asked(share: float, rounds: int) -> None:
    mixed = play(run(mixing={"oracle_share": share, "burn_in": 20}), costs(), Now())
    assert mixed.rounds == rounds
    assert mixed.wall == pytest.approx(rounds * 8.5, rel=0.02), "the pairs to learn from are as many"
