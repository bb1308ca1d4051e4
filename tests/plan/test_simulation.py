"""Rounds that are played through take what closed forms say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng

from sea_agent.config.files import parse_config
from sea_agent.plan.answering import Workers
from sea_agent.plan.machine import Judge, Machine, People, Shape
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
    return Planned(parse_config(tree, "test"), Machine(), Shape(weights=1, layers=1, width=1, vocabulary=1))


def costs(**stages: float) -> Costs:
    asked = {"sample": 4.0, "select": 1.0, "learn": 2.0, "publish": 0.5, "update": 1.0} | stages
    imagined = {"sample": 3.0, "imagine": 1.0, "learn": 5.0, "publish": 0.5}
    return Costs(asked, imagined, evaluation=0.0, rest=0.25, actors=1, imagined_share=1.0, source="recorded")


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
    played = play(run(), costs(), Now())
    assert played.rounds == 10
    assert played.wall == pytest.approx(10 * (4 + 1 + 2 + 0.5 + 1 + 0.25))
    assert played.busy == pytest.approx({"samplers": 40, "posterior": 20, "learner": 20, "publishing": 5, "oracle": 0})


def test_imagined_rounds_come_after_each_round_that_asks_from_their_start_on() -> None:
    played = play(run(imagination={"rounds": 2, "start": 50}), costs(), Now())
    assert played.rounds == 10 + 2 * 6
    assert played.wall == pytest.approx(10 * 8.75 + 12 * (3 + 1 + 5 + 0.5 + 0.25))


@given(sample=st.floats(0.1, 20.0), learn=st.floats(0.1, 20.0))
def test_sampling_ahead_hides_the_shorter_of_sampling_and_the_rest(sample: float, learn: float) -> None:
    ahead = run(runtime="ray", sampler={"ahead": 1}, learner={"max_staleness": 1})
    played = play(ahead, costs(sample=sample, learn=learn, select=0.0, update=0.0), Now())
    # New weights wait for what is being sampled. The first round has nothing ahead.
    assert played.wall == pytest.approx(sample + 10 * (max(sample, learn) + 0.5 + 0.25), rel=0.05, abs=0.3)


def test_twice_the_samplers_take_half_the_chunks() -> None:
    two = play(run(runtime="ray", sampler={"actors": 2}), costs(), Now())
    assert two.wall == pytest.approx(10 * (2 + 1 + 2 + 0.5 + 1 + 0.25))
    more_than_chunks = play(run(runtime="ray", sampler={"actors": 9}), costs(), Now())
    assert more_than_chunks.wall == pytest.approx(10 * (1 + 1 + 2 + 0.5 + 1 + 0.25))


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


def test_what_the_posterior_labels_is_not_asked() -> None:
    mixed = play(run(mixing={"oracle_share": 0.5, "burn_in": 20}), costs(), Now())
    assert mixed.rounds == 2 + 16
    assert mixed.wall == pytest.approx(18 * 8.75)
