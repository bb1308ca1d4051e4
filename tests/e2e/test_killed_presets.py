"""The presets that users run, killed at named places and at any moment, end bit for bit as if nobody had."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from e2e.killed_runs import Lives
from e2e.test_resume import deaths, kill_in_passing
from e2e.test_run import assert_same_run

from sea_agent.config.files import load_config

pytestmark = [pytest.mark.run, pytest.mark.soak, pytest.mark.timeout(3600)]

KILLS = 20
SMALL = ["evaluation.prompts=32", "evaluation.every=48", "checkpoint.every=3", "checkpoint.keep=2"]
IMAGINED = ["imagination.rounds=12", "budget.oracle_queries=96", *SMALL]
"""At the scale of the preset: 96 labels, batches of 16, 64 rounds."""
PRESETS: dict[str, list[str]] = {
    "sea": IMAGINED,
    "sea, sea_bai": ["selection.rule=sea_bai", *IMAGINED],
    "sea, encoder": ["posterior.encoder_path=world://lexicon/encoder", *IMAGINED],
    "sea_ee, reference candidates": ["sampler.reference_candidates=4", "budget.oracle_queries=800", *SMALL],
}
RUNTIMES: dict[str, list[str]] = {"inline": [], "ray": ["runtime=ray", "sampler.actors=2"]}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_killed_twenty_times_ends_bit_for_bit_as_one_that_was_not(
    name: str, runtime: str, tmp_path: Path
) -> None:
    settings = [*PRESETS[name], *RUNTIMES[runtime]]
    tree: dict[str, Any] = load_config(name.partition(",")[0], settings).model_dump(mode="json")
    lives, draw, killed = Lives(), random.Random(name), Counter[str]()
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert lives.end(lives.begin(tree, whole)) == 0
    for number, death in zip(range(4 * KILLS), deaths(11), strict=False):
        at_random = number % 2 == 1
        process = lives.begin(tree, out, None if at_random else death)
        if at_random:
            kill_in_passing(process, out / "metrics.jsonl", draw)
        if lives.end(process) == 0:
            break
        killed["anywhere" if at_random else death[0]] += 1
        if killed.total() == KILLS:
            assert lives.end(lives.begin(tree, out)) == 0
            break
    print(f"\n{name}, {runtime}: killed {dict(killed)}")
    assert killed.total() == KILLS
    assert_same_run(whole, out)
