"""Imagined rounds in a real run: they train the policy and cost the oracle nothing."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from oracle.base import ProbabilityOracle
from sea_agent.agent import Agent
from sea_agent.config import RunConfig
from sea_agent.config.files import load_config
from sea_agent.persistence.ledger import Ledger
from sea_agent.run.lifecycle import run
from sea_agent.types import Duel, LabelSource, Verdict


def small(rounds: int, start: int = 8) -> RunConfig:
    return load_config(
        "sea",
        [
            "batch_size=4",
            "budget.oracle_queries=16",
            "sampler.candidates=4",
            "posterior.prior=[world://lexicon/reward]",  # trusted from the second batch on
            "evaluation.prompts=4",
            "evaluation.every=8",
            f"imagination.rounds={rounds}",
            f"imagination.start={start}",
        ],
    )


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_oracle_answers_as_often_as_without_them(tmp_path: Path) -> None:
    summary = run(small(3), tmp_path / "with")
    without = run(small(0), tmp_path / "without")
    assert summary["oracle_queries"] == without["oracle_queries"] == 16
    with Ledger(tmp_path / "with" / "ledger.sqlite") as ledger:
        sources = [duel.label_source for duel, _ in ledger.rows()]
        assert sources == [LabelSource.ORACLE] * 16
    # Four rounds ask; three imagined ones follow each from the eighth label on, with at most two pairs a prompt.
    assert (summary["rounds"], without["rounds"]) == (4 + 3 * 3, 4)
    assert 0 < summary["imagined_pairs"] <= 9 * 4 * 2
    assert without["imagined_pairs"] == 0
    assert summary["policy_checksum"] != without["policy_checksum"]


def test_they_begin_with_the_label_that_the_configuration_names(tmp_path: Path) -> None:
    run(small(2, start=12), tmp_path / "out")
    asked = [row["oracle_queries"] for row in rows_of(tmp_path / "out")]
    assert asked == [0, 4, 8, 12, 12, 12, 16, 16, 16]
    steps = [row["gradient_steps"] for row in rows_of(tmp_path / "out")]
    assert steps == list(range(9))


def test_the_evaluation_comes_after_them(tmp_path: Path) -> None:
    run(small(2), tmp_path / "out")
    evaluated = [(row["round"], row["oracle_queries"]) for row in rows_of(tmp_path / "out") if "win_rate" in row]
    assert evaluated == [(0, 0), (4, 8), (10, 16)]


def test_two_runs_of_one_seed_end_with_the_same_policy(tmp_path: Path) -> None:
    first, again = (run(small(3), tmp_path / name) for name in ("first", "again"))
    other = run(small(3).model_copy(update={"seed": 1}), tmp_path / "other")
    assert first["policy_checksum"] == again["policy_checksum"] != other["policy_checksum"]
    assert first["ledger_digest"] == again["ledger_digest"]


def late_by_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second duel is answered the second time that the oracle is asked about it."""
    ask, asked = ProbabilityOracle.ask, set[str]()

    def ask_some(self: ProbabilityOracle, duels: Sequence[Duel]) -> list[Verdict]:
        now = [duel for place, duel in enumerate(duels) if place % 2 == 0 or duel.id in asked]
        asked.update(duel.id for duel in duels)
        return ask(self, now)

    monkeypatch.setattr(ProbabilityOracle, "ask", ask_some)


def test_an_answer_grows_no_older_by_imagined_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late_by_a_round(monkeypatch)
    config = small(3)
    config = config.model_copy(update={"learner": config.learner.model_copy(update={"max_staleness": 1})})

    def learnt_from(folder: Path) -> int:
        run(config, folder)
        rows = rows_of(folder)
        pairs = (row["pairs"] for before, row in pairwise(rows) if row["oracle_queries"] > before["oracle_queries"])
        return int(sum(pairs))

    assert learnt_from(tmp_path / "now") == 16, "late answers included"
    monkeypatch.setattr(Agent, "_oldest", lambda agent: agent.rounds - agent.config.learner.max_staleness)
    assert learnt_from(tmp_path / "by rounds") < 16
