"""Runs ``sea-agent live`` under load for ``benchmarks/live_load.py``, and notes what is seen from outside."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from sea_agent.errors import RunFailure
from sea_agent.service.serve import ADMIN_KEY
from sea_agent.worlds import resolve

SETTINGS = (
    "batch_size=32",
    "imagination.rounds=1",
    "live.round_seconds=30",
    "live.user_asks_per_day=1000000",
    "live.keep_versions=100000",
    "live.gate.margin=1",
    "live.gate.least_prompts=1",
    "live.gate.max_kl=1000",
    "live.gate.least_distinct=0",
    "live.gate.longest=1000",
    "live.gate.max_gap=1000",
    "live.gate.min_users=0",
    "live.gate.rollback_error=1e-9",
)
"""Of the preset ``live``: rounds of half a minute, each of which goes live."""
SELDOM = ("live.ask_share=0.05", "live.considered_share=0.2")
ALWAYS = ("live.ask_share=1", "live.considered_share=1", "live.candidates=2", "live.engines=2")
PARTS = {
    "actors.live_engine": "engine",
    "sea_agent.live.decider": "decider",
    "serve": "gateway",
    "sea_agent.live.agent_part": "agent",
    "sea_agent.live.simulated_users": "users",
}
MORTAL = ("engine", "gateway", "decider", "agent")
"""Parts that are killed, in turn."""
START_SECONDS, END_SECONDS = 300.0, 120.0
SAMPLE_SECONDS, PROBE_SECONDS = 5.0, 1.0


@dataclass
class Watched:
    """What was seen while it ran. ``memory`` has hours and megabytes of each part."""

    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    processes: dict[str, set[int]] = field(default_factory=dict)
    first_tokens: list[float] = field(default_factory=list)
    """Seconds, as the further user saw them."""
    streamed: list[str] = field(default_factory=list)
    """Completions of the further user that came whole."""
    cut: list[tuple[float, str]] = field(default_factory=list)
    """When the others ended, and how."""
    kills: list[tuple[float, str]] = field(default_factory=list)
    """When a part was killed, and which."""
    ended_at: float = 0.0

    def note(self, command: psutil.Process, hours: float) -> None:
        """The memory of all parts now."""
        for name, process in parts(command):
            with suppress(psutil.Error):  # it has ended since
                self.memory.setdefault(name, []).append((hours, process.memory_info().rss / 1e6))
                self.processes.setdefault(name, set()).add(process.pid)

    def kill(self, command: psutil.Process, kind: str) -> None:
        """Kill a part as ``kill -9`` does, if it runs; of several engines that which has run for longest."""
        there = [(process.create_time(), name, process) for name, process in parts(command) if name.startswith(kind)]
        if there:
            _, name, process = min(there)
            process.kill()
            self.kills.append((time.time(), name))


def parts(command: psutil.Process) -> Iterator[tuple[str, psutil.Process]]:
    """The names and processes of the command and of all that it started; engines are named like their settings."""
    for process in [command, *command.children(recursive=True)]:
        with suppress(psutil.Error):  # it has ended since
            words = process.cmdline()
            name = next((name for word, name in PARTS.items() if word in words), "command")
            yield Path(words[-1]).stem if name == "engine" else name, process


@contextmanager
def running(out: Path, users: int, key: str, settings: Sequence[str]) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The command and the URL of its gateway. Raises: RunFailure when it does not start."""
    command = [sys.executable, "-m", "sea_agent", "live", "live", "--out", str(out), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--users", str(users), *(f"--set={one}" for one in (*SETTINGS, *settings))],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {ADMIN_KEY: key, "OMP_NUM_THREADS": "1"},
    )
    said: list[str] = []
    reading = threading.Thread(target=lambda: said.extend(process.stdout or ()), daemon=True)
    reading.start()
    try:
        url, until = None, time.monotonic() + START_SECONDS
        while url is None:
            url = next((line.split()[1].removesuffix("/v1") for line in said if line.startswith("endpoint")), None)
            if process.poll() is not None or time.monotonic() > until:
                raise RunFailure(f"sea-agent live did not start: {''.join(said[-5:])} See {out / 'logs'}.")
            time.sleep(0.1)
        yield process, url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(END_SECONDS)
        print("".join(line for line in said if "has ended" in line), end="")


def watch(process: "subprocess.Popen[str]", url: str, key: str, seconds: float, kills: int) -> Watched:
    """Let it run, and kill so many parts at equal distances; what was seen meanwhile."""
    seen, over = Watched(), threading.Event()
    probing = threading.Thread(target=probe, args=(url, key, seen, over.wait))
    began = time.monotonic()
    probing.start()
    while (spent := time.monotonic() - began) < seconds:
        if process.poll() is not None:
            break
        command = psutil.Process(process.pid)
        seen.note(command, spent / 3600)
        if spent > seconds * (len(seen.kills) + 1) / (kills + 1):
            seen.kill(command, MORTAL[len(seen.kills) % len(MORTAL)])
        time.sleep(min(SAMPLE_SECONDS, max(0.0, seconds - spent)))
    over.set()
    probing.join(END_SECONDS)
    seen.ended_at = time.time()
    if process.poll() is not None:
        raise RunFailure(f"sea-agent live ended with exit code {process.returncode}")
    return seen


def probe(url: str, key: str, seen: Watched, over: Callable[[float], bool]) -> None:
    """Ask for a stream now and then, as a client that never heard of duels."""
    rows = Path(resolve("world://lexicon/heldout.jsonl")).read_text(encoding="utf-8").splitlines()
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60, trust_env=False) as client:
        number = 0
        while not over(PROBE_SECONDS):
            messages = [{"role": "user", "content": json.loads(rows[number % len(rows)])["prompt"]}]
            number += 1
            try:
                stream(client, {"model": "live", "user": "probe", "messages": messages, "stream": True}, seen)
            except (httpx.HTTPError, ValueError, LookupError) as error:
                seen.cut.append((time.time(), str(error) or type(error).__name__))


def stream(client: httpx.Client, body: dict[str, Any], seen: Watched) -> None:
    """Ask for one stream. Raises: HTTPError, ValueError or LookupError when it is cut or says an error."""
    began, first, id_, reason = time.perf_counter(), 0.0, "", None
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line == "data: [DONE]" and reason is not None:
                seen.first_tokens.append(first)
                seen.streamed.append(id_)
                return
            if line:
                chunk = json.loads(line.removeprefix("data: "))
                id_, choice = chunk["id"], chunk["choices"][0]
                first = first or (time.perf_counter() - began if choice["delta"].get("content") else 0.0)
                reason = choice["finish_reason"]
    raise ValueError("a stream ended without its end")
