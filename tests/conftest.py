"""What tests share: tiny policies of several architectures, prompts, and ways to run the command line."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded in tests, and a wrong name is told at once

import torch
from user_policies import make_policy

from sea_agent.cli import main

torch.set_num_threads(1)

pytest_plugins = ["tiers"]


@pytest.fixture(scope="session")
def policy_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``policy_dir("llama")``: directory of a tiny random policy, made once."""
    made: dict[str, Path] = {}

    def get(architecture: str = "llama") -> Path:
        if architecture not in made:
            made[architecture] = make_policy(architecture, tmp_path_factory.mktemp(architecture))
        return made[architecture]

    return get


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows to a JSONL file and return its path."""

    def write(rows: list[dict], name: str = "prompts.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def sea_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """Run the command line in this process, from ``tmp_path``."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Finished:
        monkeypatch.setattr(sys, "argv", ["sea-agent", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return Finished(int(stop.value.code or 0), *capsys.readouterr())

    return run
