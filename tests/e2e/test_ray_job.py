"""Runs as jobs of a real Ray head that wants a token: submitted, watched, stopped, and submitted again."""

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.ray_head import Head, until
from e2e.test_ray_processes import rows

from sea_agent.config.files import load_config
from sea_agent.run.lifecycle import run

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parent.parent.parent
CONFIG = """
extends: passive
runtime: ray
batch_size: 4
evaluation: {prompts_path: null, judge: null}
checkpoint: {every: 100000}
oracle: {kind: python, target: gate.py:compare}
"""
# Keeps the run in its third round until a file is there, so that the test knows where it is stopped.
ORACLE = """
import os, pathlib, time

def compare(duels):
    folder = pathlib.Path(os.environ["GATE"])
    with (folder / "asked").open("a") as file:
        file.write(" ".join(duel["id"] for duel in duels) + chr(10))
    deadline = time.monotonic() + 240
    while len((folder / "asked").read_text().splitlines()) == 3 and not (folder / "open").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return [float(len(duel["first"]) > len(duel["second"])) for duel in duels]
"""
ENDLESS = ("--set", "budget.oracle_queries=100000")
SHORT = ("--set", "budget.oracle_queries=8")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    head = Head()
    try:
        head.await_ready()
        yield head
    finally:
        head.close()


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """A directory with the packages and a configuration, and nothing else."""
    folder = tmp_path / "clean"
    for package in ("sea_agent", "actors", "learner", "oracle"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "run.yaml").write_text(CONFIG)
    (folder / "gate.py").write_text(ORACLE)
    return folder


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """The directory by which the test and the oracle of its run speak with each other."""
    folder = tmp_path / "gate"
    folder.mkdir()
    return folder


def checkpoints(out: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("round-")) for path in (out / "checkpoints").glob("round-??????"))


def id_of(printed: str) -> str:
    match = re.search(r"^job (\S+) submitted$", printed, re.MULTILINE)
    assert match, printed
    return match[1]


def test_plain_ray_job_submit_runs_on_the_cluster_it_was_sent_to(head: Head, clean: Path, tmp_path: Path) -> None:
    """Nobody has to tell the run where it is."""
    out = tmp_path / "out"
    settings = ("--set", "oracle.kind=world", *SHORT)
    command = ("python", "-m", "sea_agent", "run", "run.yaml", *settings, "--out", out)
    code, printed = head.ray("submit", "--working-dir", ".", "--", *command, cwd=clean)
    assert code == 0, printed
    assert "Run finished" in printed
    assert json.loads((out / "summary.json").read_text())["oracle_queries"] == 8
    assert load_config(str(out / "config.yaml")).ray_address is None


def test_a_job_is_watched_left_stopped_and_goes_on_when_it_is_submitted_again(
    head: Head, clean: Path, gate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ("sea_agent", "submit", "run.yaml", "--out", out, "--address", head.address, "--env", "GATE")
    # An address of another cluster in the environment does not count beside the one that is given.
    environment = {"GATE": str(gate), "RAY_ADDRESS": "http://127.0.0.1:9"}
    watching = head.start(*command, *ENDLESS, cwd=clean, environment=environment)
    watching.until("round 2  ")
    watching.process.send_signal(signal.SIGINT)
    code, printed = watching.end()
    job = id_of(printed)
    assert code == 130, printed
    assert re.search(r"working directory .*: \d+ files, \d\.\d MiB\njob ", printed), printed
    assert f"no longer watching; job {job} continues" in printed
    assert printed.count(f"ray job stop --address {head.address} {job}") == 2, "told at the start and at the end"
    assert str(gate) not in printed, "values of the environment are not printed"

    assert "RUNNING" in head.ray("status", job).printed
    code, printed = head.do(*command, *ENDLESS, cwd=clean, environment=environment)
    assert code == 2, printed
    assert f"job {job} works on this run already" in printed

    assert len(head.processes("ray::_Shell")) == 3, "the control: sampler, learner and posterior are there"
    assert head.processes(str(out)), "the control: so is the run"
    logs, stopping = head.start_ray("logs", "--follow", job), head.start_ray("stop", job)
    logs.until("stopping after this round")
    (gate / "open").touch()
    assert stopping.end().code == 0, stopping.printed()
    assert "round 3  " in logs.end().printed
    assert "STOPPED" in head.ray("status", job).printed.upper()
    until(lambda: not head.processes("ray::_Shell") and not head.processes(str(out)), "no processes of the run")
    last = rows(out)[-1]
    assert checkpoints(out)[-1] == last["round"] == 3

    more = ("--set", f"budget.oracle_queries={last['oracle_queries'] + 8}", "--set", "runtime=inline")
    code, printed = head.do(*command, *more, cwd=clean, environment=environment)
    assert code == 0, printed
    assert id_of(printed) == job.removesuffix("1") + "2"
    assert "resuming from round-000003" in printed
    asked = (gate / "asked").read_text().split()
    found = json.loads((out / "summary.json").read_text())
    assert len(asked) == len(set(asked)) == found["oracle_queries"] == last["oracle_queries"] + 8
    # Compared with the run that nobody stopped, in one process.
    monkeypatch.setenv("GATE", str(gate))
    monkeypatch.chdir(clean)
    expected = run(load_config("run.yaml", [more[1], more[3]]), tmp_path / "whole")
    for key in ("oracle_queries", "rounds", "ledger_digest", "policy_checksum"):
        assert found[key] == expected[key], key


def test_a_job_that_is_given_no_time_to_stop_leaves_no_checkpoint(
    head: Head, clean: Path, gate: Path, tmp_path: Path
) -> None:
    """The control of the checkpoint above: it is there because Ray was told to wait for it."""
    out = tmp_path / "out"
    arguments = ("run.yaml", "--out", out, "--address", head.address, "--set", "runtime=inline", *ENDLESS, "--no-wait")
    hasty = ("--env", "GATE", "--env", "RAY_JOB_STOP_WAIT_TIME_S")
    environment = {"GATE": str(gate), "RAY_JOB_STOP_WAIT_TIME_S": "0"}
    code, printed = head.do("sea_agent", "submit", *arguments, *hasty, cwd=clean, environment=environment)
    assert code == 0, printed
    until(lambda: [row["round"] for row in rows(out)][-1:] == [2], "two rounds")
    assert head.ray("stop", id_of(printed)).code == 0
    until(lambda: not head.processes(str(out)), "no processes of the run")
    assert checkpoints(out) == [0]


def test_a_job_that_fails_gives_its_exit_code(head: Head, clean: Path, tmp_path: Path) -> None:
    arguments = (
        "run.yaml",
        "--out",
        tmp_path / "out",
        "--address",
        head.address,
        "--set",
        "prompts.path=nowhere.jsonl",
    )
    code, printed = head.do("sea_agent", "submit", *arguments, *SHORT, cwd=clean)
    assert code == 2, printed
    assert printed.count("nowhere.jsonl: no such file") == 1


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_without_the_token_of_the_cluster_nothing_is_started(
    token: str | None, head: Head, clean: Path, tmp_path: Path
) -> None:
    """With it, the same command is accepted above."""
    out = tmp_path / "out"
    command = ("sea_agent", "submit", "run.yaml", "--out", out, "--address", head.address, *SHORT)
    mode = None if token is None else "token"
    code, printed = head.do(*command, cwd=clean, environment={"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": token})
    assert code == 2, printed
    (line,) = printed.splitlines()
    assert "does not accept the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in line
    assert not out.exists()
