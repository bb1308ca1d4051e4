"""A whole run: it counts what it asks, repeats itself for one seed, and does not care where its parts live."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from mortal_parts import MortalRuntime
from safetensors.torch import load_file

from oracle.base import bradley_terry
from sea_agent.bandit import RULES
from sea_agent.config import RunConfig
from sea_agent.config.files import apply_settings, parse_config
from sea_agent.errors import RunFailure
from sea_agent.loop.selector import Selector
from sea_agent.persistence.ledger import Ledger
from sea_agent.run.lifecycle import run
from sea_agent.types import LabelSource
from sea_agent.worlds import scorer

# A Python oracle that writes every duel it sees to a file beside it: the count that cannot be argued with. With the
# prior score `shortness` the posterior foretells it, and is trusted from the first answers on.
COUNTING_ORACLE = """
import json, pathlib
SEEN = pathlib.Path(__file__).with_suffix(".seen")

def compare(duels):
    with SEEN.open("a") as file:
        for duel in duels:
            file.write(json.dumps(duel) + "\\n")
    return [0.9 if len(duel["first"]) < len(duel["second"]) else 0.1 for duel in duels]

def shortness(texts):
    return [-float(len(response)) for _, response in texts]
"""


def world_config(**changes: Any) -> RunConfig:
    """A short run on the world; ``changes`` are dotted keys with ``__`` for the dot."""
    tree: dict[str, Any] = {
        "batch_size": 8,
        "policy": {"path": "world://lexicon/policy"},
        "prompts": {"path": "world://lexicon/prompts.jsonl"},
        "sampler": {"candidates": 6, "max_new_tokens": 14, "chunk": 16},
        "posterior": {"members": 5, "ensemble": {"hidden": 16}},
        "oracle": {"kind": "world"},
        "learner": {"learning_rate": 1e-3, "beta": 0.3},
        "budget": {"oracle_queries": 20},
        "evaluation": {"prompts_path": "world://lexicon/heldout.jsonl", "prompts": 16, "every": 16},
    }
    apply_settings(tree, {key.replace("__", "."): value for key, value in changes.items()})
    return parse_config(tree, where="test")


def metrics(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    return rows


def assert_same_run(one: Path, other: Path) -> None:
    """Ledger, weights and metrics of two runs are bit-identical."""
    first, second = (json.loads((out / "summary.json").read_text()) for out in (one, other))
    assert first["ledger_digest"] == second["ledger_digest"]
    assert first["policy_checksum"] == second["policy_checksum"]
    weights = [load_file(out / "policy" / "model.safetensors") for out in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert metrics(one) == metrics(other)


@pytest.mark.parametrize("rule", RULES)
def test_oracle_ledger_and_summary_count_the_same_queries(rule: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(COUNTING_ORACLE)
    config = world_config(
        selection__rule=rule,
        mixing={"oracle_share": 0.7, "burn_in": 8},
        oracle={"kind": "python", "target": f"{tmp_path / 'mine.py'}:compare"},
        evaluation={},
    )
    summary = run(config, tmp_path / "out")
    seen = [json.loads(line) for line in (tmp_path / "mine.seen").read_text().splitlines()]
    with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
        rows = ledger.rows()
        assert len(seen) == ledger.oracle_queries == summary["oracle_queries"] == 20
        assert ledger.posterior_labels == summary["posterior_labels"] > 0
    asked = {duel.id for duel, _ in rows if duel.label_source is LabelSource.ORACLE}
    assert {duel["id"] for duel in seen} == asked
    assert len(asked) == len(seen), "a duel was asked twice"
    assert all(duel.first.text != duel.second.text for duel, _ in rows)
    assert all(verdict is not None for _, verdict in rows)


def test_evaluation_asks_apart_from_the_budget(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(COUNTING_ORACLE)
    config = world_config(oracle={"kind": "python", "target": f"{tmp_path / 'mine.py'}:compare"})
    summary = run(config, tmp_path / "out")
    seen = (tmp_path / "mine.seen").read_text().splitlines()
    assert summary["oracle_queries"] == 20
    assert summary["evaluation_queries"] == len(seen) - 20 > 0


def test_answers_are_in_the_ledger_before_anything_else_can_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The posterior stumbles right after the oracle answered: what was paid for is kept."""

    def stumble(*arguments: object) -> None:
        raise RunFailure("the posterior died")

    monkeypatch.setattr(Selector, "label", stumble)
    with pytest.raises(RunFailure, match="the posterior died"):
        run(world_config(), tmp_path / "out")
    with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
        assert ledger.oracle_queries == 8


def test_one_seed_gives_one_run_and_another_seed_another(tmp_path: Path) -> None:
    config = world_config(mixing={"oracle_share": 0.7})
    run(config, tmp_path / "one")
    run(config, tmp_path / "two")
    assert_same_run(tmp_path / "one", tmp_path / "two")
    run(config.model_copy(update={"seed": 1}), tmp_path / "other")
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "one", tmp_path / "other")


def test_any_number_of_samplers_gives_the_inline_run(tmp_path: Path, mortal: MortalRuntime) -> None:
    """On Ray, too: ``test_dying_actors``."""
    run(world_config(mixing={"oracle_share": 0.7}), tmp_path / "inline")
    for samplers in (1, 3):
        out = tmp_path / str(samplers)
        run(world_config(mixing={"oracle_share": 0.7}, runtime="ray", sampler__actors=samplers), out)
        assert f"sampler-{samplers - 1}" in mortal.parts
        assert_same_run(tmp_path / "inline", out)


def test_the_chunk_size_is_part_of_the_work_and_not_of_its_placement(tmp_path: Path) -> None:
    """Other chunks may change last bits, never which responses were drawn (up to float ties)."""
    run(world_config(budget__oracle_queries=8, sampler__chunk=7), tmp_path / "small")
    run(world_config(budget__oracle_queries=8, sampler__chunk=48), tmp_path / "large")
    texts = []
    for name in ("small", "large"):
        with Ledger(tmp_path / name / "ledger.sqlite") as ledger:
            texts.append([(duel.id, duel.first.token_ids, duel.second.token_ids) for duel, _ in ledger.rows()])
    assert texts[0] == texts[1]


def test_a_run_leaves_behind_what_it_promises(tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(world_config(evaluation__judge={"kind": "world", "scorer": "judge"}), out)
    assert summary == json.loads((out / "summary.json").read_text())
    promised = "oracle_queries posterior_labels rounds win_rate win_rate_ci judge_win_rate policy_version wall_seconds"
    promised += " cpu_seconds seed git_commit versions evaluation_queries"
    assert set(promised.split()) <= summary.keys()
    assert summary["rounds"] == 3
    low, high = summary["win_rate_ci"]
    assert 0.0 <= low <= summary["win_rate"] <= high <= 1.0
    assert [row["oracle_queries"] for row in metrics(out)] == [0, 8, 16, 20]
    resolved = parse_config(yaml.safe_load((out / "config.yaml").read_text()), where="out")
    assert resolved.budget.oracle_queries == 20


def test_the_world_rewards_what_the_ledger_says_it_did(tmp_path: Path) -> None:
    """The probability in each verdict is the world's own for the texts in its duel: nothing was matched wrongly."""
    run(world_config(), tmp_path / "out")
    reward = scorer("lexicon", "reward")
    with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
        for duel, verdict in ledger.rows():
            text = duel.prompt.text
            expected = bradley_terry(reward(text, duel.first.text), reward(text, duel.second.text))
            assert verdict is not None
            assert verdict.probability == expected
