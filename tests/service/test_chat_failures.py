"""Engines that die, a store that fails, clients that leave: no text is lost, and nothing is acknowledged too early."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from live_stub import scripted
from service.chat_service import ALLOW, EAGER, Chat, chatting, collected, duel_of, text_of
from sqlalchemy import Connection, select
from sqlalchemy.exc import OperationalError

from sea_agent.service.chat.flow import Event, Flow
from sea_agent.service.schemas.chat import ChatIn
from sea_agent.service.store import completions as store
from sea_agent.service.store.database import StoreUnavailable
from sea_agent.service.store.live_tables import completions
from sea_agent.service.store.tables import queries

pytestmark = pytest.mark.anyio


@pytest.fixture
async def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Chat]:
    async with chatting(f"sqlite:///{tmp_path / 'chat.sqlite'}", monkeypatch, engines=2, **EAGER) as chat:
        yield chat


async def lines_of(chat: Chat, **body: Any) -> AsyncIterator[str]:
    """The lines of a stream as they come over the network."""
    headers = {"Authorization": f"Bearer {chat.key}"} | body.pop("headers", {})
    whole = {"model": "live", "user": "u", "stream": True, "messages": [{"role": "user", "content": "hello"}]} | body
    async with (
        httpx.AsyncClient(base_url=chat.url, headers=headers, timeout=60) as client,
        client.stream("POST", "/v1/chat/completions", json=whole) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line:
                yield line


# --- engines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 3, 7])
@pytest.mark.parametrize("streams", [False, True])
async def test_another_engine_goes_on_where_one_died_and_the_text_is_whole(
    chat: Chat, streams: bool, after: int
) -> None:
    dying, survivor = chat.engines
    dying.die_after = after
    for number in range(2):  # each engine is tried first once
        answer = await chat.create(f"question {number}", stream=streams)
        text = (await collected(answer))[0][0] if streams else answer.choices[0].message.content
        assert text == text_of(survivor.requests[-1])
    (begun,) = dying.requests
    tokens = [token for token, _ in scripted(begun)]
    assert [body["stop_after"] for body in survivor.requests if body["id"] == begun["id"]] == [tokens[:after]]
    assert {body["seed"] for body in survivor.requests} >= {begun["seed"]}
    assert [(row.state, row.completion_tokens) for row in await chat.rows()] == [("done", 7)] * 2


async def test_a_response_that_two_engines_gave_counts_as_the_older_version(chat: Chat) -> None:
    chat.engines[0].version, chat.engines[1].version = 3, 5
    for engine in chat.engines:
        engine.die_after = 2
    survivor: list[Any] = []

    def dies(body: dict[str, Any]) -> Any:
        """The engine that is asked second is the one that lives."""
        if body["stop_after"] and not survivor:
            survivor.extend(engine for engine in chat.engines if body in engine.requests)
            survivor[0].die_after = None
        return scripted(body)

    for engine in chat.engines:
        engine.script = dies
    answer = await chat.create()
    assert answer.model_extra["sea"]["policy_version"] == 3
    assert answer.choices[0].message.content == text_of(chat.generated()[0])
    assert {tuple(body["stop_after"]) for body in chat.generated()} == {
        (),
        tuple(token for token, _ in scripted(chat.generated()[0])[:2]),
    }


async def test_where_every_engine_dies_the_stream_ends_with_an_error_and_the_request_has_failed(chat: Chat) -> None:
    for engine in chat.engines:
        engine.die_after = 2
    with pytest.raises(openai.APIError, match="No engine answers"):
        await collected(await chat.create(stream=True))
    lines = [line async for line in lines_of(chat)]
    assert len([line for line in lines if "content" in line]) == 4, "two tokens of each"
    assert not any('"finish_reason": "stop"' in line for line in lines)
    assert '"error"' in lines[-1]
    assert "data: [DONE]" not in lines
    with pytest.raises(openai.InternalServerError):
        await chat.create()
    rows = await chat.rows()
    assert [(row.state, row.stored, row.messages, row.responses) for row in rows] == [("failed", False, "[]", "[]")] * 3


NONSENSE = (
    b"no JSON\n",
    b"[]\n",
    b"7\n",
    b'{"text": "a"}\n',
    b'{"text": "a", "token_ids": [1, 2], "logprobs": [-1.0], "version": 1}\n',
    b'{"text": "a", "token_ids": null, "logprobs": null, "version": 1}\n',
    b'{"finish": "stop", "versions": [], "text": ""}\n',
    b'{"prompt": null}\n',
    b"",
)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


async def test_an_engine_that_makes_no_sense_is_as_good_as_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_http = (b"no HTTP\r\n\r\n", HEAD % 9 + b"cut", b"HTTP/1.1 200 OK\r\nContent-Le", b"")
    async with chatting(f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch, engines=1) as chat:
        for said in (*(HEAD % len(nonsense) + nonsense for nonsense in NONSENSE), *no_http):
            async with saying(said) as url:
                chat.service.state.gateway.flow._engines._urls = [url]
                with pytest.raises(openai.InternalServerError, match="No engine answers"):
                    await chat.create()


async def test_a_long_prompt_comes_back_from_the_engine_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: tuple[dict[str, Any], ...] = (
        {"prompt": {"text": "long " * 400_000, "token_ids": list(range(200_000)), "last_only": False}},
        {"text": "read", "token_ids": [3], "logprobs": [-1.0], "version": 0},
        {"finish": "stop"},
    )
    said = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    async with (
        chatting(f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch, engines=1) as chat,
        saying(HEAD % len(said) + said) as url,
    ):
        chat.service.state.gateway.flow._engines._urls = [url]
        answer = await chat.create()
    assert answer.choices[0].message.content == "read"


@asynccontextmanager
async def saying(answer: bytes) -> AsyncIterator[str]:
    """The URL of a server that answers everybody the same, and hangs up."""

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(answered, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


# --- clients that leave ----------------------------------------------------------------------------------------------


async def test_the_engine_is_let_go_of_when_the_client_leaves_a_stream(chat: Chat) -> None:
    for engine in chat.engines:
        engine.hold_after = 2
    lines = lines_of(chat)
    assert "chat.completion.chunk" in await anext(lines)
    await lines.aclose()
    await chat.eventually(lambda: [engine for engine in chat.engines if engine.left])
    rows = await chat.eventually(chat.rows)
    assert [row.state for row in rows] == ["failed"]
    assert not chat.service.state.gateway.flow._running


async def test_candidates_are_let_go_of_when_the_client_leaves(chat: Chat) -> None:
    for engine in chat.engines:
        engine.hold_after = 2
    lines = lines_of(chat, **ALLOW)
    await anext(lines)
    await chat.eventually(lambda: len(chat.generated()) == 3)
    await lines.aclose()
    await chat.eventually(lambda: sum(len(engine.left) for engine in chat.engines) == 3)


async def test_who_has_seen_everything_and_leaves_is_kept(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may stop to read when it has the text: its request is on disk all the same."""
    database = chat.service.state.database
    write, reached, go_on = database.write, asyncio.Event(), asyncio.Event()

    async def held(function: Any, *more: Any) -> Any:
        if function.func is store.end:
            reached.set()
            await go_on.wait()
        return await write(function, *more)

    monkeypatch.setattr(database, "write", held)
    body = ChatIn(model="live", messages=[{"role": "user", "content": "x"}])  # type: ignore[list-item]
    reply = await chat.service.state.gateway.reply(chat.key_id, body, None)
    async with asyncio.timeout(60):
        assert (await anext(reply.events)).kind == "text"
        await reached.wait()
    await reply.events.aclose()
    await asyncio.sleep(0)
    go_on.set()
    rows = await chat.eventually(chat.rows)
    assert [row.state for row in rows] == ["done"]


