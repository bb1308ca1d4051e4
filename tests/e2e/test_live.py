"""Live mode as users start it: one command, real processes, real picks, real kills."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from sea_agent.worlds import resolve

pytestmark = [pytest.mark.run, pytest.mark.dear, pytest.mark.xdist_group("live")]

ADMIN = "a key that nobody guesses, of 32 and more".replace(" ", "-")
DEADLINE = 240.0
PROMPT = json.loads(Path(resolve("world://lexicon/prompts.jsonl")).read_text().splitlines()[0])["prompt"]
SMALL = ("batch_size=8", "imagination.rounds=1", "imagination.start=8", "live.round_seconds=3", "checkpoint.every=1")
CANARY_SECONDS = 20.0
CANARY = (
    *("live.engines=2", "live.gate.canary_share=0.5", f"live.gate.canary_seconds={CANARY_SECONDS}"),
    # Weights that learnt for some seconds are neither better nor worse: the gate lets any pass, and no audit objects.
    *("live.heldout_share=0.3", "live.gate.prompts=8", "live.gate.least_prompts=2", "live.gate.min_users=1"),
    *("live.gate.margin=1", "live.gate.least_distinct=0", "live.gate.max_kl=1000000", "live.gate.longest=1000000"),
    "live.gate.rollback_error=0.000001",
)
USERS = tuple(f"user-{number}" for number in range(20))
PARTS = {"engine": "engine-0.json", "decider": "sea_agent.live.decider", "agent": "sea_agent.live.agent_part"}


@dataclass
class Live:
    """A running command, and a client with every right."""

    process: "subprocess.Popen[str]"
    client: httpx.Client
    out: Path

    def part(self, module: str) -> psutil.Process | None:
        """The process of a part."""
        alive = [one for one in psutil.Process(self.process.pid).children() if one.status() != psutil.STATUS_ZOMBIE]
        return next((child for child in alive if module in " ".join(child.cmdline())), None)

    def publications(self) -> list[dict[str, Any]]:
        return self.client.get("/v1/live/live/publications").raise_for_status().json()["publications"]

    def answers(self) -> int:
        """Answers that the policy's run has written."""
        if not (self.out / "metrics.jsonl").exists():
            return 0
        with sqlite3.connect(f"file:{self.out / 'ledger.sqlite'}?mode=ro", uri=True) as ledger:
            return int(ledger.execute("SELECT count(*) FROM verdicts").fetchone()[0])

    def ask(self, user: str = "somebody") -> httpx.Response:
        body = {"model": "live", "user": user, "messages": [{"role": "user", "content": PROMPT}]}
        return self.client.post("/v1/chat/completions", json=body)

    def operate(self, what: str, **body: Any) -> None:
        self.client.post(f"/v1/live/live/{what}", json=body or None).raise_for_status()

    def serving(self) -> dict[str, Any]:
        """Which versions serve."""
        return self.client.get("/v1/live/live").raise_for_status().json()

    def served(self) -> dict[str, int]:
        """Which version answers each user now."""
        with ThreadPoolExecutor(len(USERS)) as asking:
            answers = asking.map(lambda user: self.ask(user).raise_for_status().json(), USERS)
            return dict(zip(USERS, (answer["sea"]["policy_version"] for answer in answers), strict=True))

    def trial(self) -> dict[str, Any] | None:
        """What serves while some users have the canary and the others what is live, each always the same."""
        serving, served = self.serving(), self.served()
        both = {serving["canary"], serving["live"]}
        return (
            serving if set(served.values()) == both and (self.served(), self.serving()) == (served, serving) else None
        )


def until(holds: Callable[[], Any], what: str) -> Any:
    """Wait until something holds."""
    end = time.monotonic() + DEADLINE
    while not (found := holds()):
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.2)
    return found


def start(out: Path, *arguments: str) -> Live:
    command = [sys.executable, "-m", "sea_agent", "live", *arguments, "--out", str(out), "--port", "0"]
    environment = os.environ | {"SEA_AGENT_ADMIN_KEY": ADMIN, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("endpoint"):
            url = line.split()[1].removesuffix("/v1")
            headers = {"Authorization": f"Bearer {ADMIN}"}
            return Live(process, httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False), out)
    raise AssertionError("".join(said))


