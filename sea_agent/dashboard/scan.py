"""Which runs there are below a directory, without opening any of their files.

A run's id is its path below the root. Requests name ids, which are looked up among the places found here and never
joined to a path. Directories behind links are not entered.
"""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sea_agent.dashboard.files import Stamp, open_plain, real_place
from sea_agent.errors import UserError
from sea_agent.lab.reading import MARKS
from sea_agent.persistence.files import LOCK

DEEPEST = 10
MOST_RUNS = 3000
MOST_DIRECTORIES = 30_000

_WATCHED = {*MARKS, "cell.json", "ledger.sqlite", LOCK}


class RunState(StrEnum):
    """What became of a run. ``DEAD`` ended without a summary and holds its lock no more. ``UNKNOWN`` has neither
    summary nor lock, so nobody can tell whether it still runs."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Place:
    """The directory of a run. ``collection`` is the id of its experiment, or of the directory that it is in; ``files``
    holds the stamps of the files that the dashboard reads, ``trouble`` what is wrong with others."""

    id: str
    path: Path
    collection: str
    files: dict[str, Stamp]
    trouble: tuple[str, ...]
    state: RunState


@dataclass
class Scan:
    """Places by id, the ids of experiments, and what is wrong with what else is there."""

    places: dict[str, Place] = field(default_factory=dict)
    experiments: set[str] = field(default_factory=set)
    trouble: list[tuple[str, str]] = field(default_factory=list)
    directories: int = 0


def scan(root: Path) -> Scan:
    """Find the runs in and below ``root``, which must be an absolute path without links."""
    found = Scan()
    _enter(root, root, None, 0, found)
    return found


def _enter(root: Path, directory: Path, experiment: str | None, depth: int, found: Scan) -> None:
    name = _id(root, directory)
    found.directories += 1
    try:
        with os.scandir(directory) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        found.trouble.append((name, f"cannot be read ({error.strerror})"))
        return
    names = {entry.name for entry in entries}
    if not names.isdisjoint(MARKS):
        found.places[name] = _place(root, directory, experiment, entries)
        return
    if "experiment.yaml" in names:
        found.experiments.add(name)
        experiment = name
    for entry in _below(entries, name, found):
        if len(found.places) >= MOST_RUNS or found.directories >= MOST_DIRECTORIES or depth == DEEPEST:
            limits = f"{MOST_RUNS:,} runs, {MOST_DIRECTORIES:,} directories and {DEEPEST} levels"
            found.trouble.append((name, f"not everything in it is shown: the limits are {limits}"))
            return
        _enter(root, Path(entry.path), experiment, depth + 1, found)


def _below(entries: list[os.DirEntry[str]], name: str, found: Scan) -> Iterator[os.DirEntry[str]]:
    """The directories to enter."""
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            found.trouble.append((name, f"holds a name that is not text: {entry.name!a}"))
            continue
        if entry.is_symlink():
            if entry.is_dir():
                found.trouble.append((_join(name, entry.name), "a link to a directory; it is not followed"))
        elif entry.is_dir():
            yield entry


def _place(root: Path, directory: Path, experiment: str | None, entries: list[os.DirEntry[str]]) -> Place:
    files: dict[str, Stamp] = {}
    trouble = []
    for entry in entries:
        if entry.name not in _WATCHED:
            continue
        try:
            there = os.stat(real_place(root, Path(entry.path)))
            files[entry.name] = (there.st_mtime_ns, there.st_size)
        except UserError as error:
            trouble.append(str(error))
        except OSError as error:
            trouble.append(f"{entry.name}: cannot be read ({error.strerror})")
    name = _id(root, directory)
    above = name.rpartition("/")[0] or "."
    return Place(name, directory, experiment or above, files, tuple(trouble), _state(root, directory, files))


def _state(root: Path, directory: Path, files: dict[str, Stamp]) -> RunState:
    if "error.txt" in files:
        return RunState.FAILED
    if "summary.json" in files:
        return RunState.FINISHED
    if LOCK not in files:
        return RunState.UNKNOWN
    try:
        return RunState.RUNNING if _is_held(root, directory / LOCK) else RunState.DEAD
    except (UserError, OSError):
        return RunState.UNKNOWN


def _is_held(root: Path, lock: Path) -> bool:
    """Whether a process holds the lock of a run. It is taken for a moment, shared, to find out."""
    with open_plain(root, lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _id(root: Path, directory: Path) -> str:
    return directory.relative_to(root).as_posix()


def _join(name: str, entry: str) -> str:
    return entry if name == "." else f"{name}/{entry}"
