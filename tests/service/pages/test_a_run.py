"""A run of the built-in world is answered at the label page, and its policy changes."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from service.pages.browsing import SECONDS, Site
from service.pages.conftest import Visit

from sea_agent.config.files import load_config
from sea_agent.worlds import resolve, scorer

pytestmark = pytest.mark.anyio

DUELS = 12


async def test_a_run_learns_from_what_is_answered_at_the_page(site: Site, visit: Visit, tmp_path: Path) -> None:
    """Someone presses the arrow towards the response that the hidden reward prefers."""
    settings = {
        "batch_size": 6,
        "budget.oracle_queries": DUELS,
        "evaluation.prompts": 8,
        "oracle.kind": "feedback_service",
        "oracle.url": site.url,
        "oracle.run": "page",
    }
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    out, log = tmp_path / "out", tmp_path / "log"
    with log.open("w") as sink:
        run = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sea_agent", "run", "passive", *options, "--out", str(out)),
            env={**os.environ, "SEA_AGENT_KEY": site.key("experiment", "experiment")},
            stdout=sink,
            stderr=sink,
        )
    try:
        await until_posted(site, run, log)
        ann, prefers = await visit("page"), scorer("lexicon", "reward")
        for answered in range(DUELS):
            await ann.ready()
            prompt, first, second = [
                await ann.page.locator(part).evaluate("node => node.textContent")
                for part in ("#prompt", "#first", "#second")
            ]
            await ann.press("ArrowLeft" if prefers(prompt, first) >= prefers(prompt, second) else "ArrowRight")
            await until_logged(site, answered + 1)
        assert await asyncio.wait_for(run.wait(), 4 * SECONDS) == 0, log.read_text()
    finally:
        if run.returncode is None:
            run.kill()
            await run.wait()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["oracle_queries"] == DUELS
    assert summary["win_rate"] is None, "people are not asked to evaluate"
    assert summary["judge_win_rate"] is not None
    before = load_file(Path(resolve(load_config("passive").policy.path)) / "model.safetensors")
    after = load_file(out / "policy" / "model.safetensors")
    assert any(not before[name].equal(after[name]) for name in before)


async def until_posted(site: Site, run: asyncio.subprocess.Process, log: Path) -> None:
    """Until the run has posted its first duels."""
    async with asyncio.timeout(4 * SECONDS):
        while "page" not in {one["id"] for one in site.admin.get("/v1/runs").json()["runs"]}:
            assert run.returncode is None, log.read_text()
            await asyncio.sleep(0.2)


async def until_logged(site: Site, count: int) -> None:
    """Until the log holds so many answers."""
    async with asyncio.timeout(SECONDS):
        while len(site.log("page")) < count:
            await asyncio.sleep(0.05)
