"""The figures of a live run are those that a count of all its rows gives."""

from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx
import numpy as np
import pytest
from service.conftest import START, Running
from service.live_rows import RUN, Asked, begin, chat_key, user_hash
from service.test_live_publications import offer

from sea_agent.service.schemas.base import iso
from sea_agent.service.store import live_summary

pytestmark = pytest.mark.anyio

OUTCOMES = ("first", "second", "tie", "both_bad")
OTHER_SIDE = {"first": "second", "second": "first"}
HOUR = 3600.0
INITIAL = 1
"""The version under which the initial policy was published."""


@dataclass
class Seen:
    """A request and what was said of it in the end, in the order shown."""

    asked: Asked
    choice: str | None = None
    late: bool = False
    thumbs: bool | None = None
    edited: bool = False
    used: bool | None = None


def drawn(seed: int, key: str, count: int) -> list[Seen]:
    """Requests of several users over some hours, of every kind."""
    draw = Random(seed)
    found = []
    for number in range(count):
        state = draw.choices(["done", "failed", "begun"], [8, 1, 1])[0]
        kind = draw.choice([None, None, "duel", "audit"]) if state == "done" else None
        asked = Asked(
            number,
            key,
            user=draw.choice(["ann", "bob", "cem", None]),
            asked=kind,
            swapped=draw.random() < 0.5,
            eligible=draw.random() < 0.7,
            state=state,
            regret=draw.choice([None, draw.random() * 3]),
            version=draw.choice([INITIAL, 2]),
            created_at=START - draw.random() * 10 * HOUR,
            first_token_seconds=draw.choice([None, draw.random()]),
            patience=draw.choice([1.0, 30 * HOUR]),
        )
        seen = Seen(asked)
        if kind is not None and draw.random() < 0.7:
            seen.choice = draw.choice(OUTCOMES)
            seen.late = asked.created_at + asked.patience <= START
        if state == "done":
            seen.thumbs = draw.choice([None, True, False])
            seen.used = draw.choice([None, True, False])
            seen.edited = draw.random() < 0.2
        found.append(seen)
    return found


async def said(app: httpx.AsyncClient, seen: Seen, draw: Random) -> None:
    """Give the feedback, with detours: other choices first, and some twice."""
    bodies: list[tuple[str, dict[str, Any]]] = []
    if seen.choice is not None:
        bodies += [("choice", {"outcome": draw.choice(OUTCOMES)})] * draw.randrange(3)
        bodies += [("choice", {"outcome": seen.choice})] * draw.randrange(1, 3)
    if seen.thumbs is not None:
        bodies += [("thumbs", {"up": not seen.thumbs}), ("thumbs", {"up": seen.thumbs})]
    if seen.used is not None:
        bodies.append(("used", {"used": seen.used}))
    if seen.edited:
        bodies += [("edit", {"text": "a"}), ("edit", {"text": "b"})]
    for kind, body in bodies:
        answer = await app.put(f"/v1/feedback/{seen.asked.id}/{kind}", json=body)
        assert answer.status_code in (200, 201), answer.text


def counted(everything: list[Seen], since: float) -> dict[str, Any]:
    """What the summary should say, by looking at one request after the other."""
    seen = [one for one in everything if one.asked.created_at >= since]
    asked, regrets = [one for one in seen if one.asked.asked], [one.asked.regret for one in seen]
    choices = Counter(one.choice for one in asked if one.choice)
    answered = sum(choices.values())
    own = Counter(
        OTHER_SIDE.get(one.choice, one.choice) if one.asked.swapped else one.choice
        for one in asked
        if one.choice and one.asked.asked == "audit" and one.asked.version != INITIAL
    )
    by_user = Counter(one.asked.user for one in asked if one.choice and one.asked.user)
    values = [value for value in regrets if value is not None]
    half = 1.959964 * np.std(values, ddof=1) / np.sqrt(len(values))
    seconds = [one.asked.first_token_seconds for one in seen if one.asked.first_token_seconds is not None]
    return {
        "requests": len(seen),
        "failed": sum(one.asked.state == "failed" for one in seen),
        "unfinished": sum(one.asked.state == "begun" for one in seen),
        "eligible": sum(one.asked.eligible for one in seen),
        "asked": len(asked),
        "answered": answered,
        "late": sum(one.late for one in asked if one.choice),
        "outcomes": {outcome: choices[outcome] for outcome in OUTCOMES},
        "first_shown.n": choices["first"] + choices["second"],
        "first_shown.share": choices["first"] / (choices["first"] + choices["second"]),
        "answer_rate.n": len(asked),
        "answer_rate.share": answered / len(asked),
        "audit.asked": sum(one.asked.asked == "audit" for one in seen),
        "audit.wins": own["first"],
        "audit.losses": own["second"],
        "audit.ties": own["tie"] + own["both_bad"],
        "audit.rate.share": own["first"] / (own["first"] + own["second"]),
        "regret.n": len(values),
        "regret.mean": np.mean(values),
        "regret.low": np.mean(values) - half,
        "regret.high": np.mean(values) + half,
        "first_token.n": len(seconds),
        "first_token.p50": np.quantile(seconds, 0.5),
        "first_token.p95": np.quantile(seconds, 0.95),
        "first_token.p99": np.quantile(seconds, 0.99),
        "prompt_tokens": sum(10 + one.asked.number % 3 for one in seen),
        "completion_tokens": sum(20 + one.asked.number % 5 for one in seen),
        "thumbs_up": sum(one.thumbs is True for one in seen),
        "thumbs_down": sum(one.thumbs is False for one in seen),
        "used": sum(one.used is True for one in seen),
        "edits": sum(one.edited for one in seen),
        "users.users": len({one.asked.user for one in seen if one.asked.user}),
        "users.answering": len(by_user),
        "users.most": {user_hash(user): (n, pytest.approx(n / answered)) for user, n in by_user.items()},
    }


