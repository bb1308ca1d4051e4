"""A round that kills a part is lived again, but not for ever."""

from pathlib import Path
from typing import Any

import pytest
from e2e.test_run import assert_same_run, metrics, world_config

from sea_agent.errors import ActorDied
from sea_agent.loop.selector import Selector
from sea_agent.persistence.checkpoint import read_checkpoint
from sea_agent.run import session
from sea_agent.run.lifecycle import resume, run
from sea_agent.run.resumption import resumed_config

SETTINGS: dict[str, Any] = {"checkpoint": {"every": 2}, "budget__oracle_queries": 32}
DEADLY, BOUND = 4, 12


def kills(patch: pytest.MonkeyPatch, rounds: range, times: int) -> list[int]:
    """The posterior dies so many times in each of the rounds; returns where it died, which grows as it does."""
    died: list[int] = []
    select = Selector.select

    def deadly(self: Selector, candidates: Any, number: int, *args: Any) -> Any:
        if number in rounds and died.count(number) < times:
            died.append(number)
            raise ActorDied("posterior.select: the actor died.")
        return select(self, candidates, number, *args)

    patch.setattr(Selector, "select", deadly)
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


def test_a_round_that_kills_again_and_again_ends_the_run_which_goes_on_once_it_is_mended(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        assert_ends(out, kills(patch, range(DEADLY, DEADLY + 1), BOUND))
    run(world_config(**SETTINGS), tmp_path / "quiet")
    resume(resumed_config(out), out)
    assert_same_run(tmp_path / "quiet", out)


def test_rounds_that_each_kill_twice_do_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(world_config(**SETTINGS), tmp_path / "quiet")
    died = kills(monkeypatch, range(1, 5), 2)
    run(world_config(**SETTINGS), tmp_path / "out")
    assert died == [1, 1, 2, 2, 3, 3, 4, 4]
    assert_same_run(tmp_path / "quiet", tmp_path / "out")


def test_a_run_that_would_try_for_ever_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_MOST_DEATHS", BOUND + 1)
    died = kills(monkeypatch, range(DEADLY, DEADLY + 1), BOUND)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        assert_ends(tmp_path / "out", died)
    assert died == [DEADLY] * BOUND
