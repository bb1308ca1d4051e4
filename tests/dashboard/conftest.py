"""The dashboard as a process, and a browser that looks at it."""

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

SECONDS = 120  # for a process to start or to end, and for a page to show something
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Served:
    """A running dashboard."""

    process: subprocess.Popen[str]
    url: str
    errors: Path

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port


def launch(arguments: list[str], errors: Path) -> Served:
    """Start the command line with a page, and wait until it listens."""
    command = [sys.executable, "-m", "sea_agent", *arguments, "--port", "0"]
    with errors.open("w") as sink:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sink, text=True)
    watchdog = threading.Timer(SECONDS, process.kill)
    watchdog.start()
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"Ready: (\S+)", line):
            watchdog.cancel()
            return Served(process, found.group(1), errors)
    raise AssertionError(errors.read_text())


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Start pages: ``serve("dashboard", directory)``."""
    started: list[Served] = []

    def start(*arguments: str | Path) -> Served:
        errors = tmp_path_factory.mktemp("errors") / "errors.txt"
        started.append(launch([str(argument) for argument in arguments], errors))
        return started[-1]

    yield start
    for served in started:
        served.process.kill()
        served.process.communicate(timeout=SECONDS)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    assert CHROMIUM, "the tests of pages need chromium on the PATH"
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
        self.until(f"Number(document.body.dataset.loaded ?? 0) >= {times}")

    def until(self, condition: str) -> None:
        """Wait until an expression is true. The policy of the page forbids playwright's own way to do so."""
        deadline = time.monotonic() + SECONDS
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, f"{condition} did not come true; {self.faults}"
            self.page.wait_for_timeout(30)

    def changes(self, act: Callable[[], Any]) -> None:
        """Do something, and wait until the page has loaded what it shows anew."""
        before = int(self.page.evaluate("Number(document.body.dataset.loaded ?? 0)"))
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
