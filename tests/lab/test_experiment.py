"""Experiments do each cell once, go on after failures and kills, and leave no process behind.

Most tests replace the processes by a host that writes down what a run would; those at the end start processes, with a
run that trains nothing (``quick_worker.py``) but for the last.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from sea_agent.errors import UserError
from sea_agent.lab import experiment
from sea_agent.lab.experiment import Status, run_experiment
from sea_agent.lab.hosts import RayHost, Task
from sea_agent.lab.reading import load_records

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 240.0
WriteSpec = Callable[..., Path]


class FakeHost:
    """Ends one task at a time, the oldest first; a task fails when its directory is named in ``failing``."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.failing: dict[str, str] = {}
        self.started: list[str] = []
        self.most_running = 0
        self._running: list[Task] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def start(self, task: Task) -> None:
        assert not Path(task.out).exists(), "a run wants an unused directory"
        assert Path(task.config).is_file()
        self.started.append(_name(task))
        self._running.append(task)
        self.most_running = max(self.most_running, len(self._running))

    def ended(self) -> Iterator[tuple[Task, str | None]]:
        task = self._running.pop(0)
        Path(task.log).write_text(f"a warning\n{self.failing.get(_name(task), '')}\n")
        if _name(task) in self.failing:
            yield task, "ended with exit code 1"
            return
        Path(task.out).mkdir()
        shutil.copy(task.config, Path(task.out) / "config.yaml")
        (Path(task.out) / "summary.json").write_text("{}")
        yield task, None


def _name(task: Task) -> str:
    return "/".join(Path(task.out).parts[-2:])


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    fake = FakeHost(slots=1)

    def local(slots: int, lock: int) -> FakeHost:
        fake.slots = slots
        fake.started = []
        return fake

    monkeypatch.setattr(experiment, "LocalHost", local)
    return fake


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def identity(file: Path) -> tuple[int, int]:
    return file.stat().st_ino, file.stat().st_mtime_ns


def identities(out: Path) -> dict[str, tuple[int, int]]:
    """What cannot stay the same when a run is done again."""
    return {str(file.relative_to(out).parent): identity(file) for file in out.rglob("summary.json")}


# --- what is run -----------------------------------------------------------------------------------------------------


def test_every_cell_is_run_once_and_says_what_it_is(write_spec: WriteSpec, host: FakeHost, out: Path) -> None:
    status = run_experiment(write_spec(), out)
    assert host.started == ["passive/seed-0", "passive/seed-1"]
    assert (status.done, status.total, status.running, status.failed) == (2, 2, 0, {})
    facts = json.loads((out / "passive" / "seed-1" / "cell.json").read_text())
    assert facts == {"world": "lexicon", "loss": "dpo", "method": "passive", "seed": 1, "model": 0}


def test_a_finished_experiment_is_not_run_again(write_spec: WriteSpec, host: FakeHost, out: Path) -> None:
    run_experiment(write_spec(), out)
    before = identities(out)
    assert run_experiment(write_spec(), out).done == 2
    assert host.started == []
    assert identities(out) == before


def test_cells_that_are_added_later_are_run_alone(write_spec: WriteSpec, host: FakeHost, out: Path) -> None:
    run_experiment(write_spec(), out)
    more = {"passive": {}, "bold": {"set": {"learner.beta": 0.1}, "seeds": [0]}}
    run_experiment(write_spec(methods=more, seeds=[0, 1, 2]), out)
    assert host.started == ["passive/seed-2", "bold/seed-0"]


def test_no_more_than_jobs_are_run_at_once(write_spec: WriteSpec, host: FakeHost, out: Path) -> None:
    run_experiment(write_spec(seeds=list(range(5))), out, jobs=3)
    assert host.most_running == 3


def test_equal_configurations_are_run_once_and_copied(write_spec: WriteSpec, host: FakeHost, out: Path) -> None:
    spec = write_spec(methods={"passive": {}, "twin": {}})
    assert run_experiment(spec, out).done == 4
    assert host.started == ["passive/seed-0", "passive/seed-1"]
    twin = out / "twin" / "seed-1"
    assert json.loads((twin / "cell.json").read_text())["method"] == "twin"
    assert (twin / "config.yaml").read_text() == (out / "passive" / "seed-1" / "config.yaml").read_text()
    before = identities(out)
    run_experiment(spec, out)
    assert (host.started, identities(out)) == ([], before)


def test_a_twin_that_is_added_later_is_copied_from_the_finished_run(
    write_spec: WriteSpec, host: FakeHost, out: Path
) -> None:
    run_experiment(write_spec(), out)
    assert run_experiment(write_spec(methods={"twin": {}, "passive": {}}), out).done == 4
    assert host.started == []


