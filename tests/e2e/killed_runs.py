"""Runs in processes that die without warning, at a named place or at any moment.

A fork server has everything imported, so that each life of a run costs its work alone.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import transformers.models.auto.tokenization_auto
import transformers.models.llama.modeling_llama  # noqa: F401  (the built-in policy's, which a life would import late)

from sea_agent.config.files import parse_config
from sea_agent.persistence import checkpoint
from sea_agent.persistence.checkpoint import Checkpoints
from sea_agent.persistence.directory import MetricsFile
from sea_agent.persistence.ledger import Ledger
from sea_agent.run.lifecycle import resume, run
from sea_agent.run.resumption import resumed_config

PATIENCE = 600.0
SECONDS_TO_DIE = 120.0

Death = tuple[str, int, bool]

# Where a process can die: each is a function of which some call, counted from one, is the last. The number bounds that
# call, so that a life ends with its second checkpoint at the latest and a run can be killed often before it is through.
PLACES: dict[str, tuple[Any, str, int]] = {
    "ledger": (Ledger, "_write", 4),
    "metrics": (MetricsFile, "add", 4),
    "checkpoint state": (checkpoint, "_packed", 4),
    "checkpoint tensors": (checkpoint, "save_file", 1),
    "checkpoint to disk": (checkpoint, "_to_disk", 5),
    "checkpoint pruning": (Checkpoints, "_forget_old", 1),
}


LIFE = "SEA_AGENT_TEST_LIFE"
"""Environment variable by which everything that a life started can be told."""


def live(
    tree: dict[str, Any], out: Path, death: tuple[str, int, bool] | None, breaks: Callable[[], None] | None
) -> None:
    """Start the run in ``out`` or go on with it. ``death`` is a place, a call, and whether that call is still made;
    ``breaks`` spoils the program first."""
    os.environ[LIFE] = str(out)
    if breaks is not None:
        breaks()
    if death is not None:
        place, call, after = death
        owner, name, _ = PLACES[place]
        die_at(owner, name, call, after)
    if (out / "config.yaml").exists():
        resume(resumed_config(out), out)
    else:
        run(parse_config(tree, where="test"), out)


def die_at(owner: Any, name: str, call: int, after: bool) -> None:
    """Let this process be killed at a call of a function, before or after it."""
    function, left = getattr(owner, name), iter(range(call - 1, -1, -1))

    def counted(*args: Any, **options: Any) -> Any:
        last = next(left) == 0
        if last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        value = function(*args, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    setattr(owner, name, counted)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return {}


class Lives:
    """Starts processes from a fork server."""

    def __init__(self) -> None:
        # The server imports before it is told where this process looks for modules.
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["e2e.killed_runs"])

    def begin(
        self,
        tree: dict[str, Any],
        out: Path,
        death: Death | None = None,
        breaks: Callable[[], None] | None = None,
    ) -> BaseProcess:
        """One more life of the run in ``out``."""
        process = self._context.Process(target=live, args=(tree, out, death, breaks))
        process.start()
        return process

    def survivors(self, out: Path) -> list[psutil.Process]:
        """What the lives of the run in ``out`` started and is still there after it had time to end."""
        family = [member for member in psutil.process_iter() if _environment(member).get(LIFE) == str(out)]
        _, alive = psutil.wait_procs(family, SECONDS_TO_DIE)
        return alive

    def end(self, process: BaseProcess) -> int:
        """Wait for a process; its exit code, negative for a signal."""
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            raise AssertionError("the run did not end")
        return process.exitcode
