"""One of two ranks: ``python rank_worker.py RANK RENDEZVOUS POLICY OUT CASE...``.

Trains the named cases of ``CASES`` in turn. Rank 0 leaves ``OUT/CASE.pt`` with metrics, published weights and state;
each rank leaves the refusal of a sampler that disagrees in ``OUT/refusal-RANK.txt``. A learner that one process began,
found in ``OUT/begun.pt``, goes on for a round under the named cases of ``MOVED``. At last rank 1 ends, and rank 0
leaves what it says of that in ``OUT/alone.txt``.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from tiny_learners import make_learner, preferences_of, reported_by, rows_of_preferences

from learner.learner import PreferenceLearner
from sea_agent.errors import RunFailure

CASES: dict[str, dict[str, Any]] = {
    "zero0": {"zero_stage": 0},
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3},
    "zero3-lora": {"zero_stage": 3, "lora": {"rank": 4}},
}
# Under which two ranks go on with what one began.
MOVED: dict[str, dict[str, Any]] = {
    "moved-zero0": {"zero_stage": 0},
    "moved-zero2": {"zero_stage": 2},
    "moved-zero3": {"zero_stage": 3},
}
# Odd, so that one rank has a row less, and more than a micro-batch on each.
PAIRS, ROUNDS = 7, 3
# A small step, because AdamW turns the rounding of a vanishing gradient into a part of a whole step.
SHARED: dict[str, Any] = {"micro_batch": 3, "learning_rate": 1e-4}


def rounds(learner: PreferenceLearner) -> list[dict[str, float]]:
    """Three rounds on what an honest sampler reports."""
    return [learner.step(reported_by(learner, preferences_of(PAIRS, seed=seed))) for seed in range(ROUNDS)]


def another_round(learner: PreferenceLearner, seed: int = 9) -> dict[str, float]:
    """A round after those of ``rounds``."""
    return learner.step(reported_by(learner, preferences_of(5, seed=seed)))


def result(learner: PreferenceLearner, metrics: list[dict[str, float]]) -> dict[str, Any] | None:
    """What rank 0 reports of a learner, and what all ranks must do for it."""
    update, state = learner.weights(), learner.state()
    reference = learner.reference_logprobs(rows_of_preferences(preferences_of(2)))
    if update is None or state is None:
        return None
    return {"metrics": metrics, "weights": update.tensors, "state": state, "reference": reference}


def main(rank: int, rendezvous: str, policy: str, out: Path, names: list[str]) -> None:
    shared = {"engine": "deepspeed", "ranks": 2, "rendezvous": rendezvous, **SHARED}
    for name in filter(CASES.__contains__, names):
        learner = make_learner(policy, rank=rank, **shared, **CASES[name])
        found = result(learner, rounds(learner))
        if found is not None:
            torch.save(found, out / f"{name}.pt")
        learner.save_policy(out / f"{name}-policy")
    for name in filter(MOVED.__contains__, names):
        learner = make_learner(policy, rank=rank, **shared, **MOVED[name])
        learner.load_state(torch.load(out / "begun.pt", weights_only=True))
        found = result(learner, [another_round(learner)])
        if found is not None:
            torch.save(found, out / f"{name}.pt")
    learner = make_learner(policy, rank=rank, **shared, zero_stage=2)
    rows = reported_by(learner, preferences_of(4))
    # Only rank 1's rows are wrong.
    wrong = reported_by(learner, preferences_of(4), error=1.0)
    try:
        learner.step([rows[0], wrong[1], rows[2], wrong[3]])
    except RunFailure as error:
        (out / f"refusal-{rank}.txt").write_text(str(error))
    if rank == 1:
        return
    try:
        learner.step(rows)
    except RunFailure as error:
        (out / "alone.txt").write_text(str(error))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]), sys.argv[5:])
