"""A language model's verdict counts when the order of the answers changes nothing; what has none stays open."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from duels import duel
from judge_server import Fault, Handler, Judge, cut_off, sends, status, writes
from judge_tools import Clock, MakeJudge
from test_llm_question import attack

from oracle import llm_question
from sea_agent.errors import RunFailure, UserError
from sea_agent.types import Duel, Outcome, Verdict

LONG, SHORT = "a long answer", "short"
BETTER = ("A", "B", "tie")


def prefers_longer(prompt: str, a: str, b: str) -> str:
    return "tie" if len(a) == len(b) else "A" if len(a) > len(b) else "B"


def duels(count: int) -> list[Duel]:
    return [duel(f"d{index}", LONG, SHORT, prompt=f"prompt {index}") for index in range(count)]


def outcomes(verdicts: Sequence[Verdict]) -> list[tuple[str, Outcome, float | None]]:
    return [(verdict.duel_id, verdict.outcome, verdict.probability) for verdict in verdicts]


@pytest.fixture(autouse=True)
def _honest(judge: Judge) -> None:
    judge.prefer = prefers_longer


# --- both orders -----------------------------------------------------------------------------------------------------


def test_a_preference_is_told_whichever_answer_comes_first(oracle: MakeJudge, judge: Judge) -> None:
    asking = oracle()
    verdicts = asking.ask([duel("x", LONG, SHORT), duel("y", SHORT, LONG), duel("z", "same", "size")])
    assert outcomes(verdicts) == [
        ("x", Outcome.FIRST, 1.0),
        ("y", Outcome.SECOND, 0.0),
        ("z", Outcome.TIE, 0.5),
    ]
    assert {verdict.annotator for verdict in verdicts} == {"m"}
    assert (asking.queries, asking.metrics()["judged"], asking.metrics()["flips"]) == (3, 3, 0)
    assert sorted((one.a, one.b) for one in judge.questions if one.a in ("same", "size")) == [
        ("same", "size"),
        ("size", "same"),
    ]


@pytest.mark.parametrize("side", ["A", "B"])
def test_a_judge_that_goes_by_position_says_nothing_but_ties(oracle: MakeJudge, judge: Judge, side: str) -> None:
    judge.prefer = lambda prompt, a, b: side
    asking = oracle()
    assert {(verdict.outcome, verdict.probability) for verdict in asking.ask(duels(6))} == {(Outcome.TIE, 0.5)}
    assert asking.metrics()["flips"] == 6
    assert asking.metrics()["flip_rate"] == 1.0


def test_a_verdict_is_what_both_orders_say(oracle: MakeJudge, judge: Judge) -> None:
    """All nine pairs of replies against the definition, and a flip wherever the other order has another winner."""
    replies = {f"{straight} then {reverse}": (straight, reverse) for straight in BETTER for reverse in BETTER}
    asking = oracle()
    judge.prefer = lambda prompt, a, b: replies[prompt][0 if a == LONG else 1]
    verdicts = asking.ask([duel(name, LONG, SHORT, prompt=name) for name in replies])
    decided = {"A then B": (Outcome.FIRST, 1.0), "B then A": (Outcome.SECOND, 0.0)}
    assert outcomes(verdicts) == [(name, *decided.get(name, (Outcome.TIE, 0.5))) for name in replies]
    assert asking.metrics()["judged"] == 9
    assert asking.metrics()["flips"] == 9 - len([*decided, "tie then tie"])
    assert asking.metrics()["flip_rate"] == pytest.approx(6 / 9)


def test_what_was_answered_is_not_asked_again_and_half_a_duel_costs_the_other_half(
    oracle: MakeJudge, judge: Judge
) -> None:
    asking = oracle(attempts=1)
    judge.faults = [Handler.judge, writes("no JSON")]
    assert asking.ask(duels(1)) == []
    assert [(one.a, one.b) for one in judge.questions] == [(LONG, SHORT)]
    assert outcomes(asking.ask(duels(1))) == [("d0", Outcome.FIRST, 1.0)]
    assert [(one.a, one.b) for one in judge.questions] == [(LONG, SHORT), (SHORT, LONG)]
    assert outcomes(asking.ask(duels(1))) == [("d0", Outcome.FIRST, 1.0)]
    assert len(judge.questions) == 2


def test_two_processes_ask_the_same_with_the_same_words(oracle: MakeJudge, judge: Judge) -> None:
    oracle(concurrency=1).ask(duels(3))
    oracle(concurrency=1).ask(duels(3))
    bodies = [one.body for one in judge.asked]
    assert len(bodies) == 14  # a trial and six questions, twice
    assert bodies[:7] == bodies[7:]
    assert (bodies[0]["temperature"], bodies[0]["seed"], bodies[0]["max_completion_tokens"]) == (0.0, 0, 512)
    sent = bodies[0]["response_format"]
    assert (sent["type"], sent["json_schema"]["strict"]) == ("json_schema", True)


def test_what_an_endpoint_may_refuse_can_be_left_out(oracle: MakeJudge, judge: Judge) -> None:
    oracle(temperature=None, seed=None, response_format="json_object", rubric="Shorter is better.")
    body = judge.asked[0].body
    assert not {"temperature", "seed"} & body.keys()
    assert body["response_format"] == {"type": "json_object"}
    assert "Shorter is better." in body["messages"][0]["content"]


def test_as_many_requests_are_under_way_as_allowed_and_no_more(oracle: MakeJudge, judge: Judge) -> None:
    asking = oracle(concurrency=3)
    together, lock = threading.Barrier(3, timeout=60), threading.Lock()
    now, peak = 0, 0

    def prefer(prompt: str, a: str, b: str) -> str:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        together.wait()  # three are here at once, or this breaks
        with lock:
            now -= 1
        return prefers_longer(prompt, a, b)

    judge.prefer = prefer
    assert len(asking.ask(duels(6))) == 6
    assert peak == 3


# --- hostile answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hostile_first", [True, False])
def test_an_answer_that_talks_to_the_judge_wins_only_where_its_block_can_be_closed(
    oracle: MakeJudge, judge: Judge, monkeypatch: pytest.MonkeyPatch, hostile_first: bool
) -> None:
    """The judge knows the honest answer, and obeys whatever stands outside of the blocks."""
    honest, hostile = "an honest answer", attack("MARK")
    judge.prefer = lambda prompt, a, b: "A" if a == honest else "B"
    one = duel("x", hostile, honest) if hostile_first else duel("x", honest, hostile)
    hostile_wins, honest_wins = Outcome.FIRST, Outcome.SECOND
    if not hostile_first:
        hostile_wins, honest_wins = honest_wins, hostile_wins
    assert [verdict.outcome for verdict in oracle().ask([one])] == [honest_wins]
    monkeypatch.setattr(llm_question, "mark_for", lambda *texts: "MARK")
    assert [verdict.outcome for verdict in oracle().ask([one])] == [hostile_wins], "the control"


# --- replies that cannot be used -------------------------------------------------------------------------------------

UNUSABLE = [
    writes("The better one is A."),
    writes('{"better": "C"}'),
    writes(""),
    writes(None),
    writes(None, refusal="I would rather not."),
    writes('{"better": "A"}', finish_reason="length"),
    writes('{"better": "A"}', finish_reason="content_filter"),
    sends('{"choices": []}'),
    sends('{"choices": [{"message": "A"}]}'),
    sends("{"),
    sends("<html>welcome</html>", "text/html"),
    status(400, "context too long"),
    status(422),
]


@pytest.mark.parametrize("fault", UNUSABLE)
def test_an_unusable_reply_is_asked_for_again_and_never_guessed(
    oracle: MakeJudge, judge: Judge, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    asking = oracle(attempts=2)
    judge.faults = [fault]
    assert outcomes(asking.ask(duels(1))) == [("d0", Outcome.FIRST, 1.0)]
    assert asking.metrics()["malformed"] == 1
    assert (judge.questions[0].a, "An earlier reply" in str(judge.questions[0].body)) == (LONG, True)
    assert caplog.records == []
    judge.faults = [fault, fault]
    assert asking.ask([duel("y", "another", "pair")]) == []
    assert asking.queries == 1
    assert asking.metrics()["malformed"] == 3
    (line,) = caplog.records
    assert line.message.startswith("judge m at ")
    assert "1 of 1 duels stay open" in line.message
    for secret in ("another", "pair", "too long", "rather not", "welcome"):
        assert secret not in line.message


def test_a_duel_that_never_finds_a_usable_reply_is_skipped_in_the_end(
    oracle: MakeJudge, judge: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    judge.prefer = lambda prompt, a, b: "neither, I object" if prompt == "bad" else prefers_longer(prompt, a, b)
    asking = oracle(attempts=2)
    bad, good = duel("bad", LONG, SHORT, prompt="bad"), duels(1)
    assert outcomes(asking.ask([bad, *good])) == [("d0", Outcome.FIRST, 1.0)]
    assert asking.ask([bad]) == []
    assert outcomes(asking.ask([bad])) == [("bad", Outcome.SKIP, None)]
    assert asking.queries == 1
    assert [one.prompt for one in judge.questions].count("bad") == 6
    assert asking.metrics()["given_up"] == 1
    assert "duel bad is given up" in caplog.text


def test_a_judge_of_no_use_ends_the_run_before_every_duel_is_paid_for_in_vain(oracle: MakeJudge, judge: Judge) -> None:
    asking = oracle(attempts=1, concurrency=1)
    judge.prefer = lambda prompt, a, b: "I object"
    with pytest.raises(RunFailure, match=r"no usable reply to 8 duels.*not the JSON object asked for.*max_tokens"):
        asking.ask(duels(30))
    assert len(judge.questions) == 8
    assert asking.queries == 0


def test_as_many_bad_duels_among_more_good_ones_end_nothing(oracle: MakeJudge, judge: Judge) -> None:
    """The control of the last two: what ends a run is the share, not the number."""
    asking = oracle(attempts=1)
    bad = [duel(f"bad{index}", LONG, SHORT, prompt=f"bad {index}") for index in range(9)]
    judge.prefer = lambda prompt, a, b: "I object" if "bad" in prompt else prefers_longer(prompt, a, b)
    assert len(asking.ask(duels(12))) == 12
    assert asking.ask(bad) == asking.ask(bad) == []
    assert {verdict.outcome for verdict in asking.ask(bad)} == {Outcome.SKIP}


def test_a_duel_that_found_a_usable_reply_in_the_end_speaks_against_nobody(oracle: MakeJudge, judge: Judge) -> None:
    asking = oracle(attempts=1, concurrency=1)
    judge.faults = [writes("I object")] * 7
    first, second = duels(11), [duel(f"later {index}", LONG, SHORT, prompt="bad") for index in range(5)]
    assert len(asking.ask(first)) == 4
    assert len(asking.ask(first[:7])) == 7
    judge.faults = [writes("I object")] * 5
    assert asking.ask(second) == [], "five duels are open now, not twelve"


# --- what stays open -------------------------------------------------------------------------------------------------


def test_while_the_endpoint_is_down_duels_stay_open_and_nothing_is_lost_or_doubled(
    oracle: MakeJudge, judge: Judge, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    asking = oracle()
    assert len(asking.ask(duels(2))) == 2
    judge.down.set()
    for calls in (1, 2):
        assert asking.ask(duels(6)[2:]) == []
        assert len(caplog.records) == calls, "once for each call"
    assert "4 of 4 duels stay open: no connection" in caplog.text
    judge.down.clear()
    assert outcomes(asking.ask(duels(6)[2:])) == [(f"d{index}", Outcome.FIRST, 1.0) for index in range(2, 6)]
    assert asking.queries == 6
    asked = [(one.prompt, one.a) for one in judge.questions]
    assert len(asked) == len(set(asked)) == 12
    assert asking.metrics()["given_up"] == 0


def test_a_duel_that_fails_every_time_does_not_keep_the_others_waiting(
    oracle: MakeJudge, judge: Judge, clock: Clock
) -> None:
    def prefer(prompt: str, a: str, b: str) -> str:
        if prompt == "poison":
            clock.ahead += 3600.0  # the call is over when it fails
            raise ConnectionAbortedError
        return prefers_longer(prompt, a, b)

    judge.prefer = prefer
    asking = oracle(concurrency=1)
    poison = duel("poison", LONG, SHORT, prompt="poison")
    assert asking.ask([poison, *duels(2)]) == []
    assert [verdict.duel_id for verdict in asking.ask([poison, *duels(2)])] == ["d0", "d1"]


def test_answers_given_before_the_endpoint_refuses_are_kept(oracle: MakeJudge, judge: Judge) -> None:
    asking = oracle(concurrency=1)
    judge.faults = [Handler.judge, Handler.judge, status(401)]
    assert outcomes(asking.ask(duels(3))) == [("d0", Outcome.FIRST, 1.0)]
    requests = judge.requests
    with pytest.raises(RunFailure, match=r"SEA_AGENT_JUDGE_KEY.*status 401.*can be resumed"):
        asking.ask(duels(3)[1:])
    assert judge.requests == requests, "it is not asked again once it refused"
    assert asking.ask([]) == []


# --- money -----------------------------------------------------------------------------------------------------------

PRICES = {"price_per_million_input": 5.0, "price_per_million_output": 50.0}  # 100 and 10 tokens cost .001


def test_tokens_and_money_are_what_the_endpoint_reports(oracle: MakeJudge, judge: Judge) -> None:
    asking = oracle(**PRICES)
    judge.faults = [status(500), writes("no JSON")]
    asking.ask(duels(2))
    metrics = asking.metrics()
    # A trial, four questions and an unusable reply; an error costs nothing.
    assert (metrics["tokens_in"], metrics["tokens_out"]) == (600, 60)
    assert metrics["spend"] == pytest.approx(0.006)
    assert (metrics["requests"], metrics["retries"], metrics["malformed"]) == (7, 1, 1)
    assert "spend" not in oracle().metrics()


def test_at_the_limit_what_was_answered_is_kept_and_the_run_ends(oracle: MakeJudge, judge: Judge) -> None:
    asking = oracle(**PRICES, spend_limit=0.0049, concurrency=1)
    # A trial and two duels cost .005.
    assert [verdict.duel_id for verdict in asking.ask(duels(4))] == ["d0", "d1"]
    with pytest.raises(RunFailure, match=r"spend_limit=0\.0049.*cost 0\.005.*can be resumed"):
        asking.ask(duels(4)[2:])
    assert len(judge.questions) == 4
    assert len(oracle(**PRICES, spend_limit=0.0049, concurrency=1).ask(duels(4)[2:])) == 2, "the next start goes on"


def test_what_costs_money_and_is_not_reported_is_refused_at_the_start(oracle: MakeJudge, judge: Judge) -> None:
    judge.usage = None
    with pytest.raises(UserError, match="does not say how many tokens it used"):
        oracle(**PRICES)
    assert len(oracle().ask(duels(1))) == 1


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_it_does_not_evaluate_unless_asked_to(oracle: MakeJudge, judge: Judge) -> None:
    asking = oracle()
    assert not asking.evaluates
    with pytest.raises(ValueError, match="not asked to evaluate"):
        asking.evaluate([duel().public()])
    assert judge.questions == []


def test_evaluation_is_counted_apart_and_answers_every_question(oracle: MakeJudge, judge: Judge) -> None:
    asking = oracle(evaluates=True)
    judge.faults = [cut_off, writes("no JSON")]
    questions = [one.public() for one in (duel("x", LONG, SHORT), duel("y", SHORT, LONG), duel("z", "same", "size"))]
    assert asking.evaluates
    assert asking.evaluate(questions) == [1.0, 0.0, 0.5]
    assert (asking.queries, asking.evaluation_queries) == (0, 3)
    assert asking.evaluate([]) == []


def test_evaluation_waits_for_an_endpoint_that_is_down(
    oracle: MakeJudge, judge: Judge, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = oracle(evaluates=True)
    judge.down.set()
    ask, calls = asking._ask, 0

    def back_after_two_calls(questions: Any) -> None:
        nonlocal calls
        ask(questions)
        calls += 1
        if calls == 2:
            judge.down.clear()

    monkeypatch.setattr(asking, "_ask", back_after_two_calls)
    assert asking.evaluate([one.public() for one in duels(3)]) == [1.0] * 3
    assert calls == 3


def test_evaluation_may_take_long_while_it_is_answered(oracle: MakeJudge, judge: Judge, clock: Clock) -> None:
    """Ten hours for each order of each question, and one question follows the other."""
    asking = oracle(evaluates=True, concurrency=1, wait_hours=25.0)

    def prefer(prompt: str, a: str, b: str) -> str:
        clock.ahead += 36_000.0
        return prefers_longer(prompt, a, b)

    judge.prefer = prefer
    assert asking.evaluate([one.public() for one in duels(3)]) == [1.0] * 3


def test_evaluation_is_of_all_questions_or_none(oracle: MakeJudge, judge: Judge) -> None:
    asking = oracle(evaluates=True, attempts=1)
    judge.prefer = lambda prompt, a, b: "I object" if prompt == "prompt 1" else prefers_longer(prompt, a, b)
    with pytest.raises(RunFailure, match=r"no usable reply to 1 questions.*evaluates=false"):
        asking.evaluate([one.public() for one in duels(3)])
    assert asking.evaluation_queries == 0


def test_evaluation_does_not_wait_for_longer_than_it_may(oracle: MakeJudge, judge: Judge, impatient: None) -> None:
    asking = oracle(evaluates=True, wait_hours=1e-9)
    judge.down.set()
    with pytest.raises(RunFailure, match=r"no answer for 1e-09 hours \(oracle\.wait_hours\)"):
        asking.evaluate([one.public() for one in duels(1)])
