"""Random parts of a run die every few rounds: nothing is asked twice, and nothing comes out differently.

The parts live and die in this process; ``test_dying_actors`` kills real ones.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from e2e.test_resume import write_verdicts_with_the_next_duels
from e2e.test_run import COUNTING_ORACLE, assert_same_run, world_config
from mortal_parts import MortalRuntime

from actors.samplers import SamplerPool
from sea_agent.errors import ActorDied, RunFailure
from sea_agent.persistence.ledger import Ledger
from sea_agent.persistence.rounds import RoundMetrics
from sea_agent.run.lifecycle import run
from sea_agent.run.session import Watch

BATCH = 8
ROUNDS = 10


class Chaos:
    """After every few rounds, those that are lived again not counted, kills a random part; notes how long it cost."""

    def __init__(self, every: int, seed: int, parts: Callable[[], Sequence[Any]], kill: Callable[[Any], None]) -> None:
        self._every, self._draw, self._parts, self._kill = every, random.Random(seed), parts, kill
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
            self._kill(self._draw.choice(self._parts()))
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


def assert_survives(folder: Path, rounds: int, chaos: Chaos, breaks: Callable[[], None] = lambda: None) -> None:
    """A run in which a part dies every few rounds ends as a quiet one."""
    run(world_config(**settings(folder, rounds)), folder / "quiet")
    (folder / "mine.seen").unlink()
    breaks()
    disturbed = world_config(**settings(folder, rounds), runtime="ray", sampler__actors=2)
    run(disturbed, folder / "out", Watch(on_round=chaos))
    seen = Counter(json.loads(line)["id"] for line in (folder / "mine.seen").read_text().splitlines())
    assert max(seen.values()) == 1, "a duel was asked twice"
    with Ledger(folder / "out" / "ledger.sqlite") as ledger:
        assert ledger.oracle_queries == len(seen) == BATCH * rounds
        assert all(verdict is not None for _, verdict in ledger.rows())
    assert_same_run(folder / "quiet", folder / "out")


@pytest.mark.parametrize("every", [1, 3])
def test_parts_die_every_few_rounds_and_nothing_changes(every: int, tmp_path: Path, mortal: MortalRuntime) -> None:
    chaos = Chaos(every, ROUNDS, lambda: list(mortal.parts), mortal.kill)
    assert_survives(tmp_path, ROUNDS, chaos)
    assert len(chaos.recoveries) == (ROUNDS - 1) // every
    assert every > 1 or {*mortal.restarts} >= {"posterior", "sampler-0", "sampler-1"}


def test_a_new_sampler_without_the_weights_is_seen(
    tmp_path: Path, mortal: MortalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(self: SamplerPool, index: int, death: ActorDied) -> None:
        self._samplers[index].restart()

    monkeypatch.setattr(SamplerPool, "_replace", forgetful)
    with pytest.raises(RunFailure, match="was sampled by policy version 0"):
        assert_survives(tmp_path, 4, Chaos(3, 4, lambda: ["sampler-0"], mortal.kill))


def test_a_ledger_that_is_written_after_training_is_seen(
    tmp_path: Path, mortal: MortalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers of a round in which the learner dies are then lost with it."""

    def breaks() -> None:
        for name in ("add_duels", "add_verdicts", "rewind"):  # so that they are put back
            monkeypatch.setattr(Ledger, name, getattr(Ledger, name))
        write_verdicts_with_the_next_duels()

    with pytest.raises(RunFailure, match="the oracle answered 40 duels but the ledger counts 32"):
        assert_survives(tmp_path, 4, Chaos(3, 4, lambda: ["learner-0"], mortal.kill), breaks)


def test_a_ledger_that_forgets_what_came_after_the_checkpoint_is_seen(
    tmp_path: Path, mortal: MortalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rounds that are lived again would ask their duels again."""
    rewind = Ledger.rewind

    def forget(self: Ledger, round_: int) -> Any:
        self._db.execute("DELETE FROM verdicts WHERE round > ?", (round_,))
        return rewind(self, round_)

    with pytest.raises(RunFailure, match="the oracle answered"):
        assert_survives(
            tmp_path,
            4,
            Chaos(3, 4, lambda: ["learner-0"], mortal.kill),
            lambda: monkeypatch.setattr(Ledger, "rewind", forget),
        )
    seen = [json.loads(line)["id"] for line in (tmp_path / "mine.seen").read_text().splitlines()]
    assert len(seen) > len(set(seen))
