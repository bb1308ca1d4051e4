"""News of changed runs for everybody who watches: one look about once a second, shared by all viewers.

An event is a nudge: it names the runs that changed, and the viewer fetches what it shows again. Its id is the board's
version, so that a viewer who comes back with ``Last-Event-ID`` hears at once of what it missed.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

from fastapi.sse import ServerSentEvent

from sea_agent.dashboard.board import Board
from sea_agent.web.signals import Signals

LOOK_SECONDS = 0.5
SHARE = 0.2
"""Largest share of one core that is spent looking; where looks take long there are fewer."""

_SILENCE_SECONDS = 15.0


class News:
    """Looks at the board while somebody watches."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._topic = ("dashboard", board.start)
        self._viewers = 0
        self._looking: asyncio.Task[None] | None = None
        # One thread, or each that ever looked would keep a heap of the size of a look.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="look")

    async def events(
        self, signals: Signals, allowed: Callable[[], bool], last_event_id: str | None
    ) -> AsyncIterator[ServerSentEvent]:
        """An event at once, unless nothing changed since ``last_event_id``, and one after every change, until
        ``signals`` close or the viewer is no longer ``allowed``."""
        self._viewers += 1
        try:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look(signals))
            seen = self._version_of(last_event_id)
            while not signals.closed and allowed():
                event = signals.event(self._topic)
                version = self._board.version
                if version != seen and version:
                    yield self._event(version, seen)
                    seen = version
                await signals.wait(event, _SILENCE_SECONDS)
                if self._looking.done():
                    self._looking.result()
        finally:
            self._viewers -= 1

    async def _look(self, signals: Signals) -> None:
        known, loop = 0, asyncio.get_running_loop()
        while self._viewers and not signals.closed:
            version, spent = await loop.run_in_executor(self._thread, self._timed_look)
            if version != known:
                known = version
                signals.wake(self._topic)
            await asyncio.sleep(max(LOOK_SECONDS, spent / SHARE))

    def _timed_look(self) -> tuple[int, float]:
        """The board's version, and the CPU seconds that the look took."""
        began = time.thread_time()
        return self._board.look(), time.thread_time() - began

    def _event(self, version: int, seen: int) -> ServerSentEvent:
        data = {"version": version, "runs": self._board.changed_since(seen), "at": time.time()}
        return ServerSentEvent(data=data, event="change", id=f"{self._board.start}-{version}")

    def _version_of(self, event_id: str | None) -> int:
        """The version that a viewer has seen; 0 when it is from before this process started."""
        start, _, version = (event_id or "").partition("-")
        return int(version) if start == self._board.start and version.isascii() and version.isdigit() else 0
