"""A run that finds no room on the disk or in memory: one clear line, a whole checkpoint, and it goes on from there."""

import errno
import os
import resource
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from e2e.test_ray_processes import finish, start
from e2e.test_run import assert_same_run, world_config

from actors import learners
from sea_agent.errors import RunFailure
from sea_agent.run.lifecycle import resume, run
from sea_agent.run.resumption import resumed_config
from sea_agent.run.session import Watch

SECONDS = 240.0
SETTINGS = {"checkpoint": {"every": 1}, "budget__oracle_queries": 48, "evaluation": {}}


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the configuration, and the run as it ends where nothing is short."""
    folder = tmp_path_factory.mktemp("exhausted")
    (folder / "config.yaml").write_text(yaml.safe_dump(world_config(**SETTINGS).model_dump(mode="json")))
    run(world_config(**SETTINGS), folder / "whole")
    return folder


def test_a_run_on_a_full_disk_says_so_and_goes_on_later(
    configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    process = start("run", configured / "config.yaml", "--out", out, log=log)
    wait_for(out / "checkpoints" / "round-000002" / "manifest.json")
    # No file grows any more, as on a disk without room.
    psutil.Process(process.pid).rlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    assert finish(process, log) == 1, log.read_text()
    said = log.read_text()
    assert "make room, then go on with" in said
    assert "sea-agent resume" in said
    assert "Traceback" not in said
    assert not list(out.rglob("*.part"))
    settings = (out / "config.yaml").read_bytes()
    with monkeypatch.context() as patch:
        still_full(patch)
        with pytest.raises(RunFailure, match=r"No space left.*make room, then go on with"):
            resume(resumed_config(out), out)
    assert (out / "config.yaml").read_bytes() == settings
    resume(resumed_config(out), out)
    assert_same_run(configured / "whole", out)


def still_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_run_without_memory_says_so_and_goes_on_later(
    configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, lived = tmp_path / "out", []
    with monkeypatch.context() as patch:
        patch.setattr(learners, "LearnerRank", RankOfAGlutton)
        with pytest.raises(RunFailure, match=r"out of memory .*Lower sampler\.chunk.*sea-agent resume"):
            run(world_config(**SETTINGS), out)
    resume(resumed_config(out), out, watch=Watch(on_round=lambda row: lived.append(row.round)))
    assert lived == [3, 4, 5, 6]
    assert_same_run(configured / "whole", out)


class RankOfAGlutton(learners.LearnerRank):
    """Takes more memory in its third round than there is."""

    def step(self, *arguments: Any) -> Any:
        if self.version == 2:
            torch.empty(2**60, dtype=torch.uint8)
        return super().step(*arguments)
