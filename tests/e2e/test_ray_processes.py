"""Runs as Ray actors, in processes of their own: vLLM samplers, DeepSpeed ranks, and a clean end when interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

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


def test_a_run_with_vllm_samplers_on_the_cpu_completes_and_agrees_with_the_learner(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    process = start("run", "vllm-cpu", "--set", "sampler.actors=2", "--out", out, log=log)
    assert finish(process, log) == 0, log.read_text()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["oracle_queries"] == 64
    gaps = [row["logprob_gap"] for row in rows(out) if "logprob_gap" in row]
    assert len(gaps) == summary["rounds"] == summary["policy_version"]
    assert max(gaps) < 1e-4


def test_two_deepspeed_ranks_learn_what_one_torch_learner_learns(tmp_path: Path) -> None:
    short = ["runtime=ray", "budget.oracle_queries=32", "evaluation.prompts=8", "learner.learning_rate=1e-4"]
    engines = {"torch": [], "deepspeed": ["learner.engine=deepspeed", "learner.ranks=2", "learner.zero_stage=3"]}
    for name, settings in engines.items():
        log = tmp_path / f"{name}.log"
        options = [part for setting in [*short, *settings] for part in ("--set", setting)]
        assert finish(start("run", "passive", *options, "--out", tmp_path / name, log=log), log) == 0, log.read_text()
    torch_policy, deepspeed_policy = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in engines)
    assert torch_policy.keys() == deepspeed_policy.keys()
    for name, weights in torch_policy.items():
        assert (weights - deepspeed_policy[name]).abs().max() < 1e-5, name


def test_files_of_the_user_do_not_hide_our_packages(tmp_path: Path) -> None:
    """An oracle in oracle.py is what one would write, and actors.py or learner.py may stand beside it."""
    for name in ("actors.py", "learner.py"):
        (tmp_path / name).write_text("raise RuntimeError('the wrong module')\n")
    (tmp_path / "oracle.py").write_text("import words\ndef compare(duels):\n    return [words.ONE] * len(duels)\n")
    (tmp_path / "words.py").write_text("ONE = 1.0\n")
    settings = ["runtime=ray", "oracle.kind=python", "oracle.target=oracle.py:compare", "budget.oracle_queries=16"]
    options = [part for setting in [*settings, "evaluation.prompts=4"] for part in ("--set", setting)]
    log = tmp_path / "log"
    process = start("run", "passive", *options, "--out", tmp_path / "out", log=log, cwd=tmp_path)
    assert finish(process, log) == 0, log.read_text()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process_behind(stop: signal.Signals, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    settings = ("--set", "runtime=ray", "--set", "budget.oracle_queries=100000")
    process = start("run", "passive", *settings, "--out", out, log=log)
    deadline = time.monotonic() + PATIENCE
    while len(rows(out)) < 2:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert any("ray" in " ".join(member.cmdline()) for member in family), "the control: Ray is running"
    os.kill(process.pid, stop)
    assert finish(process, log) == 130
    assert "Traceback" not in log.read_text()
    assert f"round-{rows(out)[-1]['round']:06d}" in os.listdir(out / "checkpoints")
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
