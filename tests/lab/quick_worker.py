"""The process of a cell with a run that trains nothing. ``ill-METHOD`` beside it makes the run of a method fail, a pipe
``gate-METHOD`` keeps it until something is written there."""

import sys
from pathlib import Path
from types import ModuleType

from dashboard.runs import append, finish, rows

from sea_agent.config import RunConfig
from sea_agent.config.files import to_yaml
from sea_agent.lab import worker


def run(config: RunConfig, out: Path) -> None:
    """Leave behind what a run of two rounds does."""
    method = out.parent.name
    if Path(f"ill-{method}").exists():
        raise RuntimeError("no answer today")
    if (gate := Path(f"gate-{method}")).exists():
        gate.read_text()
    out.mkdir()
    (out / "config.yaml").write_text(to_yaml(config))
    append(out, *rows(method, config.seed, rounds=2))
    finish(out, queries=16)


if __name__ == "__main__":
    lifecycle = ModuleType("sea_agent.run.lifecycle")
    lifecycle.__dict__["run"] = run
    sys.modules[lifecycle.__name__] = lifecycle
    sys.argv = sys.argv[-3:]  # ..., the module of the worker, configuration, directory
    worker.main()
