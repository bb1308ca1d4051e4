"""Records with known curves, and descriptions of experiments."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sea_agent.lab.records import Record

MakeRecord = Callable[..., Record]


@pytest.fixture
def make_record() -> MakeRecord:
    """``make_record("sea", 0, [(0, .5), (100, .9)])``: a run of a method and seed through (queries, win rate)."""

    def make(method: str, seed: int, points: list[tuple[int, float]], **changes: Any) -> Record:
        queries, rates = zip(*points, strict=True)
        tree: dict[str, Any] = {
            "world": "lexicon",
            "loss": "dpo",
            "labels": "bernoulli",
            "method": method,
            "seed": seed,
            "model": seed % 2,
            "config": f"config-{method}-{seed}",
            "budget": queries[-1],
            "measurement": {
                "oracle": "lexicon reward",
                "judge": "lexicon judge",
                "reference": f"policy-{seed % 2}",
                "prompts": 256,
                "temperature": 0.7,
            },
            "summary": {"oracle_queries": queries[-1]},
            "curve": {
                "queries": queries,
                "win_rate": rates,
                "low": [rate - 0.02 for rate in rates],
                "high": [rate + 0.02 for rate in rates],
                "judge_win_rate": [rate - 0.05 for rate in rates],
                "policy_samples": [20 * number for number in queries],
                "gradient_steps": [number // 2 for number in queries],
                "cpu_seconds": [0.5 * number for number in queries],
            },
        }
        tree["curve"] |= changes.pop("curve", {})
        return Record.model_validate(tree | changes)

    return make


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[..., Path]:
    """Write the description of a small experiment with changes and return its path."""

    def write(**changes: Any) -> Path:
        tree = {
            "name": "small",
            "base": "passive",
            "set": {
                "runtime": "inline",
                "batch_size": 8,
                "sampler.candidates": 2,
                "budget.oracle_queries": 16,
                "evaluation.prompts": 16,
                "evaluation.every": 8,
            },
            "methods": {"passive": {}},
            "seeds": [0, 1],
        }
        path = tmp_path / "small.yaml"
        kept = {key: value for key, value in (tree | changes).items() if value is not None}
        path.write_text(yaml.safe_dump(kept, sort_keys=False))
        return path

    return write
