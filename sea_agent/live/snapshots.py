"""What the agent last knew, for the process that decides: snapshots of its selector, taken over whole or not at all.

The agent writes them as checkpoints of ``{"selector": …}``, which are renamed into place. One that is damaged, or not
there as a whole yet, is passed over and the one before stays; it is looked at again when its files change.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sea_agent.errors import UserError
from sea_agent.loop.selector import Selector
from sea_agent.persistence.checkpoint import read_state
from sea_agent.saved_state import require

logger = logging.getLogger(__name__)

_Stamp = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Snapshot:
    """A selector that changes no more."""

    name: str
    selector: Selector


class Snapshots:
    """The newest snapshot in a directory; the newest is what was written last, whatever its round.

    ``settings`` are those, by dotted key, that a snapshot must have been saved under. ``make_selector`` gives a
    selector to load a snapshot into, which shares nothing that a load changes with those before it.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any], make_selector: Callable[[], Selector]) -> None:
        self._directory, self._settings, self._make_selector = directory, settings, make_selector
        self._seen: dict[str, _Stamp] = {}
        self._held: Snapshot | None = None

    @property
    def held(self) -> Snapshot | None:
        """The one to decide with; None before the first."""
        return self._held

    def refresh(self) -> bool:
        """Look for a newer one, and take it over if it is whole. Not for several threads at once."""
        there = {path: stamp for path in self._directory.glob("round-*") if (stamp := _stamp(path))}
        new = {path: stamp for path, stamp in there.items() if self._seen.get(path.name) != stamp}
        self._seen = {path.name: stamp for path, stamp in there.items()}
        for path in sorted(new, key=lambda path: (max(file[1] for file in new[path]), path.name), reverse=True):
            try:
                self._held = self._load(path)
            except (UserError, OSError) as error:
                kept = "no snapshot" if self._held is None else self._held.name
                logger.warning("A snapshot is passed over, and decisions go on with %s: %s", kept, error)
            else:
                logger.info("Decisions are by snapshot %s now", path.name)
                return True
        return False

    def _load(self, path: Path) -> Snapshot:
        state = read_state(path, self._settings)
        require(state.get("selector"), dict, f"{path}: selector")
        selector = self._make_selector()
        selector.load_state(state["selector"])
        return Snapshot(path.name, selector)


def _stamp(path: Path) -> _Stamp:
    """What changes with the files of a snapshot; empty for one that is being written or was just removed."""
    if path.suffix:  # it is renamed when it is whole
        return ()
    try:
        files = [(file.name, file.stat()) for file in sorted(path.iterdir())]
    except OSError:
        return ()
    return tuple((name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in files)
