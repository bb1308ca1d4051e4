"""What `sea-agent serve` has acknowledged is there after a power cut.

The service runs on a disk that keeps only what it was told to sync (``power_cut.cpp``) and is killed.
"""

import itertools
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from service.processes import ALTERED, GIVEN_KEY, SECONDS, SERVE, Process
from sqlalchemy import Connection, text

from sea_agent.service.store.database import Database

pytestmark = pytest.mark.anyio

SOURCE = Path(__file__).with_name("power_cut.cpp")
DATA = "sea-agent-data"
FILES = ("feedback.sqlite", "feedback.sqlite-wal")
CALLERS = 3
LONG = "x" * 90_000  # more than twenty pages; a thousand in the write-ahead log make SQLite copy them into the database
BEFORE_A_CHECKPOINT = 12  # acknowledged duels and labels, half of each
AFTER_A_CHECKPOINT = 90


@pytest.fixture(scope="module")
def forgetful_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that keeps a copy of what is synced."""
    library = tmp_path_factory.mktemp("power-cut") / "power_cut.so"
    command = ["g++", "-std=c++17", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5 * SECONDS)
    assert done.returncode == 0, done.stderr
    return library


@dataclass
class Acknowledged:
    """The ids of the duels and labels a service has answered for."""

    ids: list[str] = field(default_factory=list)
    count: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def add(self, new: str) -> None:
        self.ids.append(new)
        self.count.release()

    def wait(self, at_least: int) -> None:
        for _ in range(at_least):
            assert self.count.acquire(timeout=SECONDS)


def annotate(admin: httpx.Client, caller: int, acknowledged: Acknowledged) -> None:
    """Post a duel, lease one and answer it, again and again until the service is gone."""
    try:
        made = admin.post("/v1/keys", json={"name": f"caller {caller}", "scopes": ["annotate"]}).json()
        with httpx.Client(base_url=admin.base_url, headers={"Authorization": f"Bearer {made['key']}"}) as own:
            for number in itertools.count():
                query = {"client_key": f"{caller}-{number}", "prompt": LONG, "first": "a", "second": "b"}
                posted = admin.post("/v1/runs/run/queries:batch", json={"queries": [query]}).raise_for_status()
                acknowledged.add(posted.json()["queries"][0]["id"])
                lease = own.post("/v1/runs/run/leases", json={}, timeout=SECONDS).json()
                answer = {"outcome": "first"}
                given = own.put(f"/v1/leases/{lease['lease_id']}/label", json=answer, timeout=SECONDS)
                acknowledged.add(given.raise_for_status().json()["label_id"])
    except httpx.TransportError:
        pass  # the power is cut


def cut_the_power(service: Process, after: int) -> list[str]:
    """Kill a service under load, once it has acknowledged this much; the ids of everything it has acknowledged."""
    acknowledged = Acknowledged()
    with service.client(GIVEN_KEY) as admin, ThreadPoolExecutor(CALLERS) as pool:
        admin.put("/v1/runs/run", json={"repeat_share": 0, "gold_share": 0}).raise_for_status()
        callers = [pool.submit(annotate, admin, caller, acknowledged) for caller in range(CALLERS)]
        for caller in callers:  # one that fails ends the wait too, and is told below
            caller.add_done_callback(lambda _: acknowledged.count.release(after))
        try:
            acknowledged.wait(after)
        finally:
            service.end()
        for caller in callers:
            caller.result(SECONDS)
    assert len(acknowledged.ids) >= after
    return acknowledged.ids


def what_may_be_left(folder: Path) -> Iterator[Path]:
    """Databases as the disk may hold them: each file as it was last synced, or as it was last written."""
    for number, sources in enumerate(itertools.product(("synced", DATA), repeat=len(FILES))):
        left = folder / f"left-{number}"
        left.mkdir()
        for source, name in zip(sources, FILES, strict=True):
            if (folder / source / name).exists():
                shutil.copy(folder / source / name, left)
        yield left


async def saved(left: Path) -> set[str]:
    """The ids of the duels and labels of a database that must be whole."""

    def look(connection: Connection) -> set[str]:
        assert connection.execute(text("PRAGMA integrity_check")).scalars().all() == ["ok"]
        return set(connection.execute(text("SELECT id FROM queries UNION ALL SELECT id FROM labels")).scalars())

    async with Database(f"sqlite:///{left / FILES[0]}", SECONDS) as database:
        return await database.read(look)


@pytest.fixture
def serve_on_it(serve: Callable[..., Process], forgetful_disk: Path, tmp_path: Path) -> Callable[..., Process]:
    """Start a service on the disk that forgets."""
    (tmp_path / "synced").mkdir()
    environment = {
        "LD_PRELOAD": str(forgetful_disk),
        "POWER_CUT_LIVE": str(tmp_path.resolve() / DATA),
        "POWER_CUT_SYNCED": str(tmp_path / "synced"),
    }

    def start(*program: str) -> Process:
        return serve(key=GIVEN_KEY, program=program, environment=environment)

    return start


@pytest.mark.parametrize(
    ("seed", "least", "most"),
    [(0, 1, BEFORE_A_CHECKPOINT), (1, AFTER_A_CHECKPOINT, 180), (2, AFTER_A_CHECKPOINT, 180)],
)
async def test_what_was_acknowledged_survives_a_power_cut(
    serve_on_it: Callable[..., Process], tmp_path: Path, seed: int, least: int, most: int
) -> None:
    acknowledged = cut_the_power(serve_on_it(*SERVE), random.Random(seed).randint(least, most))
    checkpointed = (tmp_path / "synced" / FILES[0]).stat().st_size > len(LONG)
    assert checkpointed == (least == AFTER_A_CHECKPOINT)
    for left in what_may_be_left(tmp_path):
        assert set(acknowledged) - await saved(left) == set()


async def test_a_commit_that_does_not_wait_for_the_disk_is_lost(
    serve_on_it: Callable[..., Process], tmp_path: Path
) -> None:
    acknowledged = cut_the_power(serve_on_it(*ALTERED, "synchronous_normal"), BEFORE_A_CHECKPOINT)
    synced, *_, written = [await saved(left) for left in what_may_be_left(tmp_path)]
    assert synced.isdisjoint(acknowledged)
    assert written.issuperset(acknowledged)  # so it was the power cut that lost them, not the kill
