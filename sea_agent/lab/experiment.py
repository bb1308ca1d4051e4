"""Running the cells of an experiment that are not done yet, and keeping its directory in order.

    DIR/experiment.yaml                          the description, as last given
    DIR/world/loss/method/seed-0.yaml, .log      the cell's configuration and what its process printed
    DIR/world/loss/method/seed-0/                the run; cell.json says which cell it is, error.txt why it failed

A cell is finished when its run's ``summary.json`` is there. What is there without one was left by a run that failed or
was stopped; it is removed and run again.
"""

import json
import os
import shutil
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sea_agent.config.files import differences, flat, load_config, load_tree, to_yaml
from sea_agent.errors import UserError
from sea_agent.lab.hosts import Host, LocalHost, RayHost, Task
from sea_agent.lab.spec import Cell, plan, read_spec
from sea_agent.persistence.files import LOCK, take_lock

_ERROR_LINES = 30
_CHANGES_TOLD = 5


@dataclass(frozen=True)
class Status:
    """Cells of an experiment by what became of them. ``failed`` holds the last line of each error by cell."""

    total: int
    done: int
    running: int
    failed: Mapping[str, str]


def run_experiment(
    spec_path: Path,
    out: Path,
    *,
    jobs: int | None = None,
    ray_address: str | None = None,
    on_change: Callable[[Status], None] = lambda status: None,
) -> Status:
    """Run every cell that is not finished, ``jobs`` at a time, here or as tasks of the Ray cluster at ``ray_address``.

    ``jobs`` is the number of cores, or the cluster's CPUs, when not given. Cells with equal configurations are run
    once and copied.

    Raises:
        UserError: before anything runs, for a bad description, a directory that is in use or is not an experiment's,
            and finished cells whose configuration is another one.
    """
    spec = read_spec(spec_path)
    cells = plan(spec, str(spec_path))
    with _locked(out) as lock:
        _refuse_another(spec.name, out)
        finished = _finished(cells, out)
        (out / "experiment.yaml").write_text(spec_path.read_text(encoding="utf-8"))
        for cell in cells:
            (out / cell.path).parent.mkdir(parents=True, exist_ok=True)
            (out / f"{cell.path}.yaml").write_text(to_yaml(cell.config))
        host: Host
        if ray_address is None:
            host = LocalHost(jobs or len(os.sched_getaffinity(0)), lock)
        else:
            host = RayHost(ray_address, jobs)
        return _Runner(cells, finished, out, on_change).run(host)


class _Runner:
    """Works through the cells and keeps count."""

    def __init__(
        self, cells: Sequence[Cell], finished: Sequence[Cell], out: Path, on_change: Callable[[Status], None]
    ) -> None:
        self._out, self._on_change, self._total = out, on_change, len(cells)
        self._twins: dict[str, list[Cell]] = defaultdict(list)
        for cell in cells:
            self._twins[to_yaml(cell.config)].append(cell)
        self._done: set[str] = set()
        self._running: dict[str, Cell] = {}
        self._failed: dict[str, str] = {}
        for cell in finished:
            self._mark(cell)
        for cell in finished:
            self._settle(cell)

    def run(self, host: Host) -> Status:
        """Start, watch and settle until nothing is left."""
        waiting = deque(twins[0] for twins in self._twins.values() if twins[0].path not in self._done)
        self._tell()
        if not waiting:
            return self._status()
        with host:
            while waiting or self._running:
                while waiting and len(self._running) < host.slots:
                    self._start(host, waiting.popleft())
                for task, trouble in host.ended():
                    self._end(self._running.pop(task.out), task, trouble)
                    self._tell()
        return self._status()

    def _start(self, host: Host, cell: Cell) -> None:
        directory = (self._out / cell.path).absolute()
        _remove(directory)
        task = Task(
            config=f"{directory}.yaml",
            out=str(directory),
            log=f"{directory}.log",
            directory=str(Path.cwd()),
            threads=cell.config.threads,
            gpu=cell.config.device == "cuda",
        )
        host.start(task)
        self._running[task.out] = cell
        self._tell()

    def _end(self, cell: Cell, task: Task, trouble: str | None) -> None:
        directory, log = Path(task.out), Path(task.log)
        if trouble is None and _has_summary(directory):
            self._settle(cell)
            return
        printed = log.read_text(errors="replace").splitlines() if log.exists() else []
        trouble = trouble or "ended without an error, but left no summary.json"
        directory.mkdir(exist_ok=True)
        (directory / "error.txt").write_text("\n".join([*printed[-_ERROR_LINES:], trouble]) + "\n")
        self._failed[cell.path] = f"{trouble}: {printed[-1]}" if printed else trouble

    def _settle(self, cell: Cell) -> None:
        """The cell is finished, and so are those with an equal configuration."""
        for twin in self._twins[to_yaml(cell.config)]:
            if twin.path in self._done:
                continue
            if twin is not cell:
                _copy(self._out / cell.path, self._out / twin.path)
            self._mark(twin)

    def _mark(self, cell: Cell) -> None:
        (self._out / cell.path / "cell.json").write_text(json.dumps(cell.facts) + "\n")
        self._done.add(cell.path)

    def _status(self) -> Status:
        return Status(self._total, len(self._done), len(self._running), dict(self._failed))

    def _tell(self) -> None:
        self._on_change(self._status())