@pytest.mark.parametrize("left", [{}, {"summary.json": '{"oracle_que'}, {"error.txt": "no"}, {"metrics.jsonl": "{}"}])
def test_a_half_written_cell_is_removed_and_run_again(
    left: dict[str, str], write_spec: WriteSpec, host: FakeHost, out: Path
) -> None:
    run_experiment(write_spec(), out)
    before = identities(out)
    cell = out / "passive" / "seed-0"
    shutil.rmtree(cell)
    cell.mkdir()
    for name, text in left.items():
        (cell / name).write_text(text)
    run_experiment(write_spec(), out)
    assert host.started == ["passive/seed-0"]
    assert not (cell / "error.txt").exists()
    assert identities(out)["passive/seed-1"] == before["passive/seed-1"]


def test_a_finished_cell_with_another_configuration_is_refused_by_name(
    write_spec: WriteSpec, host: FakeHost, out: Path
) -> None:
    run_experiment(write_spec(seeds=[0]), out)
    before = identities(out)
    with pytest.raises(UserError) as refusal:
        run_experiment(write_spec(methods={"passive": {"set": {"learner.beta": 0.7}}}), out)
    for word in ("passive/seed-0", "learner.beta is 0.3 there and 0.7 here", "remove"):
        assert word in str(refusal.value)
    assert (host.started, identities(out)) == (["passive/seed-0"], before)


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_failed_cell_does_not_keep_the_others_and_is_run_again(
    write_spec: WriteSpec, host: FakeHost, out: Path
) -> None:
    host.failing = {"passive/seed-0": "sea-agent: the oracle is ill"}
    status = run_experiment(write_spec(), out)
    assert status.done == 1
    assert status.failed == {"passive/seed-0": "ended with exit code 1: sea-agent: the oracle is ill"}
    assert "the oracle is ill" in (out / "passive" / "seed-0" / "error.txt").read_text()
    host.failing = {}
    assert run_experiment(write_spec(), out).failed == {}
    assert host.started == ["passive/seed-0"]


def test_the_status_is_told_as_it_changes(write_spec: WriteSpec, host: FakeHost, out: Path) -> None:
    host.failing = {"passive/seed-1": "no"}
    told: list[Status] = []
    run_experiment(write_spec(), out, jobs=1, on_change=told.append)
    counts = [(status.done, status.running, len(status.failed)) for status in told]
    assert counts == [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0), (1, 0, 1)]


