"""The same request again: answered once, stored once, and never stuck."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from service.chat_service import EAGER, Chat, chatting, collected, duel_of
from service.test_chat_failures import lines_of

from sea_agent.service.store.tables import queries

pytestmark = pytest.mark.anyio

ONCE = {"extra_headers": {"Idempotency-Key": "once"}}


@pytest.fixture
async def chat(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Chat]:
    async with chatting(database_url, monkeypatch, engines=2, **EAGER) as chat:
        yield chat


def hold(chat: Chat) -> None:
    for engine in chat.engines:
        engine.hold_after = 2


def release(chat: Chat) -> None:
    for engine in chat.engines:
        engine.release.set()


async def test_the_same_request_gets_the_same_answer_and_the_engine_is_asked_once(chat: Chat) -> None:
    first, again = [await chat.create(duel=True, **ONCE) for _ in range(2)]
    assert first.model_dump() == again.model_dump()
    assert duel_of(first) is not None
    assert len(chat.generated()) == 3
    assert len(await chat.rows()) == len(await chat.table(queries)) == 1


async def test_a_stream_is_replayed_as_a_stream(chat: Chat) -> None:
    seen = []
    for _ in range(2):
        texts, reasons, chunks = await collected(await chat.create(duel=True, stream=True, **ONCE))
        last = chunks[-1]
        seen.append((texts, reasons, last.id, last.created, last.model_extra))
    assert seen[0] == seen[1]
    assert len(chat.generated()) == 3


async def test_feedback_while_it_streams_does_not_make_its_key_unusable(chat: Chat) -> None:
    hold(chat)
    stream = await chat.create(stream=True, **ONCE)
    first = await anext(aiter(stream))
    early = await chat.service.admin.put(f"/v1/feedback/{first.id}/thumbs", json={"up": True})
    assert early.status_code == 409
    for engine in chat.engines:
        engine.stop()
    with pytest.raises(openai.APIError):
        await collected(stream)
    for engine in chat.engines:
        engine.hold_after = None
        engine.start(int(engine.url.rpartition(":")[2]))
    again = await chat.create(stream=True, **ONCE)
    texts, reasons, _ = await collected(again)
    assert (len(texts), reasons) == (1, {0: "stop"})


async def test_another_body_with_the_same_key_is_refused(chat: Chat) -> None:
    await chat.create(**ONCE)
    for other in ({"text": "something else"}, {"stream": True}, {"temperature": 0.5}, {"metadata": {"a": "b"}}):
        with pytest.raises(openai.ConflictError, match="another body"):
            await chat.create(**ONCE | other)
    assert len(await chat.rows()) == 1


async def test_keys_of_idempotency_are_the_apps_own(chat: Chat) -> None:
    other = await chat.app("other")
    first = await chat.create(**ONCE)
    messages: list[Any] = [{"role": "user", "content": "another app"}]
    answer = await other.chat.completions.create(model="live", messages=messages, extra_headers=ONCE["extra_headers"])
    assert answer.id != first.id


@pytest.mark.parametrize("streams", [False, True])
async def test_the_same_request_many_times_at_once_is_answered_once(chat: Chat, streams: bool) -> None:
    hold(chat)
    asking = [asyncio.create_task(chat.create(stream=streams, **ONCE)) for _ in range(8)]
    await chat.eventually(lambda: chat.generated())
    with pytest.raises(openai.ConflictError, match="another body"):
        await chat.create("while it is being answered", **ONCE)
    release(chat)
    answers = await asyncio.gather(*asking)
    texts = [(await collected(answer))[0][0] if streams else answer.choices[0].message.content for answer in answers]
    assert len(set(texts)) == 1
    assert len(chat.generated()) == len(await chat.rows()) == 1


async def test_a_request_that_failed_can_be_sent_again(chat: Chat) -> None:
    for engine in chat.engines:
        engine.die_after = 1
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            await chat.create(**ONCE)
    for engine in chat.engines:
        engine.die_after = None
    answer = await chat.create(**ONCE)
    assert answer.choices[0].message.content
    assert [(row.state, row.id) for row in await chat.rows()] == [("done", answer.id)]


async def test_where_the_first_of_many_fails_the_next_takes_over(chat: Chat) -> None:
    for engine in chat.engines:
        engine.hold_after, engine.die_after = 1, 2
    asking = [asyncio.create_task(chat.create(**ONCE)) for _ in range(3)]
    await chat.eventually(lambda: chat.generated())
    gateway = chat.service.state.gateway
    (claim,) = gateway.claims.values()
    release(chat)
    await chat.eventually(claim.ended.is_set)
    for engine in chat.engines:
        engine.die_after = None
    answers = await asyncio.gather(*asking, return_exceptions=True)
    good = [answer.choices[0].message.content for answer in answers if not isinstance(answer, Exception)]
    assert good
    assert len(set(good)) == 1
    assert [row.state for row in await chat.rows()] == ["done"]
    assert gateway.claims == {}


async def test_who_left_finds_the_answer_when_they_ask_again(chat: Chat) -> None:
    hold(chat)
    lines = lines_of(chat, headers={"Idempotency-Key": "once"})
    completion = json.loads((await anext(lines)).removeprefix("data: "))["id"]
    await lines.aclose()
    again = lines_of(chat, headers={"Idempotency-Key": "once"})
    waiting = asyncio.ensure_future(anext(again))
    release(chat)
    first = await waiting
    rest = [line async for line in again]
    assert json.loads(first.removeprefix("data: "))["id"] == completion
    assert rest[-1] == "data: [DONE]"
    assert len(chat.generated()) == 1
    assert [row.state for row in await chat.rows()] == ["done"]


async def test_a_request_that_a_dead_service_had_begun_is_answered_after_its_start(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chatting(database_url, monkeypatch) as chat:
        answered = await chat.create("another", extra_headers={"Idempotency-Key": "answered"})
        hold(chat)
        asking = asyncio.create_task(chat.create(**ONCE))
        await chat.eventually(lambda: len(chat.generated()) == 2)
        assert [row.state for row in await chat.rows()] == ["done", "begun"]
        gateway = chat.service.state.gateway
        monkeypatch.setattr(gateway.flow, "_fail", lambda asked: asyncio.sleep(0))  # as a process that is killed
        await gateway.flow.close()
        await asyncio.gather(asking, return_exceptions=True)
        assert [row.state for row in await chat.rows()] == ["done", "begun"]
        key = chat.key
    async with chatting(database_url, monkeypatch) as chat:
        assert [row.state for row in await chat.rows()] == ["done", "failed"]
        chat.openai = await chat.client(key)
        assert (await chat.create(**ONCE)).choices[0].message.content
        again = await chat.create("another", extra_headers={"Idempotency-Key": "answered"})
        assert again.model_dump() == answered.model_dump()
        assert [row.state for row in await chat.rows()] == ["done", "done"]


async def test_a_row_that_nobody_works_on_stands_in_nobodys_way(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = chat.service.state.gateway
    monkeypatch.setattr(gateway.flow, "_fail", lambda asked: asyncio.sleep(0))
    for engine in chat.engines:
        engine.answer = 503
    with pytest.raises(openai.InternalServerError):
        await chat.create(**ONCE)
    assert [row.state for row in await chat.rows()] == ["begun"]
    for engine in chat.engines:
        engine.answer = None
    assert (await chat.create(**ONCE)).choices[0].message.content


async def test_an_answer_that_is_not_kept_cannot_be_given_again(chat: Chat) -> None:
    await chat.create(store=False, **ONCE)
    with pytest.raises(openai.ConflictError, match="not kept"):
        await chat.create(store=False, **ONCE)
    assert len(chat.generated()) == 1


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb", "ä"])
async def test_a_key_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    import httpx

    async with chatting(f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch) as chat:
        headers = {"Authorization": f"Bearer {chat.key}", "Idempotency-Key": key.encode()}
        body = {"model": "live", "messages": [{"role": "user", "content": "x"}]}
        async with httpx.AsyncClient(base_url=chat.url, timeout=60) as client:
            answer = await client.post("/v1/chat/completions", json=body, headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "idempotency-key"
