"""Sees to it that the engines hold the weights that are live.

Whenever what is live changes, and every few seconds in case an engine started anew, each engine is asked what it holds
and told what to load. A canary goes to the last of two engines or more. An engine that fails is tried again and again;
the others do not wait for it, nor for one that loads.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from sqlalchemy import Connection, Row

from sea_agent.service.chat.settings import TOKEN, LiveSettings, located
from sea_agent.service.store import publications
from sea_agent.service.store.database import Database, StoreUnavailable
from sea_agent.service.store.faults import Missing
from sea_agent.web.signals import publishing

CHECK_SECONDS = 15.0
"""Between two looks at engines that hold what they should."""
RETRY_SECONDS = 2.0
LOOK_SECONDS = 10.0
"""Longest wait for what an engine holds."""
LOAD_SECONDS = 600.0
"""Longest wait for an engine to load weights."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class EngineState:
    """What is known of an engine; ``error`` is why it does not hold what it should."""

    url: str
    version: int | None = None
    wanted: int | None = None
    error: str | None = None
    checked_at: float | None = None

    @property
    def is_right(self) -> bool:
        """Whether it holds what it should, as far as anybody knows."""
        return None in (self.version, self.wanted) or self.version == self.wanted


class EngineFault(Exception):
    """An engine did not do as it was told."""


@dataclass
class Serving:
    """The weights of the engines of one live run."""

    database: Database
    live: LiveSettings
    clock: Callable[[], float]
    transport: httpx.AsyncBaseTransport | None = None
    engines: list[EngineState] = field(init=False)
    urls: list[str] = field(init=False)
    """Where the engines are; those of a cluster may move."""
    initial: frozenset[int] = field(default=frozenset({0}), init=False)
    """The versions that are the initial policy."""

    def __post_init__(self) -> None:
        self.urls = [located(url) for url in self.live.engines]
        self.engines = [EngineState(url) for url in self.urls]

    async def keep(self) -> None:
        """Let the engines hold what is live, until cancelled."""
        headers = {"Authorization": f"Bearer {os.environ.get(TOKEN, '')}"}
        async with (
            httpx.AsyncClient(headers=headers, transport=self.transport, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            for place in range(len(self.engines)):
                group.create_task(self._keep(client, place))

    def shows_initial(self, place: int | None) -> bool:
        """Whether the engine at a place, or whichever it is (None), answers with the initial policy."""
        engines = self.engines if place is None else [self.engines[place]]
        return all(engine.version in self.initial for engine in engines)

    async def _keep(self, client: httpx.AsyncClient, place: int) -> None:
        """Let one engine hold what it should."""
        signals = self.database.signals
        while not signals.closed:
            changed = signals.event(publishing(self.live.live.run))
            is_well = await self._look(client, place)
            await signals.wait(changed, CHECK_SECONDS if is_well else RETRY_SECONDS)

    async def _look(self, client: httpx.AsyncClient, place: int) -> bool:
        """Look at an engine once; whether it holds what it should."""
        engine = self.engines[place]
        url = await asyncio.to_thread(located, self.live.engines[place])
        engine.url = self.urls[place] = url or engine.url  # one that is nowhere now is where it was
        try:
            serving, self.initial = await self.database.read(self._published)
        except (StoreUnavailable, Missing) as error:
            logger.error("what is live is not known, so engine %s keeps what it holds: %s", engine.url, error)
            return False
        wanted = [_wanted(serving, each, len(self.engines)) for each in range(len(self.engines))]
        for each, row in zip(self.engines, wanted, strict=True):  # of all at once: where they differ is a canary
            each.wanted = None if row is None else row.version
        return await self._bring(client, engine, wanted[place])

    def _published(self, connection: Connection) -> tuple[dict[str, Row], frozenset[int]]:
        """What is to serve, and which versions are the initial policy."""
        run = self.live.live.run
        return publications.serving(connection, run), publications.initial(connection, run)

    async def _bring(self, client: httpx.AsyncClient, engine: EngineState, wanted: Row | None) -> bool:
        """Let an engine hold a publication, or what it holds if there is none; whether it does."""
        try:
            held = await _ask(client, "GET", f"{engine.url}/state", LOOK_SECONDS)
            engine.version = int(held["version"])
            if wanted is not None and (held["version"], held["checksum"]) != (wanted.version, wanted.checksum):
                body = {name: wanted._mapping[name] for name in ("path", "version", "checksum")}
                await _ask(client, "PUT", f"{engine.url}/weights", LOAD_SECONDS, body)
                engine.version = wanted.version
                logger.info("engine %s serves version %d", engine.url, wanted.version)
            engine.error = None
        except EngineFault as fault:
            if str(fault) != engine.error:
                told = None if wanted is None else wanted.version
                logger.error("engine %s does not serve version %s: %s", engine.url, told, fault)
            engine.error = str(fault)
        engine.checked_at = self.clock()
        return engine.error is None


def _wanted(serving: Mapping[str, Row], place: int, engines: int) -> Row | None:
    """What the engine at a place is to hold: the last of several tries the canary."""
    is_last = engines > 1 and place == engines - 1
    return serving.get("canary", serving.get("live")) if is_last else serving.get("live")


async def _ask(client: httpx.AsyncClient, method: str, url: str, seconds: float, body: Any = None) -> dict[str, Any]:
    """The answer of an engine. Raises: EngineFault."""
    try:
        async with asyncio.timeout(seconds):
            answer = await client.request(method, url, json=body, timeout=seconds)
        if answer.is_success:
            told = answer.json()
            if isinstance(told, dict) and "version" in told:
                return told
    except TimeoutError:
        raise EngineFault(f"no answer within {seconds:.0f} s") from None
    except (httpx.HTTPError, ValueError) as error:
        raise EngineFault(str(error) or type(error).__name__) from None
    raise EngineFault(f"it answered {answer.status_code}: {answer.text[:200]}")
