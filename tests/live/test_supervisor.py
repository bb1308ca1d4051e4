"""The supervisor of live mode: parts are started again, and ended in order, as real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from live_stub import StubEngine

from sea_agent.errors import RunFailure
from sea_agent.live import supervisor as supervising
from sea_agent.live.supervisor import Part, Supervisor

FOR_EVER = "import time; time.sleep(600)"
DEADLINE = 30.0
MODULES = {"PYTHONPATH": os.pathsep.join(sys.path)}
"""So that processes find what tests import."""


def script(text: str) -> list[str]:
    return ["-m", "live.scripted_part", text]


def until(true: Callable[[], bool], supervisor: Supervisor) -> None:
    """Let the supervisor look at its parts until something is the case."""
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, "it never came to be"
        for part in supervisor.parts:
            supervisor._look(part)
        time.sleep(0.02)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    monkeypatch.setattr(supervising, "FIRST_PAUSE", 0.05)
    return Supervisor(tmp_path / "logs", {"SHARED": "all"} | MODULES, told.append)


def test_a_part_that_is_killed_starts_again(supervisor: Supervisor, told: list[str]) -> None:
    with supervisor:
        part = Part("engine-0", script(FOR_EVER))
        supervisor.start(part)
        assert part.process is not None
        first = part.process
        first.kill()
        until(lambda: part.restarts == 1, supervisor)
        assert part.process.pid != first.pid
        assert part.process.poll() is None
    assert "engine-0 has ended (signal 9)" in told[0]


def test_the_pause_grows_with_each_death_and_is_forgotten_after_a_good_while(supervisor: Supervisor) -> None:
    now = [0.0]
    supervisor._clock = lambda: now[0]
    with supervisor:
        part = Part("agent", script("import sys; sys.exit(1)"))
        supervisor.start(part)
        pauses = []
        for _ in range(3):
            assert part.process is not None
            part.process.wait(DEADLINE)
            supervisor._look(part)
            pauses.append(part.again_at - now[0])
            now[0] = part.again_at
            supervisor._look(part)
        assert pauses == pytest.approx([0.05, 0.1, 0.2])
        part.process.wait(DEADLINE)
        part.arguments = script(FOR_EVER)
        supervisor._look(part)
        now[0] = part.again_at
        supervisor._look(part)
        now[0] += supervising.GOOD_WHILE + 1
        supervisor._look(part)
        assert part.deaths == 0


def test_what_was_given_wrong_ends_everything_with_its_last_words(supervisor: Supervisor) -> None:
    wrong = "import sys; print('oracle.url: nobody answers there', file=sys.stderr); sys.exit(2)"
    with supervisor:
        supervisor.start(Part("gateway", script(FOR_EVER)))
        part = Part("agent", script(wrong))
        supervisor.start(part)
        assert part.process is not None
        part.process.wait(DEADLINE)
        with pytest.raises(RunFailure, match=r"agent cannot go on: oracle\.url: nobody answers there"):
            supervisor.watch()


def test_what_is_wrong_at_a_later_start_alone_is_waited_for(supervisor: Supervisor, told: list[str]) -> None:
    """A gateway that was killed and finds its database down, or an agent that finds the gateway so."""
    with supervisor:
        part = Part("gateway", script(FOR_EVER))
        supervisor.start(part)
        assert part.process is not None
        part.arguments = script("import sys; sys.exit(2)")
        part.process.kill()
        until(lambda: part.restarts == 2, supervisor)
        part.arguments = script(FOR_EVER)
        until(lambda: part.restarts == 3, supervisor)
        assert part.process.poll() is None
    assert [line.partition(";")[0] for line in told] == [
        "gateway has ended (signal 9)",
        *["gateway has ended (exit code 2)"] * 2,
    ]


def test_a_part_that_never_comes_up_is_named_with_its_last_words(supervisor: Supervisor) -> None:
    url = "http://127.0.0.1:9"
    dead = Part("decider", script("import sys; print('no room'); sys.exit(1)"), url)
    with supervisor, pytest.raises(RunFailure, match="decider did not start: no room"):
        supervisor.start(dead)


def test_a_part_that_is_never_well_is_given_up_at_its_deadline(supervisor: Supervisor) -> None:
    slow = Part("engine-0", script(FOR_EVER), "http://127.0.0.1:9", deadline=0.3)
    with supervisor, pytest.raises(RunFailure, match="engine-0 was not ready within"):
        supervisor.start(slow)
    assert slow.process is not None
    assert slow.process.poll() is not None


def test_a_part_that_may_move_is_well_where_its_file_says(supervisor: Supervisor, tmp_path: Path) -> None:
    file = tmp_path / "engine-0.url"
    part = Part("engine-0", script(FOR_EVER), f"file://{file}", deadline=DEADLINE)
    with StubEngine() as engine, supervisor:
        assert not supervisor._is_well(part), "it is nowhere yet"
        file.write_text(engine.url + "\n")
        supervisor.start(part)
        engine.stop()
        assert not supervisor._is_well(part)


ORDERLY = """
import signal, sys, time
order, name = sys.argv[1:]
def end(*_):
    open(order, "a").write(name + " ")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open(order + name, "w").close()
