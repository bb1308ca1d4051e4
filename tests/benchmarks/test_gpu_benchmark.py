"""The GPU benchmark, as far as it runs without one: its figures are sensible, and what is missing is said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ["--prompts", "16", "--candidates", "4", "--prompt-tokens", "16", "--response-tokens", "8"]


def start(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        # Whatever machine this is, the program sees no GPU.
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict]]:
    out = tmp_path_factory.mktemp("gpu") / "figures.json"
    done = start("--shapes", "tiny", *SMALL, "--out", out)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())["rows"]


def test_the_figures_of_a_tiny_shape_agree_with_each_other(tiny: tuple[str, list[dict]]) -> None:
    printed, rows = tiny
    figures = {row["way"]: row for row in rows}["object_store"]
    assert figures["pairs"] == 16
    assert 10 < figures["tokens_per_second"] < 1e6
    assert 0 < figures["batch_seconds"] < 60
    assert all(0 < figures[key] < 60 for key in ("publish_seconds", "checksum_seconds"))
    assert 0 <= figures["logprob_gap"] < 1e-4, "sampler and learner hold the same float32 weights"
    assert f"{figures['tokens_per_second']:,.0f} tokens/s" in printed


def test_ways_that_need_gpus_are_left_out_with_the_reason(tiny: tuple[str, list[dict]]) -> None:
    printed, rows = tiny
    left_out = {row["way"]: row["left_out"] for row in rows if "left_out" in row}
    assert left_out == {"nccl": "GPUs needed: 2, found: 0", "ipc": "GPUs needed: 1, found: 0"}
    assert all(reason in printed for reason in left_out.values())


def test_large_shapes_are_refused_without_a_gpu_before_anything_is_made() -> None:
    done = start("--shapes", "tiny", "6.9b")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "no CUDA device is visible here, and the shapes 6.9b need one" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_measurement_that_fails_is_told_and_fails_the_program(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = start("--shapes", "tiny", "--ways", "object_store", "--set", "learner.beta=-1", *SMALL, "--out", out)
    assert done.returncode == 1
    assert "learner.beta" in json.loads(out.read_text())["rows"][0]["failed"]
