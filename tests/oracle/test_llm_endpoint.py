"""An endpoint's failures are waited out within limits, its refusals are told with the remedy, and the key stays put."""

import logging
import socket
import threading
from collections.abc import Callable
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from duels import duel
from judge_server import Fault, Handler, Judge, JudgeServer, cut_off, silence, status, trickle, writes
from judge_tools import Clock, MakeJudge
from openai import APIStatusError

from oracle import llm_endpoint
from sea_agent.config import LlmJudgeOracleConfig
from sea_agent.errors import UserError

SECRET = "sk_recognisable_4711"  # a word, as the error codes are that are told


# --- failures that pass ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [status(500), status(503), status(429), status(408), status(409), cut_off])
def test_a_failure_is_waited_out_and_counted(oracle: MakeJudge, judge: Judge, fault: Fault) -> None:
    asking = oracle()
    judge.faults = [fault, fault]
    assert len(asking.ask([duel()])) == 1
    assert judge.requests == 5  # a trial, two orders, two failures
    assert (asking.metrics()["requests"], asking.metrics()["retries"], asking.metrics()["malformed"]) == (5, 2, 0)


@pytest.mark.parametrize("fault", [silence, trickle])
def test_an_answer_that_does_not_come_in_time_is_given_up(oracle: MakeJudge, judge: Judge, fault: Fault) -> None:
    """Also one of which a byte comes every now and then."""
    asking = oracle(timeout_seconds=1.0)
    judge.faults = [fault]
    assert len(asking.ask([duel()])) == 1
    assert asking.metrics()["retries"] >= 1


def early_requests(
    oracle: MakeJudge,
    judge: Judge,
    clock: Clock,
    patch: pytest.MonkeyPatch,
    retry_after: Callable[[Any], float],
    *,
    as_date: bool = False,
) -> int:
    """Requests that come before the time is over that the endpoint asked for. None is answered before the client has
    read that."""
    asking = oracle()
    early, welcome, read = 0, 0.0, threading.Event()

    def reading(error: Any) -> float:
        read.set()
        return retry_after(error)

    patch.setattr(llm_endpoint, "_retry_after", reading)

    def busy(handler: Handler) -> None:
        nonlocal welcome
        welcome = clock.monotonic() + 30.0
        handler.fail(429, Retry_After=formatdate(clock.time() + 31.0, usegmt=True) if as_date else "30")

    def prefer(prompt: str, a: str, b: str) -> str:
        nonlocal early
        assert read.wait(30)
        early += clock.monotonic() < welcome
        return "A"

    judge.faults, judge.prefer = [busy], prefer
    assert len(asking.ask([duel("x"), duel("y", "w3", "w4")])) == 2
    return early


