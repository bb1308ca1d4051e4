"""Invented records of every experiment, with curves whose queries to a level are known."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from sea_agent.lab.records import Record

MakeRuns = Callable[..., list[Record]]

STEP = 16


def _record(method: str, seed: int, scale: float, budget: int, **changes: Any) -> Record:
    """A run whose win rate rises from .5 by .3 within ``scale`` queries, linearly, and no further than to .9."""
    queries = list(range(0, budget + 1, STEP))
    rates = [min(0.5 + 0.3 * number / scale, 0.9) for number in queries]
    tree: dict[str, Any] = {
        "world": "lexicon",
        "loss": "dpo",
        "labels": "threshold",
        "method": method,
        "seed": seed,
        "model": seed % 2,
        "config": f"{method}-{seed}",
        "budget": budget,
        "measurement": {
            "oracle": "lexicon reward",
            "judge": "lexicon judge",
            "reference": f"policy-{seed % 2}",
            "prompts": 256,
            "temperature": 0.7,
        },
        "summary": {"oracle_queries": budget, "cpu_seconds": 36.0},
        "curve": {
            "queries": queries,
            "win_rate": rates,
            "low": rates,
            "high": rates,
            "judge_win_rate": [0.5 + (rate - 0.5) / 2 for rate in rates],
            "distinct_share": [0.9] * len(queries),
            "response_tokens": [5.0] * len(queries),
            "policy_samples": [20 * number for number in queries],
            "gradient_steps": [number // 2 for number in queries],
            "cpu_seconds": [0.5 * number for number in queries],
        },
    }
    return Record.model_validate(tree | changes)


@pytest.fixture
def make_runs() -> MakeRuns:
    """``make_runs({"sea": (96, 192)}, seeds=5)``: runs that reach .80 after 96 of 192 queries."""

    def make(methods: Mapping[str, tuple[float, int]], seeds: Sequence[int] = range(5), **changes: Any) -> list[Record]:
        return [
            _record(method, seed, scale, budget, **changes)
            for method, (scale, budget) in methods.items()
            for seed in seeds
        ]

    return make
