"""Engines hold what is live: every one of them, soon after it changes, also those that fail or start anew."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from service.conftest import Running, start
from service.live_rows import RUN, make_run
from service.test_live_publications import decide, offer, operate

from sea_agent.config import LiveConfig
from sea_agent.service.chat import serving
from sea_agent.service.chat.serving import Serving
from sea_agent.service.chat.settings import TOKEN, LiveSettings
from sea_agent.web.signals import publishing

pytestmark = pytest.mark.anyio

URLS = ("http://one.test", "http://two.test", "http://three.test")


class Engines(httpx.AsyncBaseTransport):
    """Engines that hold what they are told to, unless they are broken."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[int, str]] = dict.fromkeys(URLS, (0, "initial"))
        self.loaded: list[tuple[str, int]] = []
        self.broken: dict[str, Any] = {}
        """What happens instead, by URL: an exception, a status, a whole response, or an event to wait for."""
        self.slow: dict[str, asyncio.Event] = {}
        """What loads wait for, by URL."""
        self.tokens: set[str | None] = set()
        self._changed = asyncio.Condition()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = f"{request.url.scheme}://{request.url.host}"
        self.tokens.add(request.headers.get("authorization"))
        broken = self.broken.get(url)
        async with self._changed:
            self._changed.notify_all()
        if isinstance(broken, Exception):
            raise broken
        if isinstance(broken, asyncio.Event):
            await broken.wait()
        elif broken is not None:
            return broken if isinstance(broken, httpx.Response) else httpx.Response(broken, json={"detail": "broken"})
        if request.url.path == "/weights":
            body = json.loads(request.content)
            assert body["path"].startswith("/weights/")
            if url in self.slow:
                await self.slow[url].wait()
            self.held[url] = (body["version"], body["checksum"])
            self.loaded.append((url, body["version"]))
            async with self._changed:
                self._changed.notify_all()
        version, checksum = self.held[url]
        return httpx.Response(200, json={"version": version, "checksum": checksum})

    async def until(self, *versions: int) -> None:
        """Until the engines hold these versions."""
        async with asyncio.timeout(30), self._changed:
            await self._changed.wait_for(lambda: [held[0] for held in self.held.values()] == list(versions))


@asynccontextmanager
async def live_service(tmp_path: Path, engines: Engines, urls: tuple[str, ...] = URLS) -> AsyncIterator[Running]:
    """A service in live mode whose engines are these."""
    live = LiveSettings(
        live=LiveConfig(run=RUN), engines=urls, decider="http://decider.test", max_new_tokens=8, temperature=1.0
    )
    async with AsyncExitStack() as stack:
        running = await start(stack, f"sqlite:///{tmp_path / 'feedback.sqlite'}", live=live)
        await running.state.database.write(make_run)
        yield running


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    """Engines that services find in place of real ones, and are tried again at once."""
    found = Engines()
    begin = Serving.__post_init__

    def connected(self: Serving) -> None:
        begin(self)
        self.transport = found

    monkeypatch.setattr(Serving, "__post_init__", connected)
    monkeypatch.setattr(serving, "RETRY_SECONDS", 0.01)
    monkeypatch.setenv(TOKEN, "the token")
    return found


@pytest.fixture
async def service(tmp_path: Path, engines: Engines) -> AsyncIterator[Running]:
    async with live_service(tmp_path, engines) as running:
        yield running


async def told(service: Running) -> list[dict[str, Any]]:
    summary = await service.admin.get(f"/v1/live/{RUN}/summary")
    assert summary.status_code == 200, summary.text
    return [{name: engine[name] for name in ("version", "wanted", "error")} for engine in summary.json()["engines"]]


async def settled(service: Running, *errors: str | None) -> None:
    """Until what is told of the engines has these errors, or parts of them."""
    async with asyncio.timeout(30):
        while True:
            found = [engine["error"] for engine in await told(service)]
            if all((e is None) == (f is None) and (e or "") in (f or "") for e, f in zip(errors, found, strict=True)):
                return
            await asyncio.sleep(0)


async def test_engines_keep_what_they_began_with_until_something_is_live(service: Running, engines: Engines) -> None:
    await offer(service, 1)
    await settled(service, None, None, None)
    assert engines.loaded == []
    assert await told(service) == [{"version": 0, "wanted": None, "error": None}] * 3
    assert engines.tokens == {"Bearer the token"}


async def test_what_goes_live_is_loaded_by_all_and_again_by_nobody(service: Running, engines: Engines) -> None:
    for number in (1, 2):
        await offer(service, number)
        assert await decide(service, number, state="live") == 200
        await engines.until(number, number, number)
    await settled(service, None, None, None)
    assert sorted(engines.loaded) == sorted((url, version) for url in URLS for version in (1, 2))
    await operate(service, "rollback")
    await engines.until(1, 1, 1)
    assert {checksum for _, checksum in engines.held.values()} == {f"{1:032x}"}


async def test_a_canary_is_loaded_by_the_last_engine_alone(service: Running, engines: Engines) -> None:
    for number in (1, 2):
        await offer(service, number)
    await decide(service, 1, state="live")
    await engines.until(1, 1, 1)
    await decide(service, 2, state="canary")
    await engines.until(1, 1, 2)
    await decide(service, 2, state="rejected")
    await engines.until(1, 1, 1)


