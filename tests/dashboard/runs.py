"""Directories of runs as the agent leaves them behind, with curves and duels that are made up, from a seed."""

import fcntl
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sea_agent.config.files import load_config, to_yaml
from sea_agent.persistence.ledger import Ledger
from sea_agent.seeding import generator_for
from sea_agent.types import Duel, Hindsight, LabelSource, Outcome, Prompt, Response, Verdict

STAGES = {"sample": 0.4, "select": 0.2, "ask": 0.1, "learn": 0.5, "publish": 0.05, "update": 0.1}
START = 1_790_000_000.0
WORDS = ("salt", "oil", "bread", "knead", "rise", "oven", "warm", "slowly", "until", "golden", "then", "rest", "serve")


def win_rate(method: str, seed: int, queries: int) -> float:
    """A curve from .5 to .88; ``sea`` is four times as fast as the others."""
    pace = (60.0 if method == "sea" else 240.0) * (1 + 0.05 * (seed % 5))
    return round(0.5 + 0.38 * (1 - math.exp(-queries / pace)), 4)


def row(number: int, queries: int, rate: float | None, **more: Any) -> dict[str, Any]:
    """A row of metrics; an evaluation where ``rate`` is given."""
    found: dict[str, Any] = {
        "round": number,
        "oracle_queries": queries,
        "posterior_labels": 0,
        "imagined_pairs": 0,
        "policy_samples": 128 * number,
        "gradient_steps": number,
    }
    if number:
        found |= {"loss": 0.69 / (1 + number / 10), "disagreement": 0.25 / (1 + number / 20), "foresight_accuracy": 0.7}
    if rate is not None:
        found |= {
            "win_rate": rate,
            "win_rate_ci": [rate - 0.03, rate + 0.03],
            "judge_win_rate": 0.5 + 0.7 * (rate - 0.5),
            "judge_win_rate_ci": [0.4, 0.9],
            "kl_to_reference": number / 10,
            "distinct_share": 1.0 - number / 200,
            "response_tokens": 7.0 + number / 20,
            "evaluation_queries": 512 * (number + 1),
        }
    seconds = {stage: {"wall": wall, "cpu": wall / 2} for stage, wall in STAGES.items() if number}
    return found | {"seconds": seconds | ({"evaluate": {"wall": 9.0, "cpu": 5.0}} if rate is not None else {})} | more


def rows(method: str, seed: int, rounds: int, batch: int = 8) -> list[dict[str, Any]]:
    """An evaluation before the first round and after each."""
    return [row(number, batch * number, win_rate(method, seed, batch * number)) for number in range(rounds + 1)]


def append(directory: Path, *more: dict[str, Any]) -> None:
    """What a run does after a round."""
    with (directory / "metrics.jsonl").open("a") as metrics:
        metrics.write("".join(json.dumps(one) + "\n" for one in more))


def make_run(
    directory: Path,
    method: str = "passive",
    seed: int = 0,
    *,
    rounds: int = 20,
    finished: bool = True,
    cell: dict[str, Any] | None = None,
    duels: int | None = None,
    settings: Sequence[str] = (),
) -> Path:
    """A run with its ledger; of an experiment where ``cell`` is given."""
    directory.mkdir(parents=True)
    preset = "sea" if method == "sea" else "passive"
    budget = f"budget.oracle_queries={8 * rounds or 8}"
    (directory / "config.yaml").write_text(to_yaml(load_config(preset, [f"seed={seed}", budget, *settings])))
    append(directory, *rows(method, seed, rounds))
    write_ledger(directory, seed, rounds if duels is None else math.ceil(duels / 8), beliefs=preset == "sea")
    if cell is not None:
        (directory / "cell.json").write_text(json.dumps(cell))
    if finished:
        finish(directory, 8 * rounds)
    return directory


def finish(directory: Path, queries: int) -> None:
    """What a run leaves at its end."""
    summary = {"oracle_queries": queries, "git_commit": "0123456789abcdef", "wall_seconds": 60.0, "cpu_seconds": 30.0}
    (directory / "summary.json").write_text(json.dumps(summary | {"versions": {"sea-agent": "0.1.0"}}))


def make_experiment(
    root: Path, methods: Sequence[str] = ("passive", "sea"), seeds: int = 5, rounds: int = 40, **options: Any
) -> Path:
    """An experiment, one world and loss, all cells finished."""
    (root / "lexicon").mkdir(parents=True)
    (root / "experiment.yaml").write_text("name: made-up\n")
    for method in methods:
        for seed in range(seeds):
            cell = {"world": "lexicon", "loss": "dpo", "method": method, "seed": seed, "model": seed % 2}
            make_run(root / "lexicon" / method / f"seed-{seed}", method, seed, rounds=rounds, cell=cell, **options)
    return root


def write_ledger(directory: Path, seed: int, rounds: int, *, beliefs: bool = True, batch: int = 8) -> None:
    """Duels of all rounds, answered but for the last one of a ledger that has any."""
    generator = generator_for("made-up ledger", seed)
    with Ledger(directory / "ledger.sqlite") as ledger:
        ledger._db.execute("PRAGMA synchronous = OFF")  # what is made up may be lost
        for number in range(1, rounds + 1):
            duels = [_duel(generator, seed, number, index, beliefs) for index in range(batch)]
            ledger.add_duels(duels, number)
            last = number == rounds
            answered = duels[:-1] if last else duels
            ledger.add_verdicts(answered, [_verdict(generator, duel, number) for duel in answered], number)
            ledger.add_hindsight(Hindsight(duel.id, 0.9, 0.01) for duel in answered if beliefs)


def _duel(generator: np.random.Generator, seed: int, number: int, index: int, beliefs: bool) -> Duel:
    name = f"{seed}-{number}-{index}"
    prompt = Prompt(f"prompt-{name}", f"How do I bake bread number {number}.{index}?", (1, 2))
    sides = [
        Response(
            f"{side}-{name}",
            prompt.id,
            f"{side} {' '.join(generator.choice(WORDS, 6))}",
            (3, 4),
            (-0.1, -0.2),
            number - 1,
        )
        for side in ("first", "second")
    ]
    return Duel(
        id=f"duel-{name}",
        round=number,
        prompt=prompt,
        first=sides[0],
        second=sides[1],
        rule="sea_ee" if beliefs else "passive",
        policy_version=number - 1,
        posterior_version=number - 1 if beliefs else 0,
        label_source=LabelSource.ORACLE,
        belief=round(float(generator.uniform(0.02, 0.98)), 4) if beliefs else None,
        disagreement=round(float(generator.uniform(0.05, 0.4)), 4) if beliefs else None,
        typical_disagreement=0.125 if beliefs else None,
    )


def _verdict(generator: np.random.Generator, duel: Duel, number: int) -> Verdict:
    """As likely as believed, with a tie now and then."""
    draw = float(generator.random())
    outcome = Outcome.TIE if draw > 0.97 else Outcome.FIRST if draw < (duel.belief or 0.5) else Outcome.SECOND
    return Verdict(duel.id, outcome, "lexicon reward", START + 6.0 * number, duel.belief)


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold the lock of a run as the process does that works in it."""
    with (directory / ".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