@contextmanager
def _locked(out: Path) -> Iterator[int]:
    """Make the directory where needed and hold it against other runners; gives the lock's file descriptor."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be made ({error.strerror})") from None
    if not (out / "experiment.yaml").exists() and any(entry.name != LOCK for entry in out.iterdir()):
        raise UserError(f"--out {out}: holds something, but no experiment (experiment.yaml); name another directory")
    with (out / LOCK).open("w") as lock:
        if not take_lock(lock):
            raise UserError(
                f"--out {out}: another `sea-agent experiment` is at work in it; wait for it, or stop it first"
            )
        yield lock.fileno()


def _refuse_another(name: str, out: Path) -> None:
    """Refuse the directory of an experiment with another name."""
    description = out / "experiment.yaml"
    there = load_tree(str(description)).get("name") if description.exists() else name
    if there != name:
        raise UserError(f"--out {out}: holds the experiment {there}, not {name}; name another directory")


def _finished(cells: Sequence[Cell], out: Path) -> list[Cell]:
    """The cells that are finished.

    Raises:
        UserError: naming those that were run with another configuration.
    """
    finished = [cell for cell in cells if _has_summary(out / cell.path)]
    changes = ((cell, _change(out / cell.path, cell.config.model_dump(mode="json"))) for cell in finished)
    complaints = [f"  {cell.path}: {change}" for cell, change in changes if change]
    if complaints:
        raise UserError(
            f"{out}: finished cells were run with another configuration than the experiment's\n"
            + "\n".join(complaints)
            + "\nGive another --out, or remove the directories of these cells to run them again."
        )
    return finished


def _has_summary(directory: Path) -> bool:
    """Whether a run came to its end; a summary that was being written when the run was killed is none."""
    try:
        return isinstance(json.loads((directory / "summary.json").read_text()), dict)
    except (OSError, ValueError):
        return False


def _change(directory: Path, tree: Mapping[str, Any]) -> str | None:
    """How the configuration of a finished run differs from ``tree``."""
    try:
        there = flat(load_config(str(directory / "config.yaml")).model_dump(mode="json"))
    except UserError as error:
        return " ".join(str(error).split())
    changes = differences(there, flat(tree))
    more = [f"and {len(changes) - _CHANGES_TOLD} more"] if len(changes) > _CHANGES_TOLD else []
    return ", ".join(changes[:_CHANGES_TOLD] + more) or None


def _copy(source: Path, target: Path) -> None:
    """Copy a finished run so that the copy is there as a whole or not at all."""
    part = target.with_name(f"{target.name}.part")
    for left in (part, target):
        _remove(left)
    shutil.copytree(source, part)
    part.rename(target)


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
