"""The GPU benchmark, as far as it runs without one: its figures are sensible, and what is missing is said."""

import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu

ROOT = Path(__file__).parents[2]
SMALL = ["--prompts", "16", "--candidates", "4", "--prompt-tokens", "16", "--response-tokens", "8"]


def start(*arguments: str | Path) -> SimpleNamespace:
    """Run the program here, on whatever machine without a GPU; it makes its measurements in processes."""
    code, out, err = 0, StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["benchmarks.gpu", *map(str, arguments)])
        patch.setattr(torch.cuda, "device_count", lambda: 0)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("PYTHONPATH", str(ROOT))
        try:
            gpu.main()
        except SystemExit as stop:
            code = stop.code
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


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


def test_a_measurement_that_fails_is_told_and_fails_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, out = tmp_path / "python", tmp_path / "figures.json"
    failing.write_text("#!/bin/sh\necho 'out of memory' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    done = start("--shapes", "tiny", "--ways", "object_store", *SMALL, "--out", out)
    assert done.returncode == 1
    assert json.loads(out.read_text())["rows"][0]["failed"] == "out of memory"
    assert "failed: out of memory" in done.stdout
