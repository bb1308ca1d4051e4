"""Exact resume wherever the parts live: on Ray, with DeepSpeed ranks, with vLLM samplers.

A variant that has every part but Ray, and one on Ray, are killed once; in the long form all are, twenty times. That a
resume which forgets something is seen, is shown in ``test_resume``.
"""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from e2e.killed_runs import Lives
from e2e.test_resume import deaths, in_flight, kill_in_passing
from e2e.test_run import COUNTING_ORACLE, assert_same_run, world_config

from sea_agent.persistence.ledger import Ledger
from sea_agent.run.lifecycle import resume
from sea_agent.run.resumption import resumed_config

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
QUERIES = {1: 16, 20: 100}
"""Answers to buy by number of kills: a round in two asks, and a life goes on by two rounds at the most."""
LATEST = ("metrics", 4, False)  # where a process dies that was not killed in passing before


def tree_of(folder: Path, variant: str, queries: int) -> dict[str, Any]:
    """A run whose oracle notes what it is asked: six rounds for 16 queries, and two for each six more."""
    (folder / "mine.py").write_text(COUNTING_ORACLE)
    settings: dict[str, Any] = {
        "posterior": {"family": "laplace", "features": "text", "prior": [f"{folder / 'mine.py'}:shortness"]},
        "mixing": {"oracle_share": 0.7, "burn_in": 8},
        "imagination": {"rounds": 1, "start": 8, "max_kl": 1e-4},
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
    assert_asked_once(folder, QUERIES[kills], excused)
    print(f"{variant}: {killed.total()} kills {dict(killed)}")


def assert_asked_once(folder: Path, queries: int, excused: Counter[str]) -> None:
    seen = Counter(json.loads(line)["id"] for line in (folder / "mine.seen").read_text().splitlines())
    with Ledger(folder / "out" / "ledger.sqlite") as ledger:
        assert ledger.oracle_queries == len(seen) == queries
    assert {duel_id for duel_id, count in seen.items() if count > 1 + excused[duel_id]} == set()


@pytest.mark.vllm
def test_a_killed_run_ends_bit_for_bit_as_one_that_was_not(tmp_path: Path) -> None:
    assert_exact("inline-deepspeed-vllm", 1, tmp_path)


@pytest.mark.ray
def test_a_run_killed_on_ray_leaves_nothing_running_and_goes_on_bit_for_bit_in_one_process(tmp_path: Path) -> None:
    lives, out = Lives(), tmp_path / "out"
    assert lives.end(lives.begin(tree_of(tmp_path, "inline-torch-hf", QUERIES[1]), tmp_path / "whole")) == 0
    (tmp_path / "mine.seen").unlink()
    on_ray = tree_of(tmp_path, "ray-torch-hf", QUERIES[1])
    on_ray["sampler"]["actors"] = 1
    assert lives.end(lives.begin(on_ray, out, LATEST)) < 0
    assert lives.survivors(out) == []
    excused = Counter(in_flight(out))
    resume(resumed_config(out, ["runtime=inline"]), out)
    assert_same_run(tmp_path / "whole", out)
    assert_asked_once(tmp_path, QUERIES[1], excused)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_killed_twenty_times_ends_bit_for_bit_as_one_that_was_not(variant: str, tmp_path: Path) -> None:
    assert_exact(variant, 20, tmp_path)