time.sleep(600)
"""
DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(600)
"""


def test_groups_end_in_the_order_opposite_to_their_start(supervisor: Supervisor, tmp_path: Path) -> None:
    order = tmp_path / "order"
    with supervisor:
        for group in (["engine-0", "engine-1"], ["gateway"], ["agent"]):
            assert supervisor.start(*(Part(name, [*script(ORDERLY), str(order), name]) for name in group))
            until(lambda group=group: all(Path(f"{order}{name}").exists() for name in group), supervisor)
    agent, gateway, *engines = order.read_text().split()
    assert (agent, gateway, set(engines)) == ("agent", "gateway", {"engine-0", "engine-1"})


def test_what_does_not_end_is_killed_with_what_it_started(
    supervisor: Supervisor, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "END_SECONDS", 0.3)
    ready = tmp_path / "ready"
    part = Part("engine-0", [*script(DEAF), str(ready)])
    with supervisor:
        supervisor.start(part)
        until(lambda: ready.exists() and bool(ready.read_text()), supervisor)
        child = psutil.Process(int(ready.read_text()))
    assert part.process is not None
    assert part.process.returncode == -9
    assert told == ["engine-0 did not end in time and is killed"]
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, supervisor)


class Deaf:
    """A process that ends only when it is killed, after which no time passes."""

    def __init__(self, pid: int, now: list[float]) -> None:
        self.pid, self._now = pid, now
        self.killed_at: float | None = None

    def send_signal(self, number: int) -> None:
        assert number == signal.SIGTERM

    def wait(self, seconds: float) -> None:
        if self.killed_at is None:
            self._now[0] += seconds
            raise subprocess.TimeoutExpired("deaf", seconds)


def test_however_many_do_not_end_all_have_ended_in_the_one_time(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    supervisor._clock = lambda: now[0]
    processes = [Deaf(pid, now) for pid in range(6)]
    monkeypatch.setattr(os, "killpg", lambda pid, _: setattr(processes[pid], "killed_at", now[0]))
    monkeypatch.setattr(supervisor, "_begin", lambda part: setattr(part, "process", processes[int(part.name)]))
    for group in ((0, 1, 2), (3,), (4, 5)):
        supervisor.start(*(Part(str(place), []) for place in group))
    supervisor.end()
    share = supervising.END_SECONDS / 3
    late = [process.killed_at - 100.0 for process in processes if process.killed_at is not None]
    assert late == pytest.approx([3 * share] * 3 + [2 * share] + [share] * 2)


def test_who_is_asked_to_stop_while_parts_start_waits_for_them_no_longer(supervisor: Supervisor) -> None:
    supervisor._pause = lambda _: supervisor.stop()
    with supervisor:
        assert not supervisor.start(Part("engine-0", script(FOR_EVER), "http://127.0.0.1:9/healthz"))
        supervisor.watch()


def test_what_parts_print_and_their_environment_are_their_own(supervisor: Supervisor, tmp_path: Path) -> None:
    text = "import os; print(os.environ['SHARED'], os.environ.get('OWN'))"
    with supervisor:
        parts = [Part("agent", script(text), environment={"OWN": "secret"}), Part("users", script(text))]
        supervisor.start(*parts)
        for part in parts:
            assert part.process is not None
            part.process.wait(DEADLINE)
    assert (tmp_path / "logs" / "agent.log").read_text() == "all secret\n"
    assert (tmp_path / "logs" / "users.log").read_text() == "all None\n"


STARTER = """
import sys
from pathlib import Path
from sea_agent.live import supervisor
logs, held, *arguments = sys.argv[1:]
supervisor.LIFELINE = supervisor.LIFELINE if held == "True" else ()
with supervisor.Supervisor(Path(logs), {}, print) as running:
    running.start(supervisor.Part("engine-0", arguments))
    running.watch()
"""


@pytest.mark.parametrize("held", [True, False])
def test_a_supervisor_that_is_killed_takes_its_parts_and_what_they_started_with_it(held: bool, tmp_path: Path) -> None:
    """Not ``held`` is the fault that must be found: parts that nobody can start again, and that keep their ports."""
    ready = tmp_path / "ready"
    command = [sys.executable, "-c", STARTER, str(tmp_path), str(held), *script(DEAF), str(ready)]
    starter = subprocess.Popen(command, env=os.environ | MODULES)
    end = time.monotonic() + DEADLINE
    while not (ready.exists() and ready.read_text()):
        assert time.monotonic() < end, "the part never began"
        time.sleep(0.02)
    family = psutil.Process(starter.pid).children(recursive=True)
    assert int(ready.read_text()) in {process.pid for process in family}
    starter.kill()
    starter.wait(DEADLINE)
    _, alive = psutil.wait_procs(family, timeout=DEADLINE if held else 0.5)
    for process in alive:
        process.kill()
    assert bool(alive) != held