def part(summary: dict[str, Any], name: str) -> Any:
    value: Any = summary
    for key in name.split("."):
        value = value[key]
    if name == "users.most":
        return {share["user"]: (share["answers"], share["share"]) for share in value}
    return value


def wrong(summary: dict[str, Any], wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    found = {name: (part(summary, name), value) for name, value in wanted.items()}
    return {
        name: (has, value)
        for name, (has, value) in found.items()
        if has != (value if isinstance(value, dict) else pytest.approx(value, rel=1e-6))
    }


async def summary(service: Running, since: float, **asked: Any) -> dict[str, Any]:
    answer = await service.admin.get(f"/v1/live/{RUN}/summary", params={"since": iso(since), **asked})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def prepared(service: Running, seed: int, count: int = 120) -> list[Seen]:
    key, app = await chat_key(service)
    everything = drawn(seed, key, count)
    await begin(service, *(seen.asked for seen in everything))
    for version, number in ((INITIAL, 0), (2, 5)):
        await offer(service, version, round=number)
    draw = Random(seed)
    for seen in everything:
        await said(app, seen, draw)
    return everything


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_figure_is_that_of_a_count_of_all_rows(service: Running, seed: int) -> None:
    everything = await prepared(service, seed)
    for since in (START - 11 * HOUR, START - 4 * HOUR):
        assert wrong(await summary(service, since), counted(everything, since)) == {}


async def test_a_count_that_takes_the_order_shown_for_the_duels_own_is_seen(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = await prepared(sqlite_service, 4)
    monkeypatch.setattr(live_summary, "_OTHER_SIDE", {})
    since = START - 11 * HOUR
    found = wrong(await summary(sqlite_service, since), counted(everything, since))
    assert {name.partition(".")[0] for name in found} == {"audit"}


async def test_without_corrections_the_count_is_seen_to_be_wrong(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = await prepared(sqlite_service, 2)
    same = live_summary.feedback.c.completion_id == live_summary.completions.c.id
    monkeypatch.setattr(live_summary, "_CHOICE", same & (live_summary.feedback.c.kind == "choice"))
    since = START - 11 * HOUR
    found = wrong(await summary(sqlite_service, since), counted(everything, since))
    assert {"answered", "outcomes"} <= found.keys()


async def test_nothing_is_null_not_an_error(service: Running) -> None:
    await begin(service)
    empty = await summary(service, START - HOUR, bins=3)
    assert empty["requests"] == empty["asked"] == empty["prompt_tokens"] == 0
    nothing = {"n": 0, "share": None, "low": None, "high": None}
    assert empty["first_shown"] == empty["answer_rate"] == empty["audit"]["rate"] == nothing
    assert empty["regret"] == {"n": 0, "mean": None, "low": None, "high": None}
    assert empty["first_token"] == {"n": 0, "p50": None, "p95": None, "p99": None}
    assert empty["users"] == {"users": 0, "answering": 0, "most": []}
    assert [part["requests"] for part in empty["series"]] == [0, 0, 0]


async def test_a_day_is_looked_at_unless_another_time_is_named(sqlite_service: Running) -> None:
    key, _ = await chat_key(sqlite_service)
    days = [Asked(n, key, created_at=START - 24 * HOUR + n - 1) for n in range(3)]
    await begin(sqlite_service, *days)
    answer = (await sqlite_service.admin.get(f"/v1/live/{RUN}/summary")).json()
    assert (answer["requests"], answer["since"], answer["until"]) == (2, iso(START - 24 * HOUR), iso(START))


async def test_a_series_has_the_same_requests_in_parts(service: Running) -> None:
    everything = await prepared(service, 3)
    since = START - 10 * HOUR
    found = (await summary(service, since, bins=5))["series"]
    width = 2 * HOUR
    for number, one in enumerate(found):
        begins = since + number * width
        inside = [seen for seen in everything if begins <= seen.asked.created_at < begins + width]
        assert one["at"] == iso(begins)
        assert (one["requests"], one["failed"], one["asked"], one["answered"]) == (
            len(inside),
            sum(seen.asked.state == "failed" for seen in inside),
            sum(seen.asked.asked is not None for seen in inside),
            sum(seen.choice is not None for seen in inside),
        )
        regrets = [seen.asked.regret for seen in inside if seen.asked.regret is not None]
        assert one["regret"] == pytest.approx(np.mean(regrets))
    assert sum(one["requests"] for one in found) == len(everything)


async def test_other_runs_are_not_counted(sqlite_service: Running) -> None:
    from service.live_rows import make_run

    key, _ = await chat_key(sqlite_service)
    await begin(sqlite_service, Asked(1, key, asked="duel"))
    await sqlite_service.state.database.write(lambda connection: make_run(connection, "other"))
    other = await sqlite_service.admin.get("/v1/live/other/summary")
    assert (other.json()["requests"], (await summary(sqlite_service, START - HOUR))["requests"]) == (0, 1)


async def test_only_the_newest_first_tokens_are_looked_at(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_summary, "MOST_LATENCIES", 2)
    key, _ = await chat_key(sqlite_service)
    await begin(
        sqlite_service,
        *(Asked(n, key, created_at=START - n, first_token_seconds=float(2**n)) for n in range(5)),
    )
    found = (await summary(sqlite_service, START - HOUR))["first_token"]
    assert (found["n"], found["p50"]) == (2, pytest.approx(1.5))
