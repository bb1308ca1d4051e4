"""A run whose resumed rounds come to other weights than the first time ends, asks nothing twice, and says what it did.

Another machine, library or number of threads rounds otherwise. Here a life perturbs the weights that it resumes with,
by little or by much, or computes features and samples in other batches.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from e2e.test_promises import Dead, asked, cut_down, die_after
from e2e.test_run import COUNTING_ORACLE, assert_same_run, metrics, world_config

from learner.learner import PreferenceLearner
from sea_agent.agent import Agent
from sea_agent.bandit.ensemble import Ensemble
from sea_agent.errors import RunFailure
from sea_agent.persistence.ledger import Ledger
from sea_agent.run.lifecycle import resume, run
from sea_agent.run.resumption import resumed_config
from sea_agent.run.session import Watch

BUDGET, BATCH = 40, 4
EVERY = 4  # a checkpoint after so many rounds, and three more rounds before the death
DEAD_AFTER = 7
OTHERWISE = "came to other weights than the first time"
LATE, CLOSE = 0.3, 1e-7  # nats a token that the perturbed policies are away, roughly: above and below the tolerance


def config_in(folder: Path, **changes: Any) -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(COUNTING_ORACLE)
    settings: dict[str, Any] = {
        "batch_size": BATCH,
        "checkpoint": {"every": EVERY},
        "budget__oracle_queries": BUDGET,
        "evaluation": {},
        "oracle": {"kind": "python", "target": f"{folder / 'mine.py'}:compare"},
    }
    return world_config(**settings | changes)


def perturbed(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    """Every life from now on begins with other weights than its checkpoint holds."""
    load = PreferenceLearner.load_state

    def load_otherwise(self: PreferenceLearner, state: dict[str, Any]) -> None:
        load(self, state)
        for parameter in self._model.parameters():
            parameter.data.mul_(1.0 + by)

    monkeypatch.setattr(PreferenceLearner, "load_state", load_otherwise)


def lives(
    config: Any, folder: Path, otherwise: Callable[[], None], overrides: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The summary of a run that died and was resumed ``otherwise``, and what it told."""
    with pytest.raises(Dead):
        run(config, folder / "out", die_after(DEAD_AFTER))
    otherwise()
    told: list[str] = []
    summary = resume(resumed_config(folder / "out", overrides), folder / "out", watch=Watch(tell=told.append))
    return summary, [line for line in told if OTHERWISE in line]


def pairs_of(folder: Path) -> dict[int, float]:
    """Trained pairs by round."""
    return {row["round"]: row.get("pairs", 0.0) for row in metrics(folder / "out")}


@pytest.mark.parametrize("by", [CLOSE, LATE])
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_run_that_computes_otherwise_ends_and_asks_nothing_twice(
    by: float, staleness: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(tmp_path, learner__max_staleness=staleness)
    summary, told = lives(config, tmp_path, lambda: perturbed(monkeypatch, by))
    assert len(told) == 1
    assert summary["relived_rounds"] == DEAD_AFTER - EVERY
    assert summary["oracle_queries"] == BUDGET
    assert set(asked(tmp_path).values()) == {1}
    with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
        assert ledger.oracle_queries == len(asked(tmp_path)) == BUDGET
        relived = {one.round for one, _ in ledger.rows()} & set(range(EVERY + 1, DEAD_AFTER + 1))
        labels = Counter(one.round for one, _ in ledger.rows())
    assert relived == {EVERY + 1, EVERY + 2, EVERY + 3}
    trained = pairs_of(tmp_path)
    for number in relived:  # a late answer teaches the policy where staleness allows
        assert trained[number] == (labels[number] if by == CLOSE or staleness else 0)
    assert trained[DEAD_AFTER + 1] == labels[DEAD_AFTER + 1] == BATCH


def test_another_engine_rounds_otherwise_and_the_policy_learns_from_every_answer_all_the_same(tmp_path: Path) -> None:
    summary, told = lives(config_in(tmp_path), tmp_path, lambda: None, ["learner.engine=deepspeed"])
    assert summary["relived_rounds"] > 0
    assert len(told) == 1
    assert set(asked(tmp_path).values()) == {1}
    trained = pairs_of(tmp_path)
    assert sum(trained.values()) == summary["oracle_queries"] + summary["posterior_labels"]


def test_the_recommended_preset_survives_it_between_imagined_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(COUNTING_ORACLE)
    config = cut_down("sea", tmp_path / "mine.py", f"checkpoint.every={EVERY}")
    with pytest.raises(Dead):
        run(config, tmp_path / "out", die_after(EVERY + 2))
    perturbed(monkeypatch, LATE)
    summary = resume(resumed_config(tmp_path / "out"), tmp_path / "out")
    assert summary["relived_rounds"] == 1, "of the rounds that were lived again one asks, and the others imagine"
    assert summary["oracle_queries"] == len(asked(tmp_path))
    assert set(asked(tmp_path).values()) == {1}


def test_the_posterior_learns_from_every_late_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: set[str] = set()
    add = Ensemble.add

    def adding(self: Ensemble, first: Any, second: Any, wins: Any, ids: list[str], *rest: Any, **more: Any) -> None:
        learnt.update(ids)
        add(self, first, second, wins, ids, *rest, **more)

    def otherwise() -> None:
        perturbed(monkeypatch, LATE)
        monkeypatch.setattr(Ensemble, "add", adding)

    summary, _ = lives(config_in(tmp_path), tmp_path, otherwise)
    assert summary["relived_rounds"] == 3
    with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
        assert learnt == {one.id for one, _ in ledger.rows() if one.round > EVERY}


def test_a_life_that_computes_the_same_says_nothing(tmp_path: Path) -> None:
    summary, told = lives(config_in(tmp_path), tmp_path, lambda: None)
    assert (summary["relived_rounds"], told) == (0, [])
    run(config_in(tmp_path), tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "out")


def test_a_run_that_takes_recorded_responses_for_those_of_the_present_weights_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the alarm compares log-probabilities of one policy with those of another."""
    monkeypatch.setattr(Agent, "_as_of_now", lambda self, duels: duels)
    with pytest.raises(RunFailure, match="sampler and learner disagree by"):
        lives(config_in(tmp_path), tmp_path, lambda: perturbed(monkeypatch, LATE))
