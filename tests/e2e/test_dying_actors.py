"""Every part of a run on Ray is killed once, and the run ends bit for bit as one in which nothing died."""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from e2e.test_run import assert_same_run, world_config

from actors.samplers import SamplerPool
from sea_agent.errors import ActorDied, RunFailure
from sea_agent.persistence.ledger import Ledger
from sea_agent.persistence.rounds import RoundMetrics
from sea_agent.run.lifecycle import run
from sea_agent.run.session import Watch

pytestmark = pytest.mark.ray

ROUNDS = 6
SETTINGS: dict[str, Any] = {
    "mixing": {"oracle_share": 0.7},
    "budget__oracle_queries": 40,
    "checkpoint": {"every": 2},
    "evaluation__every": 100,
}


def parts() -> list[int]:
    """Process ids of the actors of this process's Ray instance, the oldest first."""
    family = psutil.Process().children(recursive=True)
    shells = [member for member in family if member.name().startswith("ray::_Shell")]
    return [member.pid for member in sorted(shells, key=lambda member: (member.create_time(), member.pid))]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


class Killer:
    """After some rounds kills the next of the parts that the run began with."""

    def __init__(self) -> None:
        self.victims: list[int] = []
        self.killed = 0

    def __call__(self, row: RoundMetrics) -> None:
        if not self.victims:
            self.victims = parts()
        if row.round > self.killed and self.killed < len(self.victims):
            kill(self.victims[self.killed])
            self.killed += 1


def test_each_part_dies_once_and_nothing_changes(tmp_path: Path) -> None:
    killer, lines = Killer(), []
    run(world_config(**SETTINGS), tmp_path / "quiet")
    disturbed = world_config(**SETTINGS, runtime="ray", sampler__actors=2)
    run(disturbed, tmp_path / "out", Watch(on_round=killer, tell=lines.append))
    assert len(killer.victims) == killer.killed == 4  # two samplers, the learner, the posterior
    assert sum(line.startswith("going on from round-") for line in lines) == 2
    assert_same_run(tmp_path / "quiet", tmp_path / "out")
    with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
        assert ledger.oracle_queries == 40


def test_a_new_sampler_without_the_weights_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: SamplerPool, index: int) -> None:
        self._samplers[index].restart()

    monkeypatch.setattr(SamplerPool, "_restart", forgetful)
    with pytest.raises(RunFailure):
        run(world_config(**SETTINGS, runtime="ray"), tmp_path / "out", Watch(on_round=Killer()))


def test_a_round_that_kills_again_and_again_ends_the_run(tmp_path: Path) -> None:
    """The posterior dies whenever it comes back."""
    first: list[int] = []

    def newest_dies(row: RoundMetrics) -> None:
        if not first:
            first.extend(parts())
        if row.round >= 2:
            kill(parts()[-1])

    with pytest.raises(ActorDied) as caught:
        run(world_config(**SETTINGS, runtime="ray"), tmp_path / "out", Watch(on_round=newest_dies))
    assert "posterior" in str(caught.value)
    assert (tmp_path / "out" / "checkpoints").is_dir()
