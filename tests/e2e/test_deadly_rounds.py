"""A round that kills a part is lived again, but not for ever. The parts die in this process."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from e2e.test_run import assert_same_run, metrics, world_config
from mortal_parts import MortalRuntime

from sea_agent.errors import ActorDied
from sea_agent.persistence.checkpoint import read_checkpoint
from sea_agent.run import session
from sea_agent.run.lifecycle import resume, run
from sea_agent.run.resumption import resumed_config

QUIET: dict[str, Any] = {"checkpoint": {"every": 2}, "budget__oracle_queries": 32, "evaluation": {}}
SETTINGS: dict[str, Any] = {**QUIET, "runtime": "ray"}
DEADLY, BOUND = 4, 12


def kills(runtime: MortalRuntime, rounds: range, times: int) -> list[int]:
    """The posterior dies so many times in each of the rounds; returns where it died, which grows as it does."""
    died: list[int] = []

    def deadly(name: str, method: str, args: tuple[Any, ...]) -> None:
        if (name, method) == ("posterior", "select"):
            number = args[1]
            if number in rounds and died.count(number) < times:
                died.append(number)
                runtime.kill(name)

    runtime.before_call = deadly
    return died


def assert_ends(out: Path, died: list[int]) -> None:
    """A run in which one round kills ends with an error that says so, and is at its latest checkpoint."""
    with pytest.raises(ActorDied, match=r"round 4 cost a part its life 3 times.*then resume.*posterior\.select"):
        run(world_config(**SETTINGS), out)
    assert died == [DEADLY] * 3
    assert [row["round"] for row in metrics(out)] == [0, 1, 2, 3]
    found = read_checkpoint(out / "checkpoints", {})
    assert found is not None
    assert found.name == "round-000002"


def test_a_round_that_kills_again_and_again_ends_the_run_which_goes_on_once_it_is_mended(
    tmp_path: Path, mortal: MortalRuntime
) -> None:
    out = tmp_path / "out"
    assert_ends(out, kills(mortal, range(DEADLY, DEADLY + 1), BOUND))
    run(world_config(**QUIET), tmp_path / "quiet")
    resume(resumed_config(out, ["runtime=inline"]), out)
    assert_same_run(tmp_path / "quiet", out)


def test_rounds_that_each_kill_twice_do_not_end_the_run(tmp_path: Path, mortal: MortalRuntime) -> None:
    run(world_config(**QUIET), tmp_path / "quiet")
    died = kills(mortal, range(1, 5), 2)
    run(world_config(**SETTINGS), tmp_path / "out")
    assert died == [1, 1, 2, 2, 3, 3, 4, 4]
    assert mortal.restarts == ["posterior"] * 8
    assert_same_run(tmp_path / "quiet", tmp_path / "out")


def test_a_run_that_would_try_for_ever_is_seen(
    tmp_path: Path, mortal: MortalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_MOST_DEATHS", BOUND + 1)
    died = kills(mortal, range(DEADLY, DEADLY + 1), BOUND)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        assert_ends(tmp_path / "out", died)
    assert died == [DEADLY] * BOUND


@pytest.mark.parametrize("deaths", [1, 3])
def test_a_part_may_die_while_others_are_replaced_but_not_again_and_again(
    deaths: int, tmp_path: Path, mortal: MortalRuntime
) -> None:
    """As when what a dead node held is started on a second one, and that dies as well."""
    calls = Counter[str]()

    def deadly(name: str, method: str, args: tuple[Any, ...]) -> None:
        if name == "learner-0":
            calls[method] += 1
            if (method == "step" and calls["step"] == 4) or (method == "load_state" and calls["load_state"] <= deaths):
                mortal.kill(name)

    mortal.before_call = deadly
    if deaths == 1:
        run(world_config(**QUIET), tmp_path / "quiet")
        run(world_config(**SETTINGS), tmp_path / "out")
        assert_same_run(tmp_path / "quiet", tmp_path / "out")
    else:
        with pytest.raises(ActorDied, match=r"cost a part its life 3 times.*learner-0\.load_state"):
            run(world_config(**SETTINGS), tmp_path / "out")
    assert calls["load_state"] > 0
