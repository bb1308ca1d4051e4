"""Exact resume wherever the parts live: on Ray, with DeepSpeed ranks, with vLLM samplers.

``test_resume`` has the run in one process with torch and transformers. Of the others, two that together have every part
are killed twice, and in the long form each of them twenty times.
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

from sea_agent.ledger import Ledger

DEEPSPEED = {"learner__engine": "deepspeed", "learner__zero_stage": 2}
VLLM = {"sampler__backend": "vllm", "sampler__kv_cache_gb": 0.25}
RAY = {"runtime": "ray", "sampler__actors": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "inline-deepspeed-hf": DEEPSPEED,
    "inline-torch-vllm": VLLM,
    "ray-torch-hf": RAY,
    "ray-deepspeed-hf": {**RAY, **DEEPSPEED, "learner__ranks": 2},
    "ray-deepspeed-vllm": {**RAY, **DEEPSPEED, **VLLM, "learner__ranks": 2},
}
QUERIES = 28


def tree_of(folder: Path, variant: str) -> dict[str, Any]:
    """A run of some ten rounds, whose oracle notes what it is asked."""
    (folder / "mine.py").write_text(COUNTING_ORACLE)
    settings: dict[str, Any] = {
        "mixing": {"oracle_share": 0.7, "burn_in": 8},
        "imagination": {"rounds": 1, "start": 8},
        "checkpoint": {"every": 2, "keep": 2},
        "budget__oracle_queries": QUERIES,
        "oracle": {"kind": "python", "target": f"{folder / 'mine.py'}:compare"},
        "evaluation": {},
    }
    return world_config(**settings | VARIANTS[variant]).model_dump(mode="json")


def assert_exact(variant: str, kills: int, folder: Path) -> None:
    """A run killed so many times ends as one that was not; it asks nothing twice and leaves nothing running."""
    lives, draw, killed, excused = Lives(), random.Random(variant), Counter[str](), Counter[str]()
    tree, whole, out = tree_of(folder, variant), folder / "whole", folder / "out"
    assert lives.end(lives.begin(tree, whole)) == 0
    (folder / "mine.seen").unlink()  # of the whole run
    for number, death in zip(range(4 * kills), deaths(kills), strict=False):
        at_random = number % 2 == 1
        process = lives.begin(tree, out, None if at_random else death)
        if at_random:
            kill_in_passing(process, out / "metrics.jsonl", draw)
        code = lives.end(process)
        assert lives.survivors(out) == []
        assert code <= 0, "the run failed by itself"
        if code == 0:
            break
        killed["anywhere" if at_random else death[0]] += 1
        excused.update(in_flight(out))
        if killed.total() == kills:
            assert lives.end(lives.begin(tree, out)) == 0
            break
    assert killed.total() >= kills // 2, killed
    assert_same_run(whole, out)
    seen = Counter(json.loads(line)["id"] for line in (folder / "mine.seen").read_text().splitlines())
    with Ledger(out / "ledger.sqlite") as ledger:
        assert ledger.oracle_queries == len(seen) == QUERIES
    assert {duel_id for duel_id, count in seen.items() if count > 1 + excused[duel_id]} == set()
    print(f"{variant}: {killed.total()} kills {dict(killed)}")


@pytest.mark.parametrize("variant", ["inline-torch-vllm", "ray-deepspeed-hf"])
def test_a_killed_run_ends_bit_for_bit_as_one_that_was_not(variant: str, tmp_path: Path) -> None:
    assert_exact(variant, 2, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_killed_twenty_times_ends_bit_for_bit_as_one_that_was_not(variant: str, tmp_path: Path) -> None:
    assert_exact(variant, 20, tmp_path)


def test_a_resume_that_forgets_the_posterior_is_seen(tmp_path: Path) -> None:
    lives, variant = Lives(), "inline-deepspeed-hf"
    tree = tree_of(tmp_path, variant)
    assert lives.end(lives.begin(tree, tmp_path / "whole")) == 0
    out = tmp_path / "out"
    assert lives.end(lives.begin(tree, out, ("metrics", 5, True))) < 0
    assert lives.end(lives.begin(tree, out, None, forget_the_posterior)) == 0
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "whole", out)
