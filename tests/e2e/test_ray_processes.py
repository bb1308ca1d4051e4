"""A run as one types it, whose parts are Ray actors of a local instance: it starts and is interrupted cleanly."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 240.0


def start(*arguments: str | Path, log: Path, cwd: Path = ROOT) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sea_agent", *map(str, arguments)]
    with log.open("wb") as file:
        return subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,
            # Tests that were started in the background may have inherited an ignored interrupt.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def finish(process: subprocess.Popen[bytes], log: Path) -> int:
    try:
        return process.wait(PATIENCE)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            print(log.read_text())


def rows(out: Path) -> list[dict]:
    file = out / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize(
    ("stop", "runtime"), [(signal.SIGINT, "inline"), pytest.param(signal.SIGTERM, "ray", marks=pytest.mark.ray)]
)
def test_an_interrupted_run_leaves_no_process_behind_and_files_of_the_user_do_not_hide_our_packages(
    stop: signal.Signals, runtime: str, tmp_path: Path
) -> None:
    """An oracle in oracle.py is what one would write, and actors.py or learner.py may stand beside it."""
    for name in ("actors.py", "learner.py"):
        (tmp_path / name).write_text("raise RuntimeError('the wrong module')\n")
    (tmp_path / "oracle.py").write_text("import words\ndef compare(duels):\n    return [words.ONE] * len(duels)\n")
    (tmp_path / "words.py").write_text("ONE = 1.0\n")
    out, log = tmp_path / "out", tmp_path / "log"
    settings = [f"runtime={runtime}", "batch_size=8", "budget.oracle_queries=100000", "evaluation.prompts=4"]
    oracle = ["oracle.kind=python", "oracle.target=oracle.py:compare"]
    options = [part for setting in [*settings, *oracle] for part in ("--set", setting)]
    process = start("run", "passive", *options, "--out", out, log=log, cwd=tmp_path)
    deadline = time.monotonic() + PATIENCE
    while len(rows(out)) < 2:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    hosts = sum("raylet" in " ".join(member.cmdline()) for member in family)
    assert (hosts > 0) == (runtime == "ray"), "the control: Ray is running"
    os.kill(process.pid, stop)
    assert finish(process, log) == 130
    assert "Traceback" not in log.read_text()
    assert f"round-{rows(out)[-1]['round']:06d}" in os.listdir(out / "checkpoints")
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
