"""What tests share: tiny policies of several architectures, prompts, ways to run the command line, and their order."""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded in tests, and a wrong name is told at once

import torch
from user_policies import make_policy

from sea_agent.cli import main

torch.set_num_threads(1)

WHOLE_RUNS = "tests/e2e/"
FIXTURES = {"browser": "browser", "postgres_url": "postgresql"}
"""The marker that a test gets for a fixture it uses."""
PROGRAMS = {"gcs_server": "ray", "raylet": "ray", "playwright/driver/node": "browser"}
"""The marker that a test must have which starts a program."""
DEAR = ("vllm", "ray", "run", "browser", "dear")

_started: list[str] = []


def _note_program(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        _started.append(os.fsdecode(arguments[0]))


sys.addaudithook(_note_program)


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by marker and the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they start, keep those of a file together, and put the groups with dear tests first."""
    groups: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        markers = [marker for fixture, marker in FIXTURES.items() if fixture in item.fixturenames]
        for marker in [*markers, *["run"] * item.nodeid.startswith(WHOLE_RUNS)]:
            item.add_marker(marker)
        group = item.get_closest_marker("xdist_group")
        name = group.args[0] if group else item.nodeid.partition("::")[0]
        if group is None:
            item.add_marker(pytest.mark.xdist_group(name))
        groups[name].append(item)
    items[:] = [item for group in sorted(groups.values(), key=_is_cheap) for item in group]


def _is_cheap(items: list[pytest.Item]) -> bool:
    return not any(item.get_closest_marker(marker) for item in items for marker in DEAR)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _started.clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that starts what `make quick` leaves out has its marker."""
    result = yield
    for marker in {marker for name, marker in PROGRAMS.items() for path in _started if path.endswith(name)}:
        assert item.get_closest_marker(marker), f"the test starts what only tests marked {marker} may start"
    return result


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