def test_nobody_is_asked_before_the_endpoint_wants_to_be(
    oracle: MakeJudge, judge: Judge, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    heeding = llm_endpoint._retry_after
    for as_date in (False, True):
        early = early_requests(oracle, judge, clock, monkeypatch, heeding, as_date=as_date)
        assert early <= 1, "the other request was under way already"
    assert early_requests(oracle, judge, clock, monkeypatch, lambda error: 0.0) >= 3, "the control"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("30", 30.0),
        ("1.5", 1.5),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sunday, 06-Nov-94 08:49:47 GMT", 10.0),
        ("Sun Nov  6 08:49:47 1994", 10.0),
        ("Sun, 06 Nov 1994 09:49:47 +0100", 10.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("Sun, 99 Nov 1994 08:00:00 GMT", 0.0),
        ("", 0.0),
        ("soon", 0.0),
        ("-3", 0.0),
    ],
)
def test_the_time_to_wait_is_read_as_seconds_or_as_a_date(
    header: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three forms of a date are those of RFC 9110, section 5.6.7; that date is 784,111,787 seconds after 1970."""
    monkeypatch.setattr(llm_endpoint, "time", SimpleNamespace(time=lambda: 784_111_777.0))
    response = httpx.Response(429, headers={"Retry-After": header}, request=httpx.Request("POST", "http://x"))
    assert llm_endpoint._retry_after(APIStatusError("busy", response=response, body=None)) == seconds


def test_an_endpoint_that_wants_to_be_left_alone_for_longer_than_a_call_is(
    oracle: MakeJudge, judge: Judge, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    asking = oracle()
    judge.faults = [status(429, Retry_After="100")]
    began = clock.monotonic()
    while not asking.ask([duel()]):
        assert judge.requests == 2, "the trial, and the one that was refused"
    assert judge.requests == 4
    assert clock.monotonic() >= began + 100
    assert "1 of 1 duels stay open: it asks to wait for longer" in caplog.text


# --- what is refused at the start ------------------------------------------------------------------------------------


def test_an_address_where_nobody_answers_is_refused(oracle: MakeJudge, impatient: None) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))  # and never listens
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/v1"
        with pytest.raises(UserError, match=rf"oracle\.url={url}: no judge answers there: no connection"):
            oracle(url=url)


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (status(401), r"SEA_AGENT_JUDGE_KEY is not set, and the endpoint .* asks for a key \(status 401\)"),
        (status(403), r"SEA_AGENT_JUDGE_KEY is not set.*status 403"),
        (status(404), r"oracle\.model=m: .* has no such model, or is at another address \(status 404\)"),
        (status(503), r"no judge answers there: status 503"),
        (status(429, code="insufficient_quota"), r"no judge answers there: status 429 insufficient_quota\. "),
        (status(429, code="429"), r"no judge answers there: status 429\. "),
        (status(400, "no json_schema here"), r"status 400 \(no json_schema here\)\. .*oracle\.response_format"),
        (writes("I prefer not to."), r"no usable reply to a trial question: it is not JSON\. "),
        (writes('{"better": ', finish_reason="length"), r"does not end within oracle\.max_tokens=512"),
    ],
)
def test_what_no_duel_could_be_asked_with_is_refused(
    oracle: MakeJudge, judge: Judge, impatient: None, fault: Fault, complaint: str
) -> None:
    judge.faults = [fault] * 3
    with pytest.raises(UserError, match=complaint):
        oracle()


def test_a_path_that_is_none_is_refused(oracle: MakeJudge, server: JudgeServer) -> None:
    with pytest.raises(UserError, match=r"another address \(status 404\).*usually with /v1"):
        oracle(url=f"http://127.0.0.1:{server.server_port}")


# --- the key ---------------------------------------------------------------------------------------------------------


def test_the_key_is_sent_and_is_in_no_message_and_no_log_line(
    oracle: MakeJudge, judge: Judge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not at the level of debugging, nor when the endpoint repeats it in all it says."""
    monkeypatch.setenv(llm_endpoint.KEY, SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    caplog.set_level(logging.DEBUG)
    asking = oracle(attempts=1)
    assert judge.asked[0].headers["authorization"] == f"Bearer {SECRET}"
    says = f"the key {SECRET} is bad"
    judge.faults = [status(500, says, code=SECRET), status(400, says, code=SECRET), writes(says)]
    asking.ask([duel("x"), duel("y", "w3", "w4")])
    told = []
    for fault in (status(401, says), status(404, says), status(400, says, code=SECRET), writes(says)):
        judge.faults = [fault] * 3
        with pytest.raises(UserError) as caught:
            oracle(attempts=1)
        told.append(str(caught.value))
    assert "the key … is bad" in told[2], "the control: the rest of it is told"
    assert {"openai._base_client", "httpx2", "oracle.llm_judge"} <= {record.name for record in caplog.records}
    assert "stay open" in caplog.text
    assert SECRET not in caplog.text + repr(caplog.records) + "".join(told)
    assert "another-service" not in str([one.headers for one in judge.asked])


def test_only_an_endpoint_on_this_machine_is_asked_without_a_key(oracle: MakeJudge, server: JudgeServer) -> None:
    for url in ("https://api.openai.com/v1", "http://127.0.0.1.example.test/v1"):
        with pytest.raises(UserError, match=r"SEA_AGENT_JUDGE_KEY is not set\. Put the key of http"):
            oracle(url=url)
    assert len(oracle(url=f"http://localhost:{server.server_port}/v1").ask([duel()])) == 1


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(
    oracle: MakeJudge, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(llm_endpoint.KEY, key)
    with pytest.raises(UserError, match="SEA_AGENT_JUDGE_KEY: holds a line break") as caught:
        oracle()
    assert key not in str(caught.value)


# --- the configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000/v1",
        "ftp://127.0.0.1/v1",
        "http:///v1",
        "http://me:secret@127.0.0.1/v1",
        "http://127.0.0.1/v1?key=secret",
        "http://127.0.0.1/v1#part",
        "http://127.0.0.1:99999/v1",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        LlmJudgeOracleConfig(kind="llm_judge", model="m", url=url)


@pytest.mark.parametrize(
    "settings",
    [
        {"price_per_million_input": 1.0},
        {"price_per_million_output": 1.0},
        {"spend_limit": 1.0},
    ],
)
def test_money_is_counted_with_both_prices_or_not_at_all(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="price_per_million_input and price_per_million_output"):
        LlmJudgeOracleConfig(kind="llm_judge", model="m", **settings)
