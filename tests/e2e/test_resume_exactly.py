"""Exact resume wherever the parts live: on Ray, with DeepSpeed ranks, with vLLM samplers.

Two variants that together have every part are killed twice, and in the long form each of them twenty times.
"""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from e2e.killed_runs import Lives
from e2e.test_resume import deaths, forget_the_posterior, in_flight, kill_in_passing
from e2e.test_run import COUNTING_ORACLE, assert_same_run, world_config

from sea_agent.persistence.ledger import Ledger

DEEPSPEED = {"learner__engine": "deepspeed", "learner__zero_stage": 2}
VLLM = {"sampler__backend": "vllm", "sampler__kv_cache_gb": 0.25}
RAY = {"runtime": "ray", "sampler__actors": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "inline-torch-hf": {},
    "inline-deepspeed-hf": DEEPSPEED,
    "inline-torch-vllm": VLLM,
    "inline-deepspeed-vllm": {**DEEPSPEED, **VLLM},
    "ray-torch-hf": RAY,
    "ray-torch-vllm": {**RAY, **VLLM},
    "ray-deepspeed-hf": {**RAY, **DEEPSPEED, "learner__ranks": 2},
    "ray-deepspeed-vllm": {**RAY, **DEEPSPEED, **VLLM, "learner__ranks": 2},
}
QUERIES = {2: 28, 20: 100}
"""Answers to buy by number of kills: a round in two asks, and a life goes on by two rounds at the most."""
LATEST = ("metrics", 4, False)  # where a process dies that was not killed in passing before


def tree_of(folder: Path, variant: str, queries: int) -> dict[str, Any]:
    """A run whose oracle notes what it is asked: ten rounds for 28 queries, and two for each six more."""
    (folder / "mine.py").write_text(COUNTING_ORACLE)
    settings: dict[str, Any] = {
        "mixing": {"oracle_share": 0.7, "burn_in": 8},
        "imagination": {"rounds": 1, "start": 8},
        "checkpoint": {"every": 2, "keep": 2},
        "learner__learning_rate": 1e-4,  # so small that forty rounds leave different responses
        "budget__oracle_queries": queries,
        "oracle": {"kind": "python", "target": f"{folder / 'mine.py'}:compare"},
        "evaluation": {},
    }
    return world_config(**settings | VARIANTS[variant]).model_dump(mode="json")


def assert_exact(variant: str, kills: int, folder: Path) -> None:
    """A run killed so many times ends as one that was not; it asks nothing twice and leaves nothing running."""
    lives, draw, killed, excused = Lives(), random.Random(variant), Counter[str](), Counter[str]()
    tree, whole, out = tree_of(folder, variant, QUERIES[kills]), folder / "whole", folder / "out"
    assert lives.end(lives.begin(tree, whole)) == 0
    (folder / "mine.seen").unlink()  # of the whole run
    for number, death in zip(range(kills), deaths(kills), strict=False):
        at_random = number % 2 == 1
        process = lives.begin(tree, out, LATEST if at_random else death)
        if at_random:
            kill_in_passing(process, out / "metrics.jsonl", draw)
        assert lives.end(process) < 0, "the run ended by itself"
        killed["anywhere" if at_random else death[0]] += 1
        assert lives.survivors(out) == []
        excused.update(in_flight(out))
    assert lives.end(lives.begin(tree, out)) == 0
    assert killed.total() == kills
    assert_same_run(whole, out)
    seen = Counter(json.loads(line)["id"] for line in (folder / "mine.seen").read_text().splitlines())
    with Ledger(out / "ledger.sqlite") as ledger:
        assert ledger.oracle_queries == len(seen) == QUERIES[kills]
    assert {duel_id for duel_id, count in seen.items() if count > 1 + excused[duel_id]} == set()
    print(f"{variant}: {killed.total()} kills {dict(killed)}")


@pytest.mark.parametrize("variant", ["inline-deepspeed-vllm", "ray-deepspeed-hf"])
def test_a_killed_run_ends_bit_for_bit_as_one_that_was_not(variant: str, tmp_path: Path) -> None:
    assert_exact(variant, 2, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_killed_twenty_times_ends_bit_for_bit_as_one_that_was_not(variant: str, tmp_path: Path) -> None:
    assert_exact(variant, 20, tmp_path)


def test_a_resume_that_forgets_the_posterior_is_seen(tmp_path: Path) -> None:
    lives, variant = Lives(), "inline-deepspeed-hf"
    tree = tree_of(tmp_path, variant, QUERIES[2])
    assert lives.end(lives.begin(tree, tmp_path / "whole")) == 0
    out = tmp_path / "out"
    assert lives.end(lives.begin(tree, out, ("metrics", 5, True))) < 0
    assert lives.end(lives.begin(tree, out, None, forget_the_posterior)) == 0
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "whole", out)
