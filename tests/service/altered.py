"""The service with one thing changed: what a test needs, or what its negative control must find.

python altered.py CHANGE [options of `sea-agent serve`]
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import Connection

from sea_agent.cli import main
from sea_agent.service.keyring import KeyRing
from sea_agent.service.routes import health
from sea_agent.service.schemas.base import HealthOut
from sea_agent.service.store import database, queries, runs
from sea_agent.service.store.database import Database
from sea_agent.web.problems import Problem
from sea_agent.web.signals import Signals


def impatient() -> None:
    """Nobody waits for anything, and the first key, who has it and the run ``run`` stay as they are: a test of every
    route would wait, end its own key and close what it tests."""
    begin, revoke, barred, put = Signals.__init__, KeyRing.revoke, KeyRing.barred, runs.put

    def closed(self: Signals) -> None:
        begin(self)
        self.closed = True

    async def revoke_others(self: KeyRing, key_id: str) -> None:
        if self.keys and self.keys[0].id == key_id:
            raise Problem(409, "This is the last admin key; make another one first.")
        await revoke(self, key_id)

    def close_others(
        connection: Connection, run: str, given: dict[str, Any], now: float, *, only_new: bool = False
    ) -> None:
        kept = {name: value for name, value in given.items() if (run, name) != ("run", "state")}
        put(connection, run, kept, now, only_new=only_new)

    def bar_others(self: KeyRing, annotator: str) -> Any:
        if self.keys and self.keys[0].annotator == annotator:
            raise Problem(409, "They hold the last admin key; make another one for somebody else first.")
        return barred(self, annotator)

    runs.put = close_others
    Signals.__init__ = closed  # type: ignore[method-assign]
    KeyRing.revoke = revoke_others  # type: ignore[method-assign]
    KeyRing.barred = bar_others  # type: ignore[method-assign]


def broken_contract() -> None:
    """Some numbers are answered with what the contract does not have."""
    broken = APIRouter()

    @broken.get("/broken", response_model=HealthOut)
    async def answer(number: int) -> Any:
        return Response(content="{}", media_type="application/json") if number > 100 else HealthOut(status="ok")

    health.router.include_router(broken)


def acknowledge_first() -> None:
    """Answers leave before the commit, as from a store that only queues what it is told."""

    def acknowledge_then_commit(self: Database, connection: Connection, batch: Sequence[Any]) -> None:
        self._acknowledge(batch)
        time.sleep(0.05)  # of a slow disk
        connection.commit()

    Database._commit_then_acknowledge = acknowledge_then_commit  # type: ignore[method-assign]


def synchronous_normal() -> None:
    """SQLite does not wait for the disk at each commit."""
    database.SYNCHRONOUS = "NORMAL"


def stop_before_commit() -> None:
    """Whoever posts many duels stays in the transaction after the last of them; the file ``posted`` tells when."""
    post = queries.post

    def post_and_stay(connection: Connection, run: str, items: Sequence[Any], now: float) -> Any:
        answers = post(connection, run, items, now)
        Path("posted").touch()
        time.sleep(600)  # the test kills the service
        return answers

    queries.post = post_and_stay


def commit_halves() -> None:
    """Half of the duels of a file are committed before the others."""
    post = queries.post

    def post_first_half(connection: Connection, run: str, items: Sequence[Any], now: float) -> Any:
        post(connection, run, items[: len(items) // 2], now)
        connection.commit()
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return post(connection, run, items, now)

    queries.post = post_first_half
    stop_before_commit()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    sys.argv[1] = "serve"
    main()
