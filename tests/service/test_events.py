"""The stream of events on real sockets: what it tells, how it is resumed, and when it ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import fastapi.routing
import httpx
import pytest
from service.conftest import Running, claim, label, seqs, together
from service.processes import GIVEN_KEY, Process

from sea_agent.service.routes import events as module

pytestmark = pytest.mark.anyio


@dataclass
class Stream:
    """One connection to the events of a run."""

    lines: AsyncIterator[str]
    comments: list[str] = field(default_factory=list)

    async def next(self) -> int | None:
        """The id of the next event, which must be whole; None when the stream has ended."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(60):
            async for line in self.lines:
                name, _, value = line.partition(": ")
                if line.startswith(":"):
                    self.comments.append(value)
                elif line:
                    fields[name] = value
                elif fields:
                    assert fields == {"event": "log", "data": fields["data"], "id": fields["id"]}
                    assert json.loads(fields["data"]) == {"seq": int(fields["id"])}
                    return int(fields["id"])
        assert fields == {}
        return None

    async def until(self, seq: int) -> list[int]:
        """The ids of the next events up to one."""
        ids: list[int] = []
        while not ids or ids[-1] != seq:
            event = await self.next()
            assert event is not None
            ids.append(event)
        return ids


@asynccontextmanager
async def stream(client: httpx.AsyncClient, after: int | None = None) -> AsyncIterator[Stream]:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    async with client.stream("GET", "/v1/runs/run/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer.aiter_lines())


async def over_a_socket(service: Running) -> httpx.AsyncClient:
    """The admin's client, through a socket."""
    client = httpx.AsyncClient(base_url=await service.listen(), headers=service.admin.headers, timeout=60)
    return await service.stack.enter_async_context(client)


async def answer(client: httpx.AsyncClient, count: int) -> None:
    for _ in range(count):
        assert (await label(client, await claim(client))).status_code == 201


async def read_on(client: httpx.AsyncClient, log: list[dict]) -> None:
    """What a learner does on a nudge: read what it has not read."""
    while page := (await client.get("/v1/runs/run/labels", params={"after_seq": len(log)})).json()["labels"]:
        log += page


async def test_who_comes_back_with_the_last_id_misses_nothing_and_gets_nothing_twice(sqlite_service: Running) -> None:
    await sqlite_service.run()
    await sqlite_service.post(60)
    ann, client = await sqlite_service.annotator("ann"), await over_a_socket(sqlite_service)
    ids: list[int] = []
    log: list[dict] = []
    answering = asyncio.create_task(answer(ann, 60))
    while not ids or ids[-1] < 60:
        async with stream(client, after=ids[-1] if ids else None) as connection:  # each is cut after two events
            for _ in range(2):
                event = await connection.next()
                assert event is not None
                ids.append(event)
                await read_on(client, log)
                if event == 60:
                    break
    await together(answering)
    assert ids == sorted(set(ids))
    assert seqs(log) == list(range(1, 61))


async def test_the_last_id_itself_is_not_sent_again_and_what_came_meanwhile_is_told_at_once(
    sqlite_service: Running,
) -> None:
    await sqlite_service.run()
    await sqlite_service.post(4)
    ann, client = await sqlite_service.annotator("ann"), await over_a_socket(sqlite_service)
    await answer(ann, 2)
    async with stream(client) as fresh:
        assert await fresh.next() == 2
    async with stream(client, after=2) as resumed:
        await answer(ann, 1)
        assert await resumed.next() == 3
    await answer(ann, 1)
    async with stream(client, after=3) as resumed:
        assert await resumed.next() == 4


async def test_a_label_that_comes_between_looking_and_waiting_is_told(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 3600.0)  # only the wake-up tells
    await sqlite_service.run()
    await sqlite_service.post(1)
    ann, client = await sqlite_service.annotator("ann"), await over_a_socket(sqlite_service)
    looked = module.store.last_seq
    between = asyncio.Event()
    loop = asyncio.get_running_loop()

    def look_then_label(*arguments: object, **named: object) -> object:
        reached = looked(*arguments, **named)
        if reached == 0:
            loop.call_soon_threadsafe(between.set)
            asyncio.run_coroutine_threadsafe(grown.wait(), loop).result(60)
        return reached

    grown = asyncio.Event()
    async with stream(client, after=0) as connection:
        monkeypatch.setattr(module.store, "last_seq", look_then_label)
        sqlite_service.state.database.signals.wake(("log", "run"))  # it looks again
        await together(between.wait())
        await answer(ann, 1)
        grown.set()
        assert await connection.next() == 1


async def test_a_stream_with_nothing_to_tell_says_that_it_lives(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastapi.routing, "_PING_INTERVAL", 0.01)
    await sqlite_service.run()
    await sqlite_service.post(1)
    ann, client = await sqlite_service.annotator("ann"), await over_a_socket(sqlite_service)
    async with stream(client, after=0) as connection:
        event = asyncio.create_task(connection.next())
        async with asyncio.timeout(60):
            while len(connection.comments) < 3:
                await asyncio.sleep(0.01)
        await answer(ann, 1)
        assert await event == 1


async def test_a_stream_ends_with_its_key(sqlite_service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.02)
    await sqlite_service.run()
    client = await over_a_socket(sqlite_service)
    reader = await sqlite_service.client("read")
    (key,) = [key for key in (await client.get("/v1/keys")).json()["keys"] if key["name"] == "read"]
    client.headers = reader.headers
    async with stream(client) as connection:
        assert await connection.next() == 0
        assert (await sqlite_service.admin.delete(f"/v1/keys/{key['id']}")).status_code == 204
        assert await connection.next() is None


async def test_a_stream_ends_with_its_run(serve: Callable[..., Process]) -> None:
    service = serve(key=GIVEN_KEY)
    headers = {"Authorization": f"Bearer {GIVEN_KEY}"}
    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=60) as client:
        assert (await client.put("/v1/runs/run", json={"state": "closed"})).status_code == 200
        async with stream(client) as connection:
            assert await connection.next() == 0
            assert (await client.delete("/v1/runs/run")).status_code == 204
            assert await connection.next() is None
    assert service.stop() == 0
    assert "Traceback" not in service.errors.read_text()


async def test_a_run_that_is_not_there_and_a_key_for_another_are_told_before_the_stream(
    sqlite_service: Running,
) -> None:
    await sqlite_service.run("other")
    elsewhere = await sqlite_service.client("read", runs=["other"])
    assert (await sqlite_service.admin.get("/v1/runs/run/events")).status_code == 404
    assert (await elsewhere.get("/v1/runs/run/events")).status_code == 403
    wrong = await sqlite_service.admin.get("/v1/runs/other/events", headers={"Last-Event-ID": "yesterday"})
    assert wrong.status_code == 422


async def test_streams_end_with_the_service_and_leave_no_trace_in_its_log(serve: Callable[..., Process]) -> None:
    service = serve(key=GIVEN_KEY)
    headers = {"Authorization": f"Bearer {GIVEN_KEY}"}
    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=60) as client:
        assert (await client.put("/v1/runs/run", json={})).status_code == 200
        async with stream(client) as cut:
            assert await cut.next() == 0
        async with stream(client) as connection:
            assert await connection.next() == 0
            stopping = asyncio.create_task(asyncio.to_thread(service.stop))
            assert await connection.next() is None
            assert await stopping == 0
    assert "Traceback" not in service.errors.read_text()
