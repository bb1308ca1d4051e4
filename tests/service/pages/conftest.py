"""One browser and one service for all tests of the pages, and visitors with their own runs."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from live_stub import StubEngine
from playwright.async_api import Browser
from service.pages.browsing import CHROMIUM, OPTIONS, SECONDS, Site, Visitor, playwright
from service.pages.live_pages import Arrive, Guest, LiveSite, live_site
from service.pages.offices import Office, arrive

from sea_agent.config import LiveConfig
from sea_agent.service.chat.settings import TOKEN, LiveSettings

Visit = Callable[..., Awaitable[Visitor]]
Attend = Callable[..., Awaitable[Office]]

_names = itertools.count()


@pytest.fixture(scope="session")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service that no test stops; each has a run of its own there."""
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.process.end()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Site]:
    """A service that may be killed, with a run of two duels."""
    site = Site(tmp_path)
    site.run("run")
    site.post("run", 2)
    yield site
    site.process.end()


@pytest.fixture
def run(site: Site) -> str:
    """A new run without duels."""
    return site.run(f"run-{next(_names)}")


@pytest.fixture
async def visit(browser: Browser, site: Site) -> AsyncIterator[Visit]:
    """Bring people to a run, signed in: ``await visit(run)``. What their browsers complain about fails the test."""
    visitors: list[Visitor] = []

    async def come(run: str, name: str = "ann", at: Site = site, key: str | None = None, **options: Any) -> Visitor:
        context = await browser.new_context(**options)
        context.set_default_timeout(SECONDS * 1000)
        visitor = Visitor(context, at, run)
        visitors.append(visitor)
        form = {"key": key or at.key(name)}
        await context.request.post(f"{at.url}/sign-in", form=form, headers={"Origin": at.url}, max_redirects=0)
        await visitor.open()
        return visitor

    yield come
    for visitor in visitors:
        await visitor.context.close()
    for visitor in visitors:
        visitor.check()


@pytest.fixture
async def office(browser: Browser, site: Site) -> AsyncIterator[Attend]:
    """Bring somebody to the admin page: ``await office(path, key=…)``; what their browser complains about fails it."""
    came: list[Office] = []

    async def come(path: str = "", **options: Any) -> Office:
        came.append(await arrive(browser, site, path, **options))
        return came[-1]

    yield come
    for visitor in came:
        await visitor.context.close()
    for visitor in came:
        visitor.check()


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[LiveSite]:
    """A service in live mode, with a run called ``live``."""
    async with live_site(tmp_path) as site:
        yield site


@pytest.fixture
async def engine() -> AsyncIterator[StubEngine]:
    """An engine that answers with drawn words."""
    with StubEngine() as engine:
        yield engine


@pytest.fixture
async def asking(engine: StubEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LiveSite]:
    """A service in live mode before an engine, which asks at every other message which answer is better."""
    monkeypatch.setenv(TOKEN, engine.token)
    shares = {
        "ask_share": 1.0,
        "audit_share": 1.0,
        "considered_share": 1.0,
        "heldout_share": 0.0,
    }  # audits need no decider
    settings = LiveSettings(
        live=LiveConfig(**shares),
        engines=(engine.url,),
        decider="http://127.0.0.1:9",
        max_new_tokens=20,
        temperature=1.0,
    )
    async with live_site(tmp_path, settings) as site:
        yield site


@asynccontextmanager
async def guests(browser: Browser, site: LiveSite) -> AsyncIterator[Arrive]:
    """Bring somebody to a page of live mode, signed in: ``await guest()``; what their browser complains about fails."""
    came: list[Guest] = []

    async def come(
        name: str = "ann", path: str = "/chat", scopes: tuple[str, ...] = ("chat",), **options: Any
    ) -> Guest:
        context = await browser.new_context(**options)
        context.set_default_timeout(SECONDS * 1000)
        came.append(guest := Guest(context, site, "live"))
        form = {"key": await site.key(name, *scopes)}
        await context.request.post(f"{site.url}/sign-in", form=form, headers={"Origin": site.url}, max_redirects=0)
        await guest.open(path)
        return guest

    yield come
    for guest in came:
        await guest.context.close()
    for guest in came:
        guest.check()


@pytest.fixture
async def guest(browser: Browser, live: LiveSite) -> AsyncIterator[Arrive]:
    """Bring somebody to a page of the service ``live``."""
    async with guests(browser, live) as come:
        yield come


@pytest.fixture
async def user(browser: Browser, asking: LiveSite) -> AsyncIterator[Arrive]:
    """Bring somebody to a page of the service ``asking``."""
    async with guests(browser, asking) as come:
        yield come
