"""A service in live mode with a browser before it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from playwright.async_api import Locator, expect
from service import live_rows
from service.conftest import Running, start
from service.pages.browsing import SECONDS, Visitor
from service.pages.live_routes import LiveRoutes

from sea_agent.service.chat.gateway import Gateway
from sea_agent.service.chat.settings import LiveSettings


@dataclass
class LiveSite:
    """A service in this process that a browser reaches, in live mode, with routes that a test tells what to answer."""

    running: Running
    url: str
    routes: LiveRoutes

    async def key(self, name: str, *scopes: str) -> str:
        """A new key."""
        _, secret = await self.running.state.keyring.make(name, frozenset(scopes), annotator=name)
        return secret


@dataclass
class Guest(Visitor):
    """Somebody at a page of live mode, by what they read there."""

    site: LiveSite  # type: ignore[assignment]

    async def say(self, text: str) -> None:
        """Write a message and send it."""
        await self.page.get_by_label("Message").fill(text)
        await self.page.keyboard.press("Enter")

    async def forgets(self, words: str) -> None:
        """Wait until nothing of what the browser keeps has these words."""
        async with asyncio.timeout(SECONDS):
            while await self.page.evaluate("(words) => JSON.stringify(localStorage).includes(words)", words):
                await asyncio.sleep(0.01)

    def named(self, name: str) -> Locator:
        """The button of exactly this name."""
        return self.page.get_by_role("button", name=name, exact=True)

    @property
    def dialog(self) -> Locator:
        """The dialog in front."""
        return self.page.locator("dialog[open]").last

    @property
    def turn(self) -> Locator:
        """The last exchange."""
        return self.page.locator(".turn").last

    @property
    def verdicts(self) -> Locator:
        """The buttons of a duel that can be answered."""
        return self.page.locator("[data-action=pick][aria-disabled=false]")

    async def answered(self, text: str) -> None:
        """Wait until the last answer, or what there is of it, has this in it."""
        await expect(self.turn.locator(".reply")).to_contain_text(text)

    async def readable(self) -> None:
        """Wait until keys answer a duel that has just appeared."""
        await self.page.evaluate("new Promise((resolve) => setTimeout(resolve, 500))")


Arrive = Callable[..., Awaitable[Guest]]


@asynccontextmanager
async def live_site(folder: Path, live: LiveSettings | None = None) -> AsyncIterator[LiveSite]:
    """A service in live mode with its data in a folder, and a run called ``live``. With settings, the service's own
    gateway answers, else ``LiveRoutes``."""
    async with AsyncExitStack() as stack:
        running = await start(stack, f"sqlite:///{folder / 'feedback.sqlite'}", live=live)
        routes = LiveRoutes()
        if live is None:
            routes.mount(running.app)
            await live_rows.begin(running)
            gateway = cast(Gateway, SimpleNamespace(run=live_rows.RUN))  # the routes do its work
            running.app.state.service = replace(running.state, gateway=gateway)
        yield LiveSite(running, await running.listen(), routes)