def test_a_run_that_ends_well_without_a_summary_has_failed(
    write_spec: WriteSpec, host: FakeHost, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent() -> Iterator[tuple[Task, str | None]]:
        yield host._running.pop(0), None

    monkeypatch.setattr(host, "ended", silent)
    (reason,) = run_experiment(write_spec(seeds=[0]), out).failed.values()
    assert "no summary.json" in reason


# --- the directory ---------------------------------------------------------------------------------------------------


def test_a_directory_of_something_else_is_refused_and_left_alone(
    write_spec: WriteSpec, host: FakeHost, out: Path
) -> None:
    (out / "passive" / "seed-0").mkdir(parents=True)
    (out / "passive" / "seed-0" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"no experiment \(experiment\.yaml\)"):
        run_experiment(write_spec(), out)
    assert (out / "passive" / "seed-0" / "thesis.txt").read_text() == "mine"


def test_the_directory_of_another_experiment_is_refused(write_spec: WriteSpec, host: FakeHost, out: Path) -> None:
    run_experiment(write_spec(), out)
    with pytest.raises(UserError, match="holds the experiment small, not large"):
        run_experiment(write_spec(name="large"), out)
    assert run_experiment(write_spec(seeds=[0]), out).done == 1


def test_a_second_runner_is_refused(write_spec: WriteSpec, host: FakeHost, out: Path) -> None:
    run_experiment(write_spec(), out)
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another `sea-agent experiment` is at work"):
            run_experiment(write_spec(), out)
    run_experiment(write_spec(), out)


def test_a_bad_description_leaves_no_directory(write_spec: WriteSpec, host: FakeHost, out: Path) -> None:
    with pytest.raises(UserError):
        run_experiment(write_spec(set={"learner.betta": 1}), out)
    assert not out.exists()


def test_a_silent_ray_address_is_told_at_once() -> None:
    with pytest.raises(UserError, match=r"--ray-address 127\.0\.0\.1:1: no Ray cluster answers"):
        RayHost("127.0.0.1:1", None).__enter__()


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter that runs ``quick_worker.py`` in place of the module it is told to run."""
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("quick_worker.py")} "$@"\n')
    interpreter.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
    return interpreter


def test_a_process_that_fails_is_told_and_its_cell_is_done_again(
    write_spec: WriteSpec,
    tmp_path: Path,
    out: Path,
    quick: Path,
    sea_agent: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", str(quick))
    (tmp_path / "ill-mine").touch()
    spec = write_spec(methods={"passive": {}, "mine": {"set": {"learner.beta": 0.1}}}, seeds=[0])
    done = sea_agent("experiment", spec, "--out", out, "--jobs", "1")
    assert done.code == 1
    for word in ("1 of 2 runs failed", str(out / "mine" / "seed-0"), "RuntimeError: no answer today"):
        assert word in done.err
    assert "no answer today" in (out / "mine" / "seed-0" / "error.txt").read_text()
    before = identities(out)
    assert before.keys() == {"passive/seed-0"}
    compared = sea_agent("compare", out)
    assert compared.code == 0
    assert "skipped: " in compared.err
    assert "no answer today" in compared.err

    (tmp_path / "ill-mine").unlink()
    done = sea_agent("experiment", spec, "--out", out)
    assert done.code == 0, done.err
    assert identities(out).keys() == {"passive/seed-0", "mine/seed-0"}
    assert identities(out)["passive/seed-0"] == before["passive/seed-0"]
    records = {record.method: record for record in load_records([out]).records}
    assert records["mine"].curve.queries == records["passive"].curve.queries == (0, 8, 16)


def start(spec: Path, out: Path, log: Path, interpreter: Path) -> subprocess.Popen[bytes]:
    """A runner of which ``interpreter`` runs the cells."""
    cli = f"import sys; from sea_agent.cli import main; sys.executable = {str(interpreter)!r}; main()"
    command = [sys.executable, "-c", cli, "experiment", str(spec), "--out", str(out), "--jobs", "1"]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=spec.parent, start_new_session=True)


def wait_for_a_reader(gate: Path, runner: subprocess.Popen[bytes], log: Path) -> int:
    """The open gate, as soon as a run waits at it; it waits on until the gate is closed."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert runner.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


def test_a_stopped_and_a_killed_runner_leave_no_process_and_no_finished_cell_is_done_again(
    write_spec: WriteSpec,
    tmp_path: Path,
    out: Path,
    quick: Path,
    sea_agent: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, log = tmp_path / "gate-gated", tmp_path / "log"
    os.mkfifo(gate)
    spec = write_spec(methods={"passive": {}, "gated": {"set": {"learner.beta": 0.1}}}, seeds=[0])
    finished = []
    for stop in (signal.SIGTERM, signal.SIGKILL):
        runner = start(spec, out, log, quick)
        opened = wait_for_a_reader(gate, runner, log)
        finished.append(identities(out))
        family = [psutil.Process(runner.pid), *psutil.Process(runner.pid).children(recursive=True)]
        assert any("sea_agent.lab.worker" in member.cmdline() for member in family), "the control: a cell is running"
        second = sea_agent("experiment", spec, "--out", out)
        assert (second.code, "another `sea-agent experiment`" in second.err) == (2, True)
        os.kill(runner.pid, stop)
        assert runner.wait(PATIENCE) != 0
        _, alive = psutil.wait_procs(family, timeout=60)
        assert alive == []
        assert "Traceback" not in log.read_text()
        os.close(opened)
    gate.unlink()
    monkeypatch.setattr(sys, "executable", str(quick))
    done = sea_agent("experiment", spec, "--out", out)
    assert done.code == 0, done.err
    finished.append(identities(out))
    assert [sorted(cells) for cells in finished] == [["passive/seed-0"]] * 2 + [["gated/seed-0", "passive/seed-0"]]
    assert len({cells["passive/seed-0"] for cells in finished}) == 1


@pytest.mark.ray
def test_cells_are_run_as_tasks_of_a_ray_cluster(write_spec: WriteSpec, tmp_path: Path, out: Path) -> None:
    """The working directory of the user holds files that are called like our packages."""
    (tmp_path / "oracle.py").write_text("def compare(duels):\n    return [0.6] * len(duels)\n")
    (tmp_path / "learner.py").write_text("raise RuntimeError('the wrong module')\n")
    settings = {"oracle.kind": "python", "oracle.target": "oracle.py:compare"}
    spec = write_spec(methods={"mine": {"set": settings}}, seeds=[0])
    command = [sys.executable, "-m", "sea_agent", "experiment", str(spec), "--out", str(out), "--ray-address", "local"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = load_records([out]).records
    assert record.curve.queries == (0, 8, 16)
    assert record.curve.policy_samples == (0, 16, 32)
    assert record.curve.gradient_steps == (0, 1, 2)