def end(live: Live) -> int:
    """Ask it to end; its exit code."""
    parts = psutil.Process(live.process.pid).children(recursive=True) if live.process.poll() is None else []
    live.process.send_signal(signal.SIGTERM)
    code = live.process.wait(DEADLINE)
    _, alive = psutil.wait_procs(parts, timeout=5)
    assert alive == [], "parts outlive the command"
    return code


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    out = tmp_path_factory.mktemp("live") / "out"
    running = start(out, "live", "--users", "4", *(f"--set={one}" for one in (*SMALL, *CANARY)))
    yield running
    parts = psutil.Process(running.process.pid).children(recursive=True)
    running.process.kill()
    _, alive = psutil.wait_procs(parts, timeout=DEADLINE)
    assert alive == [], "parts outlive a command that was killed"


def test_users_are_answered_asked_and_learnt_from(live: Live) -> None:
    assert live.ask().status_code == 200
    until(lambda: live.answers() >= 8, "users answer and the run learns")
    versions = until(lambda: (found := live.publications())[1:] and found, "new weights are offered")
    assert len({one["version"] for one in versions}) == len(versions)
    summary = live.client.get("/v1/live/live/summary").raise_for_status().json()
    assert summary["requests"] > 0


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_killed_comes_back_and_nothing_is_learnt_twice(live: Live, part: str) -> None:
    killed = until(lambda: live.part(PARTS[part]), f"{part} runs")
    before = live.answers()
    killed.kill()
    until(lambda: (now := live.part(PARTS[part])) is not None and now.pid != killed.pid, f"{part} comes back")
    until(lambda: live.ask().status_code == 200, "requests are answered")
    until(lambda: live.answers() > before, "the run learns again")
    with sqlite3.connect(f"file:{live.out / 'service.sqlite'}?mode=ro", uri=True) as store:
        log = store.execute("SELECT query_id, annotator FROM labels WHERE revises IS NULL").fetchall()
    assert len(set(log)) == len(log)


def test_a_canary_outlives_the_agent_and_goes_live_after_its_time(live: Live) -> None:
    def killed_meanwhile() -> tuple[dict[str, Any], psutil.Process] | None:
        serving, agent = live.trial(), live.part(PARTS["agent"])
        if serving is None or agent is None:
            return None
        agent.kill()
        return (serving, agent) if live.serving() == serving else None

    serving, killed = until(killed_meanwhile, "a canary is tried on some users, and the agent dies meanwhile")
    canary = serving["canary"]
    (began,) = (one["decided_at"] for one in live.publications() if one["version"] == canary)
    until(lambda: min(live.served().values()) >= canary, "all users have what the canary's had")
    assert (back := live.part(PARTS["agent"])) is not None
    assert back.pid != killed.pid
    (row,) = (one for one in live.publications() if one["version"] == canary)
    assert (row["state"], row["reason"]) == ("live", "served the canary's users without objection")
    ended, started = (datetime.fromisoformat(at) for at in (row["decided_at"], began))
    assert (ended - started).total_seconds() >= CANARY_SECONDS
    offered = [(one["checksum"], one["round"]) for one in live.publications()]
    assert len(set(offered)) == len(offered), "a later life offered the same weights again"


def test_a_canary_that_an_operator_takes_back_is_served_to_nobody(live: Live) -> None:
    serving = until(live.trial, "a canary is tried on some users")
    live.operate("freeze")
    live.operate("promote", version=serving["live"])
    until(lambda: set(live.served().values()) == {serving["live"]}, "all users have what was live all along")
    (row,) = (one for one in live.publications() if one["version"] == serving["canary"])
    assert row["state"] == "rejected"
    live.operate("unfreeze")


def test_it_ends_in_order_and_goes_on_where_it_was(tmp_path: Path) -> None:
    first = start(tmp_path / "out", "live", "--users", "2", *(f"--set={one}" for one in SMALL))
    try:
        until(lambda: first.answers() >= 4, "users answer and the run learns")
        held = {one["version"] for one in first.publications()}
        answers = first.answers()
    finally:
        assert end(first) == 0
    again = start(tmp_path / "out", "--resume")
    try:
        assert again.ask().status_code == 200
        versions = [one["version"] for one in again.publications()]
        assert len(set(versions)) == len(versions)
        assert held <= set(versions)
        assert again.answers() >= answers
    finally:
        assert end(again) == 0


def test_what_could_not_start_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sea_agent", "live", "sea", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 2
    assert "oracle: {kind: live}" in done.stderr
    assert not (tmp_path / "out").exists()
