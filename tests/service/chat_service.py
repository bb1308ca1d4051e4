"""A service in live mode in this process, with engines that answer by a script, a decider that says what it is told,
and OpenAI's client before it."""

import asyncio
import inspect
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import pytest
from live_stub import StubEngine, scripted
from openai import AsyncOpenAI
from service.conftest import Clock, Running, start
from sqlalchemy import Connection, select

from sea_agent.config import LiveConfig
from sea_agent.service.chat.settings import TOKEN, LiveSettings
from sea_agent.service.store.live_tables import completions

SECRET = "secret"
ALWAYS = {"ask_share": 1.0, "considered_share": 1.0, "audit_share": 0.0, "heldout_share": 0.0}
"""Ask whoever may be asked, as long as buckets last."""
EAGER = ALWAYS | {"user_burst": 1000.0, "requests_per_minute": 100_000.0}
MANY = {"user_burst": 1000.0, "requests_per_minute": 100_000.0}
ALLOW = {"sea": {"duel": "allow"}}

Say = Callable[[dict[str, Any]], Any]


def names_two(body: dict[str, Any]) -> dict[str, Any]:
    """A decider's answer: the last response is worth a comparison with the one that is shown, or the first."""
    first = body["shown"] or 0
    texts = [response["text"] for response in body["responses"]]
    other = next((place for place in reversed(range(len(texts))) if texts[place] != texts[first]), None)
    return {"pair": None if other is None else [first, other], "best": len(texts) - 1, "information": 0.2} | {
        "belief": 0.5,
        "regret_first": 0.3,
        "regret_best": 0.1,
        "regret_pair": 0.2,
        "posterior_version": 4,
        "trust": 1.0,
    }


class StubDecider:
    """Answers ``POST /decide`` by ``say``, which may raise, give a status, or any JSON value or bytes."""

    def __init__(self) -> None:
        self.say: Say = names_two
        self.asked: list[dict[str, Any]] = []
        self.release: threading.Event | None = None
        """Wait for this before each answer."""
        self.arrived = threading.Semaphore(0)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"decider": self}))
        self._server.daemon_threads = True
        self._server.block_on_close = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Listen no more."""
        if self.release is not None:
            self.release.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    decider: StubDecider
    disable_nagle_algorithm = True

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        decider = self.decider
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        decider.asked.append(body)
        decider.arrived.release()
        if decider.release is not None:
            decider.release.wait(60)
        said = decider.say(body)
        status = said if isinstance(said, int) else 200
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        if self.path != "/decide" or self.headers["Authorization"] != f"Bearer {SECRET}":
            status, data = 401, b"{}"
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@dataclass
class Chat:
    """A service with its parts; ``openai`` is the client of an app with a key of the scope ``chat``."""

    service: Running
    engines: list[StubEngine]
    decider: StubDecider
    url: str
    key: str
    key_id: str
    openai: AsyncOpenAI
    stack: AsyncExitStack = field(repr=False)

    @property
    def clock(self) -> Clock:
        return self.service.clock

    @property
    def asking(self) -> Any:
        return self.service.state.gateway.flow.asking

    def generated(self) -> list[dict[str, Any]]:
        """The bodies of every request to an engine."""
        return [body for engine in self.engines for body in engine.requests]

    async def client(self, key: str, **settings: Any) -> AsyncOpenAI:
        """OpenAI's client with a key; it sends nothing twice unless told to."""
        client = AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, **{"max_retries": 0, "timeout": 60} | settings)
        return await self.stack.enter_async_context(client)

    async def app(self, name: str) -> AsyncOpenAI:
        """The client of one more app."""
        made = await self.service.admin.post("/v1/keys", json={"name": name, "scopes": ["chat"]})
        return await self.client(made.json()["key"])

    async def create(self, text: str = "Can I freeze rice?", user: str = "u", duel: bool = False, **body: Any) -> Any:
        """A completion for one message; ``duel`` allows one."""
        messages = [{"role": "user", "content": text}]
        more = {"extra_body": ALLOW} if duel else {}
        return await self.openai.chat.completions.create(
            **{"model": "live", "messages": messages, "user": user} | more | body
        )

    async def rows(self) -> list[Any]:
        """All completions on disk."""

        def read(connection: Connection) -> list[Any]:
            return list(connection.execute(select(completions).order_by(completions.c.number)))

        return await self.service.state.database.read(read)

    async def table(self, table: Any) -> list[Any]:
        """All rows of a table."""
        return await self.service.state.database.read(lambda connection: list(connection.execute(select(table))))

    async def eventually(self, holds: Callable[[], Any]) -> Any:
        """Wait until something holds that is under way already."""
        async with asyncio.timeout(60):
            while True:
                found = holds()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(0.01)


def settings_of(engines: list[StubEngine], decider: StubDecider, **live: Any) -> LiveSettings:
    """What the gateway is told."""
    config = LiveConfig(**{"candidates": 3, "requests_per_minute": 100_000.0} | live)
    urls = tuple(engine.url for engine in engines)
    return LiveSettings(live=config, engines=urls, decider=decider.url, max_new_tokens=32, temperature=0.7)


@asynccontextmanager
async def chatting(
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    engines: int = 1,
    settings: dict[str, Any] | None = None,
    clock: Clock | None = None,
    engine: dict[str, Any] | None = None,
    **live: Any,
) -> AsyncIterator[Chat]:
    """A service in live mode. ``live`` is configuration, ``settings`` are the service's, ``engine`` the engines'."""
    monkeypatch.setenv(TOKEN, SECRET)
    async with AsyncExitStack() as stack:
        stubs = [stack.enter_context(StubEngine(SECRET, **engine or {})) for _ in range(engines)]
        decider = stack.enter_context(StubDecider())
        given = settings_of(stubs, decider, **live)
        service = await start(stack, database_url, clock, live=given, **settings or {})
        url = await service.listen()
        made = (await service.admin.post("/v1/keys", json={"name": "app", "scopes": ["chat"]})).json()
        chat = Chat(service, stubs, decider, url, made["key"], made["id"], None, stack)  # type: ignore[arg-type]
        chat.openai = await chat.client(made["key"])
        yield chat


def text_of(body: dict[str, Any]) -> str:
    """What the engine answers to a request to it."""
    return "".join(text for _, text in scripted(body))


async def collected(stream: Any) -> tuple[dict[int, str], dict[int, str], list[Any]]:
    """Texts and reasons of the choices of a stream, and its chunks."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    chunks = [chunk async for chunk in stream]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason is not None:
                assert choice.index not in reasons
                reasons[choice.index] = choice.finish_reason
    return texts, reasons, chunks


def duel_of(answer: Any) -> dict[str, Any] | None:
    """The duel that an answer is, if it is one."""
    duel: dict[str, Any] | None = answer.model_extra["sea"]["duel"]
    return duel
