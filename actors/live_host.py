"""A live engine in a Ray actor: the server of ``actors.live_engine``, on the address of the actor's node.

Nothing heavy is imported before the engine begins, so that who only looks after it stays small.
"""

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop

from sea_agent.config.live import TOKEN
from sea_agent.errors import RunFailure, UserError

END_SECONDS = 3.0


class EngineHost:
    """An engine in a thread of this process.

    Args:
        mark: tells engines apart that serve otherwise, or to others.
        settings: of ``actors.live_engine.EngineSettings``, without the address.
        out: directory of live mode, from which weights are read.
        token: what callers must send.
    """

    def __init__(self, mark: str, settings: Mapping[str, Any], out: str, token: str) -> None:
        self._mark, self._out, self._token = mark, Path(out), token
        self._url: str | None = None
        self._error: UserError | RunFailure | None = None
        self._begun: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._thread = threading.Thread(target=self._work, args=(settings,), name="live-engine", daemon=True)
        self._thread.start()

    def mark(self) -> str:
        """What it was made with."""
        return self._mark

    def look(self, seconds: float) -> str | None:
        """Watch it for so long, unless it ends: its URL, None while it is not ready.

        Raises:
            UserError, RunFailure: what it ended with.
        """
        self._thread.join(seconds)
        if not self._thread.is_alive():
            raise self._error or RunFailure("the engine ended; the actor's log on its node says why")
        return self._url

    def close(self) -> None:
        """End it, and what it started."""
        if self._begun is not None and self._thread.is_alive():
            loop, task = self._begun
            loop.call_soon_threadsafe(task.cancel)
        self._thread.join(END_SECONDS)

    def _work(self, settings: Mapping[str, Any]) -> None:
        try:
            uvloop.run(self._serve(settings))
        except (UserError, RunFailure) as error:
            self._error = error
        except asyncio.CancelledError:
            pass

    async def _serve(self, settings: Mapping[str, Any]) -> None:
        from ray.util import get_node_ip_address

        from actors.live_engine import EngineSettings, serve

        task = asyncio.current_task()
        assert task is not None  # this is one
        self._begun = asyncio.get_running_loop(), task
        node = get_node_ip_address()
        if not self._token:
            raise UserError(f"{TOKEN} is not set, and others reach an engine on {node}")
        if not self._out.is_dir():
            raise UserError(
                f"--out {self._out}: is not on node {node}, where engines read new weights from it. Give a directory "
                "on a file system that all nodes share, at the same path on each."
            )
        await serve(EngineSettings(**settings, host=node, port=0), self._token, self._announce)

    def _announce(self, ready: str) -> None:
        self._url = ready.split()[1].removesuffix("/state")
