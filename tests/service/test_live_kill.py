"""Killed again and again while apps give feedback, the service loses none that it acknowledged and doubles none."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from service.conftest import seqs
from service.live_rows import RUN, Asked, make_run, user_hash, write
from service.processes import ALTERED, GIVEN_KEY, SERVE, Process
from service.test_kill import READY_SECONDS
from sqlalchemy import Connection, select

from sea_agent.service.store.database import Database
from sea_agent.service.store.live_tables import feedback

pytestmark = [pytest.mark.anyio, pytest.mark.dear]

APPS = 20
OUTCOMES = ("first", "second", "tie", "both_bad")


class Apps:
    """Apps that give feedback on their duels, each a choice and thumbs, until all of it is acknowledged."""

    def __init__(self, url: str, keys: list[str], duels: list[Asked]) -> None:
        self.acknowledged: list[tuple[str, str]] = []
        self._url, self._keys = url, keys
        self._left = iter(duels)
        self._draw = random.Random(5)

    async def work(self) -> None:
        """Until there is no duel left."""
        async with asyncio.TaskGroup() as tasks:
            for key in self._keys:
                tasks.create_task(self._work(key))

    async def _work(self, key: str) -> None:
        async with httpx.AsyncClient(
            base_url=self._url, headers={"Authorization": f"Bearer {key}"}, timeout=30
        ) as client:
            for duel in self._left:
                outcome = self._draw.choice(OUTCOMES)
                for kind, body in (("choice", {"outcome": outcome}), ("thumbs", {"up": outcome == "first"})):
                    await self._insist(client, f"/v1/feedback/{duel.id}/{kind}", body)
                    self.acknowledged.append((duel.id, kind))

    async def _insist(self, client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
        async with asyncio.timeout(300):
            while True:
                try:
                    answer = await client.put(path, json=body)
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                    continue
                if answer.status_code != 503:
                    assert answer.status_code in (200, 201), answer.text
                    return


async def survive(
    serve: Callable[..., Process],
    database: str,
    cycles: int,
    feedbacks: int,
    program: tuple[str, ...] = SERVE,
) -> list[float]:
    """Kill the service ``cycles`` times in the course of so many feedbacks; check what is kept at the end.

    Returns the seconds from each kill until the service was ready again.
    """
    service = serve("--database", database, key=GIVEN_KEY)
    with service.client(GIVEN_KEY) as admin:
        made = admin.post("/v1/keys", json={"name": "app", "scopes": ["chat"]}).json()
    service.end()
    duels = [
        Asked(n, made["id"], user=f"u{n % 7}", asked="duel", swapped=n % 2 == 0, created_at=time.time())
        for n in range(feedbacks // 2)
    ]
    async with Database(database, 60) as store:
        await store.write(make_run)
        await store.write(lambda connection: write(connection, duels))
    options = ("--database", database, "--port", service.port)
    service = await asyncio.to_thread(serve, *options, key=GIVEN_KEY, program=program)
    apps, draw, seconds = Apps(service.url, [made["key"]] * APPS, duels), random.Random(3), []
    working = asyncio.create_task(apps.work())
    for cycle in range(1, cycles + 1):
        await grown(apps, working, feedbacks * cycle // (cycles + 1) + draw.randrange(10))
        began = time.monotonic()
        service.end()
        service = await asyncio.to_thread(serve, *options, key=GIVEN_KEY, program=program)
        seconds.append(time.monotonic() - began)
    await working
    assert len(apps.acknowledged) == 2 * len(duels)
    check_log(service, duels)
    service.end()
    async with Database(database, 60) as store:
        check_rows(await store.read(kept), apps.acknowledged)
    return seconds


async def grown(apps: Apps, working: asyncio.Task[None], count: int) -> None:
    """Until so many feedbacks were acknowledged."""
    async with asyncio.timeout(300):
        while len(apps.acknowledged) < count:
            assert not working.done(), "everything was acknowledged before the last kill"
            await asyncio.sleep(0.005)


def check_log(service: Process, duels: list[Asked]) -> None:
    """Every duel has one label, of its user; positions have no gaps."""
    log: list[dict[str, Any]] = []
    with service.client(GIVEN_KEY) as admin:
        while page := admin.get(f"/v1/runs/{RUN}/labels", params={"after_seq": len(log)}).json()["labels"]:
            log += page
    assert seqs(log) == list(range(1, len(log) + 1))
    lost = {duel.query_id for duel in duels} - {entry["query_id"] for entry in log}
    assert not lost, f"{len(lost)} of {len(duels)} acknowledged choices are lost"
    assert len(log) == len(duels)
    users = {duel.query_id: user_hash(duel.user or "") for duel in duels}
    assert all(entry["annotator"] == users[entry["query_id"]] for entry in log)


def kept(connection: Connection) -> Counter[tuple[str, str]]:
    """How often there is feedback of a kind on a completion."""
    rows = connection.execute(select(feedback.c.completion_id, feedback.c.kind)).all()
    return Counter((row.completion_id, row.kind) for row in rows)


def check_rows(rows: Counter[tuple[str, str]], acknowledged: list[tuple[str, str]]) -> None:
    """What was acknowledged is kept, once."""
    lost = set(acknowledged) - rows.keys()
    assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged feedbacks are lost"
    assert set(rows.values()) == {1}


async def test_no_acknowledged_feedback_is_lost_or_doubled(serve: Callable[..., Process], tmp_path: Path) -> None:
    await survive(serve, f"sqlite:///{tmp_path / 'live.sqlite'}", cycles=3, feedbacks=600)


async def test_acknowledging_before_the_commit_is_seen(serve: Callable[..., Process], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"acknowledged (choices|feedbacks) are lost"):
        await survive(
            serve,
            f"sqlite:///{tmp_path / 'live.sqlite'}",
            cycles=3,
            feedbacks=600,
            program=(*ALTERED, "acknowledge_first"),
        )


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_ten_thousand_feedbacks_and_fifty_kills(serve: Callable[..., Process], database_url: str) -> None:
    seconds = await survive(serve, database_url, cycles=50, feedbacks=10_000)
    print(f"\nready again after {sorted(seconds)[25]:.1f} s in the median, {max(seconds):.1f} s at most")
    assert max(seconds) < READY_SECONDS
