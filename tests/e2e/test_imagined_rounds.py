"""Imagined rounds in a real run: they train the policy and cost the oracle nothing."""

import json
from pathlib import Path
from typing import Any

from sea_agent.config import RunConfig
from sea_agent.config.files import load_config
from sea_agent.persistence.ledger import Ledger
from sea_agent.run.lifecycle import run
from sea_agent.types import LabelSource


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
