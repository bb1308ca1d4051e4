"""The policy learns what the oracle prefers, with every loss, and learns nothing from shuffled answers."""

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from sea_agent.config.files import load_config
from sea_agent.run.lifecycle import run

SHUFFLED_ORACLE = '''
"""The world's own answers, each given to another duel of its round."""

from oracle.base import bradley_terry
from sea_agent.worlds import scorer

reward = scorer("lexicon", "reward")


def compare(duels):
    answers = [bradley_terry(reward(d["prompt"], d["first"]), reward(d["prompt"], d["second"])) for d in duels]
    if duels[0]["id"].startswith("evaluation"):
        return answers
    # A rotation, so that no duel keeps its own answer.
    return answers[1:] + answers[:1]
'''


def win_rates(out: Path, **settings: Any) -> list[float]:
    """Held-out win rates of a passive run on the world, in order."""
    overrides = [f"{key}={value}" for key, value in settings.items()]
    config = load_config("passive", ["runtime=inline", *overrides])
    run(config, out)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["win_rate"] for row in rows if "win_rate" in row]


LOSSES = {
    "dpo": {"learner.loss": "dpo"},
    "ipo": {"learner.loss": "ipo", "learner.beta": 0.1},
    "slic": {"learner.loss": "slic"},
}


@pytest.mark.parametrize("loss", LOSSES)
def test_passive_learning_rises_within_512_answers(loss: str, tmp_path: Path) -> None:
    rates = win_rates(tmp_path / "out", **LOSSES[loss], **{"budget.oracle_queries": 512, "evaluation.every": 128})
    assert rates[0] == pytest.approx(0.5, abs=0.05)
    assert rates[-1] >= 0.65


@pytest.mark.soak
@pytest.mark.parametrize("loss", LOSSES)
def test_passive_learning_reaches_three_quarters_within_1536_answers(loss: str, tmp_path: Path) -> None:
    assert max(win_rates(tmp_path / "out", **LOSSES[loss], **{"evaluation.every": 256})) >= 0.75


# Small steps and a strong pull to the reference: with large ones a policy that is pushed about at random sharpens and
# drifts, in single runs to .6 and more, without having learnt anything.
CALM = {"learner.beta": 1.0, "learner.learning_rate": 1e-3, "evaluation.prompts": 512}


@pytest.mark.parametrize(("answers", "true"), [(512, 0.62), pytest.param(1536, 0.70, marks=pytest.mark.soak)])
def test_nothing_is_learnt_from_shuffled_answers(answers: int, true: float, tmp_path: Path) -> None:
    """The mean over three seeds never rises above .55; the same settings with true answers do, so they can learn."""
    (tmp_path / "shuffled.py").write_text(SHUFFLED_ORACLE)
    calm = CALM | {"budget.oracle_queries": answers, "evaluation.every": answers // 2}
    shuffled = calm | {"oracle.kind": "python", "oracle.target": f"{tmp_path / 'shuffled.py'}:compare"}
    runs = [win_rates(tmp_path / f"shuffled-{seed}", seed=seed, **shuffled) for seed in range(3)]
    assert max(map(mean, zip(*runs, strict=True))) <= 0.55
    assert max(win_rates(tmp_path / "true", **calm)) >= true
