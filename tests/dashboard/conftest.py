"""The dashboard as a process, and a browser that looks at it."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright
from service.pages.browsing import CHROMIUM, OPTIONS
from service.processes import Process, launch

SECONDS = 120  # for a page to show something
DASHBOARD = (sys.executable, "-m", "sea_agent", "dashboard")


@dataclass
class Served:
    """A running dashboard, by itself or beside a service."""

    process: Process

    @property
    def url(self) -> str:
        (ready,) = [line for line in self.process.lines if line.startswith("Ready: ")]
        return ready.removeprefix("Ready: ").removesuffix("/label").removesuffix("/dashboard/") + "/dashboard/"

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].partition("/")[0])


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Start dashboards: ``serve(directory)``; other options are those of ``launch``."""
    started: list[Process] = []

    def start(*options: str | Path, **how: Any) -> Served:
        started.append(launch(tmp_path_factory.mktemp("process"), *options, **{"program": DASHBOARD, **how}))
        return Served(started[-1])

    yield start
    for process in started:
        process.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window; of one module, as no event loop can run beside it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        yield browser
        browser.close()


@dataclass
class Viewer:
    """A page in a browser, and what went wrong on it. ``asked`` holds the addresses of all requests."""

    context: BrowserContext
    page: Page
    faults: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def open(self, url: str, **state: Any) -> None:
        """Open the page with this state, and wait until it shows something."""
        parts = [
            f"{key}={one}" for key, value in state.items() for one in (value if isinstance(value, list) else [value])
        ]
        self.page.goto(f"{url}#{'&'.join(parts)}")
        self.loaded()

    def loaded(self, times: int = 1) -> None:
        """Wait until the page has loaded what it shows so often."""
        self.until(f"Number(document.body?.dataset.loaded ?? 0) >= {times}")

    def until(self, condition: str) -> None:
        """Wait until an expression is true. The policy of the page forbids playwright's own way to do so."""
        deadline = time.monotonic() + SECONDS
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, f"{condition} did not come true; {self.faults}"
            self.page.wait_for_timeout(30)

    def changes(self, act: Callable[[], Any]) -> None:
        """Do something, and wait until the page has loaded what it shows anew."""
        before = int(self.page.evaluate("Number(document.body?.dataset.loaded ?? 0)"))
        act()
        self.loaded(before + 1)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()


@pytest.fixture
def view(browser: Browser) -> Iterator[Callable[..., Viewer]]:
    """Make viewers; ``view(viewport={"width": 360, "height": 800})``. A fault on a page fails its
    test, unless the test expects and clears it."""
    viewers: list[Viewer] = []

    def make(**options: Any) -> Viewer:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(1000 * SECONDS)
        viewer = Viewer(context, context.new_page())

        def on_console(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                viewer.faults.append(f"{message.type}: {message.text}")

        def on_request(asked: Request) -> None:
            viewer.asked.append(asked.url)

        viewer.page.on("console", on_console)
        viewer.page.on("pageerror", lambda error: viewer.faults.append(str(error)))
        viewer.page.on("request", on_request)
        viewers.append(viewer)
        return viewer

    yield make
    for viewer in viewers:
        viewer.context.close()
    assert [fault for viewer in viewers for fault in viewer.faults] == []
