"""One run as its directory tells it, read again only where a file has changed."""

import math
import threading
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Generic, TypeVar

from sea_agent.config.files import load_tree
from sea_agent.dashboard.files import Stamp, Tail, open_plain, require_small
from sea_agent.dashboard.ledgers import Counts, GrowingCounts, open_ledger
from sea_agent.dashboard.scan import Place, RunState
from sea_agent.errors import UserError
from sea_agent.lab.reading import CurveColumns, configured, make_record
from sea_agent.lab.records import Record, read_json
from sea_agent.persistence.rounds import RoundMetrics

LARGEST_METRICS = 512 * 2**20
LARGEST_OTHER = 4 * 2**20
MOST_COLUMNS = 300
ERROR_CHARACTERS = 2000

T = TypeVar("T")


class Kept(Generic[T]):
    """What was made of files, or how that failed; made anew when a stamp of theirs has changed."""

    def __init__(self) -> None:
        self._stamps: object = self  # equal to no stamps
        self._made: T | UserError

    def get(self, stamps: object, make: Callable[[], T]) -> T:
        """What ``make`` gave for these stamps. Raises: UserError when it could not."""
        if self._stamps != stamps:
            try:
                self._made = make()
            except UserError as error:
                self._made = error
            except OSError as error:
                self._made = UserError(f"{error.filename or 'a file'}: cannot be read ({error.strerror})")
            except RecursionError:
                self._made = UserError("nested too deeply to be read")
            self._stamps = stamps
        if isinstance(self._made, UserError):
            raise self._made
        return self._made


class GrowingMetrics:
    """``metrics.jsonl``, read on from where the last look ended.

    ``columns`` holds the numbers of every row by name; None where a row has no such number, or none that is finite.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self._root, self._path = root, path
        self._begin()

    def _begin(self) -> None:
        self._tail = Tail(self._root, self._path, LARGEST_METRICS)
        self.curve = CurveColumns(self._path)
        self.columns: dict[str, list[float | None]] = {}
        self._count = 0
        self._broken: UserError | None = None
        self._took_rest = False

    def read(self, *, ended: bool) -> None:
        """Take in what is new; of a run that has ``ended`` also a last line without an end.

        Raises:
            UserError: when the file is not the metrics of a run.
        """
        lines = None if self._took_rest else self._tail.new_lines()
        if lines is None:
            self._begin()
            lines = self._tail.new_lines() or []
        if ended and self._tail.rest:
            lines.append(self._tail.rest)
            self._took_rest = True
        if self._broken is None:
            try:
                for line in lines:
                    self._add(RoundMetrics.parse(line, self._path))
            except UserError as error:
                self._broken = error
        if self._broken is not None:
            raise self._broken

    def _add(self, row: RoundMetrics) -> None:
        self.curve.add(row)
        numbers = {name: number for name, number in row.numbers().items() if math.isfinite(number)}
        for name in list(numbers)[:MOST_COLUMNS]:
            if name not in self.columns and len(self.columns) < MOST_COLUMNS:
                self.columns[name] = [None] * self._count
        for name, column in self.columns.items():
            column.append(numbers.get(name))
        self._count += 1


def made_from(*names: str) -> Callable[[Callable[["Run"], T]], Callable[["Run"], T]]:
    """A method of ``Run`` whose value is made anew only when one of these files of the run has changed."""

    def keeps(make: Callable[["Run"], T]) -> Callable[["Run"], T]:
        @wraps(make)
        def get(run: "Run") -> T:
            return run.made(make, names)

        return get

    return keeps


class Run:
    """A run's directory. Every method may raise UserError, naming what is wrong; the others then still answer."""

    def __init__(self, root: Path, place: Place) -> None:
        self.place = place
        self.root = root
        self._lock = threading.RLock()
        self._made: dict[object, Kept[Any]] = defaultdict(Kept)
        self._metrics = GrowingMetrics(root, place.path / "metrics.jsonl")
        self._counts = GrowingCounts()

    def made(self, make: Callable[["Run"], T], names: tuple[str, ...]) -> T:
        """What ``make`` gives of this run for the files as they are now."""
        stamps: tuple[Stamp | None, ...] = tuple(self.place.files.get(name) for name in names)
        with self._lock:
            kept: Kept[T] = self._made[make]
            return kept.get(stamps, lambda: make(self))

    @property
    def id(self) -> str:
        """Its path below the root."""
        return self.place.id

    def version(self) -> tuple[Any, ...]:
        """Changes when anything of the run does."""
        return (self.place.id, self.place.state, sorted(self.place.files.items()), self.place.trouble)

    @made_from("config.yaml")
    def config(self) -> dict[str, Any]:
        """``config.yaml`` as it stands."""
        return load_tree(str(self._small("config.yaml")))

    @made_from("config.yaml")
    def asks(self) -> str | None:
        """The run of the feedback service in which people answer its duels; None when it asks nobody there."""
        try:
            oracle = self.config().get("oracle")
        except UserError:
            return None  # who cannot be told to be in a run is in none
        if not isinstance(oracle, dict) or oracle.get("kind") != "feedback_service":
            return None
        return str(oracle.get("run"))

    @made_from("config.yaml", "cell.json")
    def facts(self) -> dict[str, Any]:
        """World, loss, labels, method, seed and what else a record takes from the configuration and the cell."""
        return configured(self._small("config.yaml")) | self._object("cell.json")

    @made_from("summary.json")
    def summary(self) -> dict[str, Any]:
        """``summary.json``; empty while the run is not finished."""
        return self._object("summary.json")

    @made_from("config.yaml", "cell.json", "metrics.jsonl", "summary.json", "error.txt")
    def record(self) -> Record:
        """The record of a comparison, the same as ``sea_agent.lab.reading`` makes of a finished run.

        A run that is not finished counts with the budget that it has spent, so that a level it has not reached bounds
        the queries it needs from below.
        """
        curve = self._read_metrics().curve.tree()
        spent = {} if self.place.state is RunState.FINISHED else {"budget": max(1, curve["queries"][-1])}
        return make_record(self.place.path, self.facts() | spent, self.summary(), curve)

    def rounds(self) -> dict[str, list[float | None]]:
        """The columns of ``GrowingMetrics`` so far."""
        with self._lock:
            return {name: column.copy() for name, column in self._read_metrics().columns.items()}

    @made_from("ledger.sqlite")
    def counts(self) -> Counts:
        """What the ledger counts so far."""
        with open_ledger(self.root, self.place.path) as ledger:
            return self._counts.read(ledger)

    def error(self) -> str:
        """The end of ``error.txt``; empty without one."""
        if "error.txt" not in self.place.files:
            return ""
        with open_plain(self.root, self.place.path / "error.txt") as file:
            file.seek(max(0, self.place.files["error.txt"][1] - ERROR_CHARACTERS))
            return file.read(ERROR_CHARACTERS).decode(errors="replace")

    @made_from("metrics.jsonl", "summary.json")
    def _read_metrics(self) -> GrowingMetrics:
        self._metrics.read(ended=self.place.state is RunState.FINISHED)
        return self._metrics

    def _object(self, name: str) -> dict[str, Any]:
        """A JSON object that need not be there."""
        return read_json(self._small(name)) if name in self.place.files else {}

    def _small(self, name: str) -> Path:
        path = self.place.path / name
        require_small(self.root, path, LARGEST_OTHER)
        return path
