"""An agent of live mode in a process that dies without warning at a named place."""

import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import transformers.models.auto.tokenization_auto
import transformers.models.llama.modeling_llama  # noqa: F401  (the built-in policy's, which a life would import late)
from e2e.killed_runs import die_at
from live.live_world import live_to_the_end

from learner.learner import PreferenceLearner
from sea_agent.config.files import parse_config
from sea_agent.live.agent_part import LiveRun
from sea_agent.live.log import LiveLog
from sea_agent.live.source import LiveSource
from sea_agent.loop.selector import Selector
from sea_agent.persistence import checkpoint
from sea_agent.persistence.ledger import Ledger

PATIENCE = 100.0
PLACES: dict[str, tuple[Any, str]] = {
    "ledger": (Ledger, "_write"),
    "checkpoint": (checkpoint, "_to_disk"),
    "snapshot": (LiveRun, "_write_snapshot"),
    "weights": (PreferenceLearner, "save_weights"),
    "publication": (LiveLog, "publish"),
    "decision": (LiveLog, "decide"),
    "draw": (LiveSource, "draw"),
    "update": (Selector, "update"),
}
"""Functions of which some call is the last thing that a life does."""

Death = tuple[str, int, bool]
"""A place, a call counted from one, and whether that call is still made."""


def live(tree: dict[str, Any], out: Path, death: Death | None, environment: dict[str, str]) -> None:
    """One life, in the environment of who wants it: the server may have been started for another test."""
    os.environ.update(environment)
    if death is not None:
        place, call, after = death
        die_at(*PLACES[place], call, after)
    live_to_the_end(parse_config(tree, where="test"), out)


def exit_code(tree: dict[str, Any], out: Path, death: Death | None = None) -> int:
    """How a life ended; negative for a signal."""
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["live.mortal_agent"])
    process = context.Process(target=live, args=(tree, out, death, dict(os.environ)))
    process.start()
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the agent did not end")
    return process.exitcode
