"""The same command given again goes on with its run: `run --resume`, as a scheduler or a person repeats it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.test_resume import stop_after
from e2e.test_run import assert_same_run, metrics, world_config

from sea_agent.config.files import to_yaml
from sea_agent.errors import Stopped
from sea_agent.persistence.files import LOCK
from sea_agent.run.lifecycle import resume, run
from sea_agent.run.resumption import finished, holds

Cli = Callable[..., Any]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small run, as a user writes it down."""
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(world_config()))
    return file


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_the_same_command_begins_a_run_and_goes_on_with_it(source: Path, tmp_path: Path, sea_agent: Cli) -> None:
    with pytest.raises(Stopped):
        run(world_config(), tmp_path / "out", stop_after(2))
    assert sea_agent("run", source, "--out", "whole", "--resume").code == 0
    done = sea_agent("run", source, "--out", "out", "--resume")
    assert done.code == 0, done.err
    assert "resuming from round-000002" in done.out
    assert_same_run(tmp_path / "whole", tmp_path / "out")


def test_without_the_option_a_run_is_not_gone_on_with(source: Path, tmp_path: Path, sea_agent: Cli) -> None:
    with pytest.raises(Stopped):
        run(world_config(), tmp_path / "out", stop_after(2))
    done = sea_agent("run", source, "--out", "out")
    assert done.code == 2
    assert "sea-agent resume out" in done.err


def test_a_finished_run_is_shown_and_left_as_it_is(source: Path, tmp_path: Path, sea_agent: Cli) -> None:
    assert sea_agent("run", source, "--out", "out", "--resume").code == 0
    before = contents(tmp_path / "out")
    done = sea_agent("run", source, "--out", "out", "--resume")
    assert done.code == 0, done.err
    assert "Run finished" in done.out
    assert contents(tmp_path / "out") == before
    more = sea_agent("run", source, "--out", "out", "--resume", "--set", "budget.oracle_queries=28")
    assert more.code == 0, more.err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["oracle_queries"] == 28, "the control"


def test_another_run_is_refused_with_what_differs_and_left_as_it_is(
    source: Path, tmp_path: Path, sea_agent: Cli
) -> None:
    with pytest.raises(Stopped):
        run(world_config(), tmp_path / "out", stop_after(1))
    before = contents(tmp_path / "out")
    settings = ("--set", "seed=3", "--set", "learner.beta=0.7", "--set", "threads=2")
    done = sea_agent("run", source, "--out", "out", "--resume", *settings)
    assert done.code == 2
    assert "holds another run (learner.beta is 0.3 there and 0.7 here; seed is 0 there and 3 here)" in done.err
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("change", ["runtime=ray", "checkpoint.every=7", "budget.oracle_queries=40"])
def test_where_and_how_long_a_run_computes_may_differ(change: str, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(world_config(), tmp_path / "out", stop_after(1))
    key, _, value = change.partition("=")
    changed = world_config(**{key.replace(".", "__"): int(value) if value.isdigit() else value})
    assert holds(tmp_path / "out", changed)


def test_a_run_that_was_killed_before_it_began_is_begun(source: Path, tmp_path: Path, sea_agent: Cli) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).write_text("4711\n")
    assert sea_agent("run", source, "--out", "out", "--resume").code == 0
    assert metrics(tmp_path / "out")


def test_a_directory_of_something_else_is_refused(source: Path, tmp_path: Path, sea_agent: Cli) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("...")
    done = sea_agent("run", source, "--out", "out", "--resume")
    assert done.code == 2
    assert "exists and is not an empty directory" in done.err


def test_what_is_unfinished_is_not_taken_for_finished(tmp_path: Path) -> None:
    out, config = tmp_path / "out", world_config()
    with pytest.raises(Stopped):
        run(config, out, stop_after(1))
    assert finished(config.budget, out) is None
    resume(config, out)
    assert finished(config.budget, out) is not None
    assert finished(world_config(budget__oracle_queries=28).budget, out) is None
