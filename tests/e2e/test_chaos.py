"""Random parts of a run on Ray die every few rounds: nothing is asked twice, and nothing comes out differently."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.test_dying_actors import kill, parts
from e2e.test_resume import write_verdicts_with_the_next_duels
from e2e.test_run import COUNTING_ORACLE, assert_same_run, world_config

from sea_agent.errors import RunFailure
from sea_agent.persistence.ledger import Ledger
from sea_agent.persistence.rounds import RoundMetrics
from sea_agent.run.lifecycle import run
from sea_agent.run.session import Watch

pytestmark = pytest.mark.ray

BATCH = 8


class Chaos:
    """After every few rounds, those that are lived again not counted, kills a random part; notes how long it cost."""

    def __init__(self, every: int, seed: int) -> None:
        self._every, self._draw = every, random.Random(seed)
        self._reached, self._killed_at = 0, 0.0
        self.recoveries: list[float] = []

    def __call__(self, row: RoundMetrics) -> None:
        if row.round <= self._reached:
            return
        if self._killed_at:
            self.recoveries.append(time.monotonic() - self._killed_at)
            self._killed_at = 0.0
        self._reached = row.round
        if self._reached % self._every == 0:
            kill(self._draw.choice(parts()))
            self._killed_at = time.monotonic()


def settings(folder: Path, rounds: int) -> dict[str, Any]:
    (folder / "mine.py").write_text(COUNTING_ORACLE)
    return {
        "oracle": {"kind": "python", "target": f"{folder / 'mine.py'}:compare"},
        "evaluation": {},
        "learner__learning_rate": 1e-5,  # so small that a hundred rounds for short responses leave different ones
        "budget__oracle_queries": BATCH * rounds,
        "checkpoint": {"every": 2},
    }


def assert_survives(folder: Path, rounds: int, every: int, breaks: Callable[[], None] = lambda: None) -> list[float]:
    """A run in which a part dies every few rounds ends as a quiet one; seconds from each kill to the next new round."""
    run(world_config(**settings(folder, rounds)), folder / "quiet")
    (folder / "mine.seen").unlink()
    chaos = Chaos(every, seed=rounds)
    breaks()
    disturbed = world_config(**settings(folder, rounds), runtime="ray", sampler__actors=2)
    run(disturbed, folder / "out", Watch(on_round=chaos))
    seen = Counter(json.loads(line)["id"] for line in (folder / "mine.seen").read_text().splitlines())
    assert max(seen.values()) == 1, "a duel was asked twice"
    with Ledger(folder / "out" / "ledger.sqlite") as ledger:
        assert ledger.oracle_queries == len(seen) == BATCH * rounds
        assert all(verdict is not None for _, verdict in ledger.rows())
    assert_same_run(folder / "quiet", folder / "out")
    return chaos.recoveries


def test_a_part_dies_every_third_round_and_nothing_changes(tmp_path: Path) -> None:
    assert len(assert_survives(tmp_path, rounds=10, every=3)) == 3


def test_a_ledger_that_is_written_after_training_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers of a round in which the learner dies are then lost with it."""

    def breaks() -> None:
        for name in ("add_duels", "add_verdicts", "rewind"):  # so that they are put back
            monkeypatch.setattr(Ledger, name, getattr(Ledger, name))
        write_verdicts_with_the_next_duels()
        monkeypatch.setattr(random.Random, "choice", lambda self, pids: pids[2])  # the learner

    with pytest.raises(RunFailure, match="the oracle answered 40 duels but the ledger counts 32"):
        assert_survives(tmp_path, rounds=4, every=3, breaks=breaks)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_rounds_in_which_a_part_dies_every_fourth(tmp_path: Path) -> None:
    recoveries = sorted(assert_survives(tmp_path, rounds=100, every=4))
    assert len(recoveries) == 24
    median = recoveries[len(recoveries) // 2]
    print(f"\na new round after a kill: {median:.1f} s in the median, {recoveries[-1]:.1f} s at most")
