"""The runs below one directory as they were at the last look, and the answers that were made from them."""

import contextlib
import hashlib
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sea_agent import __version__
from sea_agent.dashboard.run import Run
from sea_agent.dashboard.scan import Place, Scan, scan
from sea_agent.errors import UserError

FRESH_SECONDS = 1.0
"""A request looks again when the last look is older than this."""

_ANSWERS = 96
_ANSWER_SECONDS = 60.0


class Board:
    """Runs by id. ``version`` grows with every look that found something changed.

    Raises:
        UserError: when ``root`` is not a directory.
    """

    def __init__(self, root: Path) -> None:
        try:
            self.root = root.resolve(strict=True)
        except OSError as error:
            raise UserError(f"{root}: no such directory ({error.strerror}); name the directory of your runs") from None
        if not self.root.is_dir():
            raise UserError(f"{root}: not a directory; name the directory of your runs")
        self.name = self.root.name or str(self.root)
        self.version = 0
        self.start = secrets.token_hex(4)
        self.found = Scan()
        self.answers = Answers()
        self._runs: dict[str, Run] = {}
        self._changed_at: dict[str, int] = {}
        self._looked_at = -FRESH_SECONDS
        self._lock = threading.Lock()

    def look(self, fresh: float = 0.0) -> int:
        """Look at the directories again, unless the last look is less than ``fresh`` seconds old; the version then."""
        with self._lock:
            if time.monotonic() - self._looked_at >= fresh:
                found = self._scan()
                changed = self._differences(found)
                if changed or found.trouble != self.found.trouble:
                    self.version += 1
                    self._changed_at |= dict.fromkeys(changed, self.version)
                self.found = found
                self._looked_at = time.monotonic()
            return self.version

    def read_ahead(self) -> threading.Thread:
        """Begin to read every run, so that the first viewer need not wait for it; requests go on meanwhile."""

        def read() -> None:
            for run in self.runs():
                with contextlib.suppress(UserError):  # told to whoever looks at the run
                    run.record()

        reading = threading.Thread(target=read, name="dashboard-read-ahead", daemon=True)
        reading.start()
        return reading

    def changed_since(self, version: int) -> list[str]:
        """Ids of the runs that changed, came or went after a version."""
        with self._lock:
            return sorted(id_ for id_, at in self._changed_at.items() if at > version)

    def runs(self) -> list[Run]:
        """Every run, by id."""
        self.look(FRESH_SECONDS)
        with self._lock:
            return [self._runs[id_] for id_ in sorted(self._runs)]

    def select(self, ids: Iterable[str]) -> list[Run]:
        """The runs with these ids or of these collections; all without any.

        Raises:
            KeyError: with an id that leads to no run.
        """
        runs, chosen = self.runs(), set(ids)
        unknown = chosen - {run.id for run in runs} - {run.place.collection for run in runs}
        if unknown:
            raise KeyError(min(unknown))
        return [run for run in runs if not chosen or not chosen.isdisjoint((run.id, run.place.collection))]

    def run(self, id_: str) -> Run:
        """One run. Raises: KeyError when there is none of this id."""
        self.look(FRESH_SECONDS)
        with self._lock:
            return self._runs[id_]

    def _scan(self) -> Scan:
        return scan(self.root)

    def _open(self, place: Place) -> Run:
        run = self._runs.get(place.id) or Run(self.root, place)
        run.place = place
        return run

    def _differences(self, found: Scan) -> set[str]:
        """Take over the places; ids of runs whose place is another one now."""
        old: dict[str, Place] = self.found.places
        changed = {id_ for id_ in old.keys() | found.places.keys() if old.get(id_) != found.places.get(id_)}
        for id_ in changed:
            place = found.places.get(id_)
            if place is None:
                del self._runs[id_]
            else:
                self._runs[id_] = self._open(place)
        return changed


class Answers:
    """Bodies that were made once for everybody who asks the same of the same state of the runs."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Future[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def tag(question: Sequence[Any], runs: Iterable[Run]) -> str:
        """Names a question and the state of the runs it is about."""
        parts = [__version__, question, [run.version() for run in runs]]
        return hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=16).hexdigest()

    def get(self, tag: str, make: Callable[[], bytes]) -> bytes:
        """The body of this tag; whoever asks first makes it. Raises what ``make`` raises."""
        with self._lock:
            kept = self._kept.get(tag)
            mine = kept is None
            if kept is None:
                kept = self._kept[tag] = Future()
                while len(self._kept) > _ANSWERS:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(tag)
        if mine:
            try:
                kept.set_result(make())
            except BaseException as error:
                with self._lock:
                    self._kept.pop(tag, None)
                kept.set_exception(error)
                raise
        return kept.result(timeout=_ANSWER_SECONDS)
