"""Whole runs on a GPU, and the benchmark with a tiny shape."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from gpu_processes import configured, in_a_process, run_with_deaths

from sea_agent.config import LearnerConfig

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 800.0
SHORT = ["device=cuda", "budget.oracle_queries=32", "evaluation.every=16", "evaluation.prompts=16"]
VLLM = ["policy.dtype=bfloat16", "sampler.backend=vllm", "sampler.gpu_memory_share=0.2"]


def sea_agent(*arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sea_agent", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def check_run(preset: str, settings: list[str], out: Path) -> None:
    """A run that asks what it may, agrees with its sampler in every round, and leaves a policy."""
    sea_agent("run", preset, *(part for one in [*SHORT, *settings] for part in ("--set", one)), "--out", out)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["oracle_queries"] == 32
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    gaps = [row["logprob_gap"] for row in rows if "logprob_gap" in row]
    assert len(gaps) == summary["rounds"] == summary["policy_version"] > 0
    dtype = "bfloat16" if "policy.dtype=bfloat16" in settings else "float32"
    assert max(gaps) < LearnerConfig().largest_gap(dtype)
    assert (out / "policy" / "model.safetensors").exists()


@pytest.mark.parametrize("preset", ["passive", "sea"])
def test_a_run_with_transformers_completes_on_one_gpu(preset: str, tmp_path: Path) -> None:
    check_run(preset, ["runtime=inline"], tmp_path / "out")


@pytest.mark.parametrize("preset", ["passive", "sea"])
def test_a_run_with_vllm_completes_on_one_gpu(preset: str, tmp_path: Path) -> None:
    check_run(preset, ["runtime=inline", *VLLM], tmp_path / "out")


def test_a_run_whose_weights_stay_on_one_gpu_completes_and_can_be_evaluated(tmp_path: Path) -> None:
    out = tmp_path / "out"
    check_run("passive", ["runtime=ray", "sampler.weight_transfer=ipc", *VLLM], out)
    sea_agent("eval", out)


def test_a_run_goes_on_when_its_sampler_or_learner_dies(tmp_path: Path) -> None:
    config = configured(
        "world://lexicon/policy",
        prompts__path="world://lexicon/prompts.jsonl",
        sampler__weight_transfer="ipc",
        selection__rule="passive",
        checkpoint__every=1,
        budget__oracle_queries=32,
    )
    lines = in_a_process(run_with_deaths, config, str(tmp_path / "out"))
    # The sampler is missed in round 2, the learner when the checkpoint after it is due.
    assert [line for line in lines if line.startswith("resuming from")] == ["resuming from round-000001"] * 2
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["oracle_queries"] == 32


@pytest.mark.usefixtures("two_gpus")
def test_a_run_whose_weights_go_from_gpu_to_gpu_completes(tmp_path: Path) -> None:
    settings = ["runtime=ray", "sampler.weight_transfer=nccl", *VLLM, "learner.engine=deepspeed"]
    check_run("passive", settings, tmp_path / "out")


def test_the_benchmark_measures_a_tiny_shape(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    program = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--shapes", "tiny", "--prompts", "16", "--out", out]
    small = ["--candidates", "4", "--prompt-tokens", "16", "--response-tokens", "8", "--ways", "object_store", "ipc"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*program, *small], timeout=DEADLINE_SECONDS, check=True, env=environment)
    for row in json.loads(out.read_text())["rows"]:
        assert row["tokens_per_second"] > 0, row
        assert row["batch_seconds"] > 0
        assert row["publish_seconds"] > 0
