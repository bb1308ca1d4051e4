"""Audits: the live policy beside the initial one, blindly."""

import json
from pathlib import Path
from typing import Any

import pytest
from service.chat_service import EAGER, Chat, chatting, collected, duel_of

from sea_agent.service.store.tables import queries

pytestmark = pytest.mark.anyio


AUDITS = EAGER | {"audit_share": 1.0}


@pytest.mark.parametrize("streams", [False, True])
async def test_an_audit_shows_the_initial_policy_beside_and_nothing_in_the_answer_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    seen: dict[str, list[Any]] = {}
    initial_first = []
    for kind, given_live in (("duel", EAGER), ("audit", AUDITS)):
        url = f"sqlite:///{tmp_path / f'{kind}.sqlite'}"
        async with chatting(url, monkeypatch, engine={"version": 7}, **given_live) as chat:
            seen[kind] = []
            for number in range(24):
                answer = await chat.create(f"question {number}", user=f"u{number}", duel=True, stream=streams)
                if streams:
                    told, _, chunks = await collected(answer)
                    raw = [chunk.model_dump() for chunk in chunks]
                    sea = raw[-1]["sea"]
                    length = sum(len(c["choices"][0]["delta"]) for c in raw if c["choices"])
                    assert length
                    shape: Any = sorted({json.dumps(_shape(chunk)) for chunk in raw})
                else:
                    sea, shape = answer.model_extra["sea"], _shape(answer.model_dump())
                    told = {choice.index: choice.message.content for choice in answer.choices}
                assert sea["policy_version"] == 7
                assert sea["duel"] is not None
                seen[kind].append(json.dumps(shape))
                (row,) = (await chat.rows())[-1:]
                assert [told[0], told[1]] == [one["text"] for one in json.loads(row.responses)]
                assert row.asked == kind
                assert row.policy_version == 7
                if kind == "audit":
                    (query,) = [one for one in await chat.table(queries) if one.id == row.query_id]
                    versions = [one["policy_version"] for one in json.loads(row.responses)]
                    texts = [one["text"] for one in json.loads(row.responses)]
                    assert sorted(versions) == [0, 7]
                    assert query.first == texts[versions.index(7)], "the first of the query is the live policy's"
                    initial_first.append(versions[0] == 0)
            weights = [body.get("weights") for body in chat.generated()]
            assert weights.count("initial") == (24 if kind == "audit" else 0)
            if kind == "audit":
                assert chat.decider.asked == [], "chosen blindly"
                assert [row.information for row in await chat.rows()] == [None] * 24
    assert set(seen["audit"]) <= set(seen["duel"])
    assert 4 < sum(initial_first) < 20, "the order is drawn, in a stream too"


async def publish(chat: Chat, version: int, **body: Any) -> None:
    """Let weights go live."""
    path = "/v1/live/live/publications"
    given = {"checksum": f"{version:032x}", "labels": 0, "path": f"/weights/{version}"} | body
    (await chat.service.admin.post(path, json=given)).raise_for_status()
    (await chat.service.admin.patch(f"{path}/{version}", json={"state": "live", "reason": ""})).raise_for_status()


def _shape(value: Any) -> Any:
    """The names and kinds of what an answer has, without what differs between any two."""
    if isinstance(value, dict):
        return {name: _shape(each) for name, each in sorted(value.items())}
    if isinstance(value, list):
        return [_shape(each) for each in value]
    return type(value).__name__ if isinstance(value, str) else value


async def test_an_audit_that_tells_its_version_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sea_agent.service.chat.answers import Outcome

    oldest = property(lambda outcome: min(whole.version for whole in outcome.shown))
    monkeypatch.setattr(Outcome, "version", oldest)
    async with chatting(f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch, engine={"version": 7}, **AUDITS) as chat:
        assert (await chat.create(duel=True)).model_extra["sea"]["policy_version"] == 0


@pytest.mark.parametrize("version", [0, 1])
async def test_while_the_initial_policy_is_live_an_ordinary_duel_takes_the_place_of_an_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """``version`` 0 is what engines begin with, and 1 is what was published of it."""
    mostly = EAGER | {"audit_share": 0.9}
    async with chatting(f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch, **mostly) as chat:
        serving = chat.service.state.gateway.serving
        await publish(chat, 1, round=0)
        await chat.eventually(lambda: 1 in serving.initial)
        chat.engines[0].version = serving.engines[0].version = version
        for number in range(8):
            assert duel_of(await chat.create(f"question {number}", user=f"u{number}", duel=True)) is not None
        assert {row.asked for row in await chat.rows()} == {"duel"}
        await publish(chat, 2, round=3)
        await chat.eventually(lambda: serving.engines[0].version == 2)
        for number in range(8):
            await chat.create(f"another question {number}", user=f"u{number}", duel=True)
        assert [row.asked for row in await chat.rows()].count("audit") >= 4, "the control"


async def test_of_an_engine_that_has_just_started_there_is_nothing_to_audit_and_no_token_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = AUDITS | {"user_burst": 1.0}
    async with chatting(f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch, **limits) as chat:
        serving = chat.service.state.gateway.serving
        await chat.eventually(lambda: serving.engines[0].version == 1)
        chat.engines[0].version = 0
        for number in range(3):
            assert duel_of(await chat.create(f"question {number}", duel=True)) is None
        chat.engines[0].version = 1
        assert duel_of(await chat.create("question 4", duel=True)) is not None


async def test_an_initial_policy_that_says_the_same_or_fails_leads_to_no_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chatting(f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch, **AUDITS) as chat:
        engine = chat.engines[0]
        engine.script = engine.initial_script = lambda body: [(10, "the same"), (1, "")]
        assert duel_of(await chat.create("one", duel=True)) is None

        def fails(body: dict[str, Any]) -> Any:
            raise RuntimeError("no initial policy")

        engine.initial_script = fails
        assert duel_of(await chat.create("two", duel=True)) is None


async def test_of_samples_at_another_temperature_nothing_is_an_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chatting(f"sqlite:///{tmp_path / 'chat.sqlite'}", monkeypatch, **AUDITS) as chat:
        assert duel_of(await chat.create(duel=True, temperature=0.2)) is None
        assert all("weights" not in body for body in chat.generated())
        assert duel_of(await chat.create(duel=True, temperature=0.7)) is not None, "the negative control"
