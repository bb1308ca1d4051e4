"""A person at the label page: a real browser, what it asks for, and what it complains about."""

import re
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from playwright.async_api import BrowserContext, Page, Request, Route, async_playwright, expect
from service.processes import GIVEN_KEY, Process, launch

# The same engine without windows, where it is there: its tests need a third of the CPU time.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS = 60  # for anything that a page is to show

# What browsers from 2022 lack: Firefox before 125, 121, 112, Safari before 17.4, 17, 16, Chrome before 116, 113.
OLD_BROWSER = """
    delete Intl.Segmenter;
    delete AbortSignal.any;
    delete AbortSignal.timeout;
    delete AbortSignal.prototype.throwIfAborted;
    delete globalThis.structuredClone;
    delete URLSearchParams.prototype.size;
    delete HTMLFormElement.prototype.requestSubmit;
    delete Navigator.prototype.locks;
    for (const name of ["findLast", "toSorted", "toReversed", "with"]) delete Array.prototype[name];
    delete Object.groupBy;
    delete Promise.withResolvers;
"""

playwright = async_playwright
expect.set_options(timeout=SECONDS * 1000)


@dataclass
class Site:
    """A service as a process with its data in a folder, started with ``options``, and its admin."""

    folder: Path
    options: tuple[str | Path, ...] = ()
    process: Process = field(init=False)
    admin: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.process = launch(self.folder, *self.options, key=GIVEN_KEY)
        self.admin = self.process.client(GIVEN_KEY)

    @property
    def url(self) -> str:
        return self.process.url

    def kill(self) -> None:
        """End the service as a crash would."""
        self.process.stop(signal.SIGKILL)
        self.process.end()

    def restart(self) -> None:
        """Start the service again, at the same address."""
        self.process = launch(self.folder, "--port", self.process.port, *self.options, key=GIVEN_KEY)

    def run(self, run: str, **metadata: Any) -> str:
        """Make a run without repeats and gold duels."""
        body = {"repeat_share": 0.0, "gold_share": 0.0, **metadata}
        self.admin.put(f"/v1/runs/{run}", json=body).raise_for_status()
        return run

    def post(self, run: str, count: int = 1, start: int = 0, **values: Any) -> None:
        """Post duels ``k0, k1, …`` with the responses ``one 0``, ``two 0``, …, or with the values given."""
        queries = [
            {"client_key": f"k{n}", "prompt": f"prompt {n}", "first": f"one {n}", "second": f"two {n}", **values}
            for n in range(start, start + count)
        ]
        self.admin.post(f"/v1/runs/{run}/queries:batch", json={"queries": queries}).raise_for_status()

    def key(self, name: str, *scopes: str, **restrictions: Any) -> str:
        """A new key, for an annotator unless other scopes are given."""
        body = {"name": name, "scopes": scopes or ["annotate"], **restrictions}
        return str(self.admin.post("/v1/keys", json=body).raise_for_status().json()["key"])

    def log(self, run: str) -> list[dict[str, Any]]:
        """The label log."""
        return list(self.admin.get(f"/v1/runs/{run}/labels").raise_for_status().json()["labels"])

    def outcomes(self, run: str) -> dict[str, str]:
        """The outcome that the log holds for each duel that was answered, in the duel's own order."""
        return {entry["client_key"]: entry["outcome"] for entry in self.log(run)}


@dataclass
class Visitor:
    """A browser with its own cookies and storage, signed in or not; ``page`` is the tab in front."""

    context: BrowserContext
    site: Site
    run: str
    page: Page = field(init=False)
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    methods: list[tuple[str, str]] = field(default_factory=list)
    failures_expected: bool = False
    """Whether requests may fail: a browser complains about each."""

    async def open(self, path: str | None = None) -> Page:
        """Open a tab."""
        self.page = await self.context.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("request", self._note)
        await self.page.goto(self.site.url + (path or f"/label/{self.run}"))
        return self.page

    async def sign_in(self, key: str) -> None:
        """Paste a key into the form."""
        await self.page.get_by_label("Your key").fill(key)
        await self.page.get_by_role("button", name="Sign in").click()

    def button(self, name: str) -> Any:
        """The button of this name."""
        return self.page.get_by_role("button", name=re.compile(name))

    async def ready(self) -> None:
        """Wait for a duel that can be answered; instructions that stand before it are taken for read."""
        answerable = self.page.locator("[data-action=first][aria-disabled=false]")
        unread = self.page.locator("#instructions:not([hidden]) > [data-action=instructions]")
        await answerable.or_(unread).first.wait_for()
        if await unread.is_visible():
            await unread.click()
        await answerable.wait_for()

    async def press(self, *keys: str) -> None:
        """Press keys, each on a duel that can be answered."""
        for key in keys:
            await self.ready()
            await self.page.keyboard.press(key)

    async def shown(self) -> tuple[str, str, str]:
        """The texts of the duel that can be answered: prompt, first, second."""
        await self.ready()
        prompt, first, second = [await self.page.locator(f"#{id}").inner_text() for id in ("prompt", "first", "second")]
        return prompt, first, second

    async def says(self, text: str, place: str = "#saved") -> None:
        """Wait until the page says what has become of the answers; ``place`` is another part of the page."""
        await expect(self.page.locator(place)).to_contain_text(text)

    async def nothing_left(self) -> None:
        """Wait until every duel is answered and the service has all answers."""
        await self.says("Nothing to answer now", "#panel")
        await self.says("Saved")

    async def leave_complaining(self) -> None:
        """Close the tab; whatever its browser complained about, also while it was closed, was to be expected."""
        await self.page.close()
        self.complaints.clear()

    def check(self) -> None:
        """No errors but those expected, and nothing asked for elsewhere."""
        loud = [text for text in self.complaints if not self.failures_expected or "Failed to load" not in text]
        assert not loud, loud
        assert self.hosts <= {urlsplit(self.site.url).netloc}

    def _note(self, request: Request) -> None:
        self.hosts.add(urlsplit(request.url).netloc)
        self.methods.append((request.method, urlsplit(request.url).path))


async def serve_changed(page_or_context: Page | BrowserContext, file: str, *changes: tuple[str, str]) -> None:
    """Serve a static file with deliberate faults: each text of ``changes`` replaced by another."""

    async def answer(route: Route) -> None:
        response = await route.fetch()
        body = await response.text()
        for old, new in changes:
            assert old in body
            body = body.replace(old, new)
        await route.fulfill(response=response, body=body)

    await page_or_context.route(f"**/static/{file}", answer)


def own_outcome(client_key: str, shown_first: str, pressed: str) -> str:
    """What an answer to the side that was pressed (``first``, ``second``) means in the duel's own order."""
    swapped = shown_first == f"two {client_key.removeprefix('k')}"
    assert swapped or shown_first == f"one {client_key.removeprefix('k')}"
    return {"first": "second", "second": "first"}[pressed] if swapped else pressed