async def test_a_write_that_came_late_is_no_failure(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store did not answer in time, and did what it was told: the request keeps its duel and its texts."""
    database = chat.service.state.database
    write = database.write

    async def late(function: Any, *more: Any) -> Any:
        done = await write(function, *more)
        if function.func is store.end:
            raise StoreUnavailable("The store did not answer in time.")
        return done

    monkeypatch.setattr(database, "write", late)
    with pytest.raises(openai.InternalServerError):
        await chat.create(duel=True)
    await chat.eventually(lambda: not chat.service.state.gateway.flow._running)
    (row,), (query,) = await chat.rows(), await chat.table(queries)
    assert (row.state, row.asked, row.query_id) == ("done", "duel", query.id)
    assert query.first in row.responses
    duels = await chat.service.admin.get("/v1/live/live/duels")
    assert [duel["completion"] for duel in duels.json()["duels"]] == [row.id]


async def test_what_is_being_answered_when_the_service_stops_hears_so(chat: Chat) -> None:
    for engine in chat.engines:
        engine.hold_after = 1
    flow = chat.service.state.gateway.flow
    asking = [asyncio.create_task(chat.create(f"question {number}")) for number in range(3)]
    await chat.eventually(lambda: len(flow._running) == 3)
    await flow.close()
    for answer in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(answer, openai.InternalServerError)
        assert "stopping" in str(answer)
    assert [row.state for row in await chat.rows()] == ["failed"] * 3


async def test_work_that_is_cancelled_before_it_began_keeps_nobody_waiting(chat: Chat) -> None:
    gateway = chat.service.state.gateway
    body = ChatIn(model="live", messages=[{"role": "user", "content": "x"}])  # type: ignore[list-item]
    reply = await gateway.reply(chat.key_id, body, "once")
    for task in gateway.flow._running:
        task.cancel()
    async with asyncio.timeout(60):
        events = [event async for event in reply.events]
    assert [event.kind for event in events] == ["error"]
    assert gateway.claims == {}


# --- the store -------------------------------------------------------------------------------------------------------


def failing(names: set[str]) -> Callable[[Any], Any]:
    """A function of the store that fails as a broken disk does, where its name is one of these."""

    def wrap(function: Any) -> Any:
        inner = getattr(function, "func", function)
        if getattr(inner, "__name__", "") not in names:
            return function

        def broken(connection: Connection) -> Any:
            raise OperationalError("a statement", {}, sqlite3.OperationalError("disk I/O error"))

        return broken

    return wrap


def break_store(chat: Chat, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let these functions of the store fail."""
    database, wrap = chat.service.state.database, failing(set(names))
    write, read = database.write, database.read
    monkeypatch.setattr(database, "write", lambda function, *more: write(wrap(function), *more))
    monkeypatch.setattr(database, "read", lambda function: read(wrap(function)))


@pytest.mark.parametrize("name", ["known", "begin"])
async def test_a_store_that_fails_before_is_503_and_nothing_has_begun(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    break_store(chat, monkeypatch, name)
    for streams in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            await chat.create(duel=True, stream=streams, extra_headers={"Idempotency-Key": f"{streams}"})
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "1"
    assert chat.generated() == []
    monkeypatch.undo()
    for streams in (False, True):  # the same again, as nothing stands in its way
        await chat.create(duel=True, stream=streams, extra_headers={"Idempotency-Key": f"{streams}"})


async def test_a_store_that_fails_in_the_end_is_503_or_an_error_in_the_stream(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_store(chat, monkeypatch, "end", "fail")
    with pytest.raises(openai.InternalServerError) as caught:
        await chat.create()
    assert caught.value.status_code == 503
    lines = [line async for line in lines_of(chat)]
    assert '"server_error"' in lines[-1]
    assert not any('"finish_reason": "stop"' in line or "[DONE]" in line for line in lines)
    with pytest.raises(openai.APIError):
        await collected(await chat.create(stream=True))


# --- what is on disk is acknowledged ---------------------------------------------------------------------------------


async def unacknowledged(chat: Chat, count: int, **body: Any) -> list[str]:
    """Ends of choices and answers that came before their completion was on disk."""
    early = []
    database = chat.service.state.database

    def state(connection: Connection, completion: str) -> Any:
        return connection.execute(select(completions.c.state).where(completions.c.id == completion)).scalar()

    for number in range(count):
        messages = [{"role": "user", "content": f"question {number}"}]
        async for line in lines_of(chat, messages=messages, **body):
            if '"finish_reason": "stop"' in line:
                completion = line.split('"id": "')[1].split('"')[0]
                found = await database.read(lambda connection, completion=completion: state(connection, completion))
                early += [completion] if found != "done" else []
    return early


@pytest.mark.parametrize("body", [{}, ALLOW, {"n": 2}])
async def test_a_choice_ends_only_when_the_answer_is_on_disk(chat: Chat, body: dict[str, Any]) -> None:
    assert await unacknowledged(chat, 10, **body) == []


async def test_acknowledging_before_the_commit_is_found(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    database, write = chat.service.state.database, chat.service.state.database.write
    later: list[asyncio.Task[Any]] = []

    async def early(function: Any, *more: Any) -> Any:
        """Say that it was written, and write a little later."""
        if getattr(function, "func", None) is not store.end:
            return await write(function, *more)

        async def write_later() -> None:
            with suppress(StoreUnavailable):
                for _ in range(200):
                    await asyncio.sleep(0)
                await write(function, *more)

        later.append(asyncio.create_task(write_later()))
        return None

    monkeypatch.setattr(database, "write", early)
    assert await unacknowledged(chat, 10) != []
    await asyncio.gather(*later)


# --- the first token -------------------------------------------------------------------------------------------------


async def test_the_first_token_waits_neither_for_candidates_nor_for_the_decider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the order of events: the candidates are held until the whole first choice was read, then the decider is."""
    url = f"sqlite:///{tmp_path / 'a.sqlite'}"
    async with chatting(url, monkeypatch, **EAGER | {"wait_seconds": 60.0}) as chat:
        candidates = threading.Event()
        chat.decider.release = threading.Event()

        def slow(body: dict[str, Any]) -> Any:
            if body["priority"] == 1:
                candidates.wait(60)
            return scripted(body)

        chat.engines[0].script = slow
        lines = lines_of(chat, **ALLOW)
        wanted, text = None, ""
        while wanted is None or text != wanted:
            line = await anext(lines)
            text += content_of(line)
            own = [body for body in chat.generated() if body["priority"] == 0]
            wanted = text_of(own[0])
        assert chat.decider.asked == []
        candidates.set()
        await chat.eventually(lambda: chat.decider.asked)
        chat.decider.release.set()
        rest = [line async for line in lines]
        assert content_of(rest[0])
        assert '"index": 1' in rest[0]
        assert rest[-1] == "data: [DONE]"


def content_of(line: str) -> str:
    """The text in a line of a stream."""
    choices = json.loads(line.removeprefix("data: "))["choices"]
    return "".join(choice["delta"].get("content", "") for choice in choices)


async def test_a_flow_that_waits_for_candidates_first_is_found(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same order of events does not come about where the first choice waits for the others."""
    streamed = Flow._streamed

    async def waits(self: Flow, asked: Any, index: int, tell: Callable[[Event], None], **more: Any) -> Any:
        held: list[Event] = []
        whole = await streamed(self, asked, index, held.append, **more)
        await asyncio.to_thread(release.wait, 60)
        for event in held:
            tell(event)
        return whole

    release = threading.Event()
    monkeypatch.setattr(Flow, "_streamed", waits)
    lines = lines_of(chat, **ALLOW)
    first = asyncio.ensure_future(anext(lines))
    await chat.eventually(lambda: sum(len(engine.finished) for engine in chat.engines) == 3)
    assert not first.done()
    release.set()
    await first
    await lines.aclose()


async def test_a_question_is_asked_after_a_store_that_failed_once(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    break_store(chat, monkeypatch, "end")
    with pytest.raises(openai.InternalServerError):
        await chat.create(duel=True)
    await chat.eventually(lambda: not chat.service.state.gateway.considered)
    monkeypatch.undo()
    assert duel_of(await chat.create(duel=True)) is not None
    assert len(await chat.table(queries)) == 1