async def test_with_one_engine_there_is_no_canary(tmp_path: Path, engines: Engines) -> None:
    engines.held = {URLS[0]: (0, "initial")}
    async with live_service(tmp_path, engines, URLS[:1]) as service:
        for number in (1, 2):
            await offer(service, number)
        await decide(service, 1, state="live")
        await engines.until(1)
        await decide(service, 2, state="canary")
        await operate(service, "freeze")
        await settled(service, None)
        assert engines.loaded == [(URLS[0], 1)]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (httpx.ConnectError("connection refused"), "refused"),
        (409, "it answered 409"),
        (401, "it answered 401"),
        (httpx.Response(200, content=b"no JSON"), "Expecting value"),
        (httpx.Response(200, json={}), "it answered 200"),
        (httpx.Response(200, json=[1]), "it answered 200"),
    ],
)
async def test_an_engine_that_fails_is_told_of_and_tried_again_and_the_others_go_on(
    service: Running, engines: Engines, fault: Any, error: str
) -> None:
    engines.broken[URLS[1]] = fault
    await offer(service, 1)
    await decide(service, 1, state="live")
    await engines.until(1, 0, 1)
    await settled(service, None, error, None)
    metrics = (await service.admin.get("/metrics")).text
    assert 'sea_agent_engine_failing{engine="http://two.test"} 1.0' in metrics
    assert 'sea_agent_engine_version{engine="http://one.test"} 1.0' in metrics
    assert 'sea_agent_live_version{run="live"} 1.0' in metrics
    del engines.broken[URLS[1]]
    await engines.until(1, 1, 1)
    await settled(service, None, None, None)


async def test_an_engine_that_hangs_holds_up_no_other_and_is_given_up(
    service: Running, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines.broken[URLS[0]] = asyncio.Event()
    monkeypatch.setattr(serving, "LOOK_SECONDS", 0.2)
    await offer(service, 1)
    await decide(service, 1, state="live")
    await engines.until(0, 1, 1)
    await settled(service, "no answer within", None, None)


async def keep_together(self: Serving) -> None:
    """The fault of looking at the engines one round after the other."""
    async with httpx.AsyncClient(transport=self.transport) as client:
        while not self.database.signals.closed:
            changed = self.database.signals.event(publishing(RUN))
            await asyncio.gather(*(self._look(client, place) for place in range(len(self.engines))))
            await self.database.signals.wait(changed, serving.CHECK_SECONDS)


@pytest.mark.parametrize("together", [False, True])
async def test_an_engine_that_loads_slowly_holds_back_a_rollback_on_no_other(
    tmp_path: Path, engines: Engines, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """``together`` is the fault that must be found."""
    if together:
        monkeypatch.setattr(Serving, "keep", keep_together)
    async with live_service(tmp_path, engines) as service:
        for number in (1, 2):
            await offer(service, number)
        await decide(service, 1, state="live")
        await engines.until(1, 1, 1)
        slow = engines.slow[URLS[0]] = asyncio.Event()
        await decide(service, 2, state="live")
        await engines.until(1, 2, 2)
        await operate(service, "rollback")
        if together:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await engines.until(1, 1, 1)
        else:
            await engines.until(1, 1, 1)
        slow.set()
        async with asyncio.timeout(30):
            while [version for url, version in engines.loaded if url == URLS[0]] != [1, 2, 1]:
                await asyncio.sleep(0)
        await engines.until(1, 1, 1)


async def test_an_engine_that_starts_anew_gets_what_is_live(
    service: Running, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "CHECK_SECONDS", 0.01)
    await offer(service, 1)
    await decide(service, 1, state="live")
    await engines.until(1, 1, 1)
    engines.held[URLS[2]] = (0, "initial")
    await engines.until(1, 1, 1)
    engines.held[URLS[2]] = (1, "other weights of that number")
    async with asyncio.timeout(30):
        while engines.held[URLS[2]][1] != f"{1:032x}":
            await asyncio.sleep(0)


async def test_an_engine_that_moved_is_found_where_its_file_says(
    tmp_path: Path, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "CHECK_SECONDS", 0.01)
    file = tmp_path / "engine-0.url"
    file.write_text(URLS[0] + "\n")
    engines.held = dict.fromkeys(URLS[:2], (0, "initial"))
    async with live_service(tmp_path, engines, (f"file://{file}",)) as service:
        await offer(service, 1)
        await decide(service, 1, state="live")
        await engines.until(1, 0)
        file.write_text(URLS[1])
        await engines.until(1, 1)
        assert service.state.gateway.flow._engines._urls == [URLS[1]], "requests go there, too"
        assert "one.test" not in (await service.admin.get("/metrics")).text
        file.unlink()
        engines.held[URLS[1]] = (0, "initial")
        await engines.until(1, 1)


async def test_without_live_mode_no_engine_is_asked(sqlite_service: Running, engines: Engines) -> None:
    assert sqlite_service.state.serving is None
    await sqlite_service.state.database.write(make_run)
    assert await told(sqlite_service) == []
    assert engines.tokens == set()
