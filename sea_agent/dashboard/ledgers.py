"""Questions to the ledger of a run, which is opened for reading only, beside a run that may be writing to it."""

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np

from sea_agent.dashboard.files import open_plain
from sea_agent.errors import UserError
from sea_agent.types import Outcome

BINS = 10
SECONDS = 10.0
"""Longest wait for one ledger."""

TEXT_IN_LISTS = 400
Sort = Literal["newest", "oldest", "disagreement", "surprise"]

_GROWING = ("duels", "verdicts")
_ANSWERED = "d.label_source = 'oracle' AND v.outcome != 'skip'"
_DUELS = "FROM duels d LEFT JOIN verdicts v ON v.duel_id = d.id LEFT JOIN hindsight h ON h.duel_id = d.id"
# CROSS JOIN keeps the order of the tables: few duels, or few new verdicts, and then what belongs to them.
_TEXTS = (
    f"{_DUELS} CROSS JOIN responses a ON a.duel_id = d.id AND a.side = 'first' "
    "CROSS JOIN responses b ON b.duel_id = d.id AND b.side = 'second'"
)
_WINS = " ".join(f"WHEN '{one}' THEN {one.first_wins}" for one in Outcome if one.first_wins is not None)
_WON = f"CASE v.outcome {_WINS} END"
_ORDERS: dict[Sort, str] = {
    "newest": "d.round DESC, d.rowid DESC",
    "oldest": "d.round, d.rowid",
    "disagreement": "d.disagreement IS NULL, d.disagreement DESC, d.rowid",
    "surprise": f"abs(d.belief - ({_WON})) IS NULL, abs(d.belief - ({_WON})) DESC, d.rowid",
}
_COLUMNS = (
    "d.id AS id, d.round AS round, d.rule AS rule, d.label_source AS source, d.belief AS belief, "
    "d.disagreement AS disagreement, d.typical_disagreement AS typical_disagreement, h.belief AS belief_after, "
    "h.disagreement AS disagreement_after, d.policy_version AS policy_version, "
    "d.posterior_version AS posterior_version, "
    "v.outcome AS outcome, v.probability AS probability, v.annotator AS annotator, v.at AS at"
)


@dataclass
class Tally:
    """Counts of a ledger, which add up over ledgers.

    ``outcomes`` of the oracle's answers; ``bins`` of the belief hold (answers, sum of beliefs, sum of wins of the first
    response); ``seconds`` and ``intervals`` are the time between the first and the last answer and the answers after
    the first.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    posterior: int = 0
    bins: np.ndarray = field(default_factory=lambda: np.zeros((BINS, 3)))
    seconds: float = 0.0
    intervals: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def answers(self) -> int:
        """Answers of the oracle that count as queries."""
        return sum(count for outcome, count in self.outcomes.items() if outcome != "skip")

    @property
    def asked(self) -> int:
        """Duels that the oracle was asked about, whatever came of them."""
        return self.waiting + sum(self.outcomes.values())


@dataclass(frozen=True)
class Filter:
    """Which duels are looked for. ``text`` is in the prompt or in a response, upper and lower case alike."""

    text: str = ""
    outcome: str | None = None
    source: str | None = None
    first_round: int | None = None
    last_round: int | None = None

    def clause(self) -> tuple[str, dict[str, Any]]:
        """A condition of SQL and its values."""
        conditions, values = ["1"], vars(self) | {"pattern": f"%{_escaped(self.text)}%"}
        if self.text:
            conditions.append(
                "(d.prompt LIKE :pattern ESCAPE '\\' OR a.text LIKE :pattern ESCAPE '\\' "
                "OR b.text LIKE :pattern ESCAPE '\\')"
            )
        if self.outcome is not None:
            conditions.append("v.outcome IS NULL" if self.outcome == "none" else "v.outcome = :outcome")
        if self.source is not None:
            conditions.append("d.label_source = :source")
        if self.first_round is not None:
            conditions.append("d.round >= :first_round")
        if self.last_round is not None:
            conditions.append("d.round <= :last_round")
        return " AND ".join(conditions), values


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


@contextmanager
def open_ledger(root: Path, directory: Path) -> Iterator[sqlite3.Connection]:
    """The ledger of a run, to read in one transaction.

    Raises:
        UserError: when there is none, or it cannot be read, also while it is being read.
    """
    path = directory / "ledger.sqlite"
    open_plain(root, path).close()
    deadline = time.monotonic() + SECONDS
    try:
        ledger = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=SECONDS, isolation_level=None)
    except sqlite3.Error as error:
        raise UserError(f"ledger.sqlite: cannot be opened ({error})") from None
    try:
        ledger.row_factory = sqlite3.Row
        ledger.set_progress_handler(lambda: time.monotonic() > deadline, 20_000)
        ledger.execute("PRAGMA trusted_schema = OFF")
        ledger.execute("BEGIN")
        yield ledger
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", None) == "SQLITE_READONLY_ROLLBACK":
            raise UserError(
                "ledger.sqlite: the run was killed while it wrote, and only a writer can undo the half-written part: "
                "go on with the run (sea-agent resume), or open the ledger once with the tool sqlite3"
            ) from None
        raise UserError(f"ledger.sqlite: cannot be read as a ledger ({error})") from None
    finally:
        ledger.close()


@dataclass(frozen=True)
class Counts:
    """What a ledger counts.

    ``staleness`` has for each round that learnt (responses, sum, largest) of how many weight versions ago they were
    sampled. The policy that round r improves has version r - 1; responses of the frozen reference do not count.
    """

    tally: Tally
    staleness: dict[int, tuple[int, int, int]]


class GrowingCounts:
    """``Counts`` of a ledger, read on from where the last look ended: duels and verdicts only come at its end."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._asked = self._duels = self._verdicts = 0  # duels for the oracle; rows that were read
        self._mark: str | None = None  # the last duel that was read
        self._span: tuple[float, float] | None = None  # of the oracle's answers
        self._tally = Tally()
        self._staleness: dict[int, tuple[int, int, int]] = {}

    def read(self, ledger: sqlite3.Connection) -> Counts:
        """Take in what is new, and tell all. A ledger that took the place of another one is read from its start."""
        mark = ledger.execute("SELECT id FROM duels WHERE rowid = ?", (self._duels,)).fetchone()
        if self._mark != (None if mark is None else mark[0]):
            self._begin()
        newest = {name: ledger.execute(f"SELECT max(rowid) FROM {name}").fetchone()[0] or 0 for name in _GROWING}
        self._read_duels(ledger, newest["duels"])
        self._read_verdicts(ledger, newest["verdicts"])
        return Counts(Tally() + self._tally, self._staleness.copy())

    def _read_duels(self, ledger: sqlite3.Connection, newest: int) -> None:
        asked = "SELECT count(*) FROM duels WHERE rowid > ? AND label_source = 'oracle'"
        self._asked += ledger.execute(asked, (self._duels,)).fetchone()[0]
        self._duels = newest
        self._mark = ledger.execute("SELECT max(id) FROM duels WHERE rowid = ?", (newest,)).fetchone()[0]

    def _read_verdicts(self, ledger: sqlite3.Connection, newest: int) -> None:
        counts = self._tally
        newly = f"v.rowid > {self._verdicts}"
        new = f"FROM verdicts v CROSS JOIN duels d ON d.id = v.duel_id WHERE {newly}"
        for source, outcome, number in ledger.execute(
            f"SELECT d.label_source, v.outcome, count(*) {new} GROUP BY d.label_source, v.outcome"
        ):
            if source == "posterior":
                counts.posterior += number
            elif source == "oracle":
                counts.outcomes[outcome] += number
        for place, *sums in ledger.execute(
            f"SELECT min(cast(d.belief * {BINS} AS INTEGER), {BINS - 1}), count(*), sum(d.belief), sum({_WON}) {new} "
            f"AND {_ANSWERED} AND ({_WON}) IS NOT NULL AND d.belief BETWEEN 0 AND 1 GROUP BY 1"
        ):
            counts.bins[place] += sums
        first, last = ledger.execute(f"SELECT min(v.at), max(v.at) {new} AND {_ANSWERED}").fetchone()
        if first is not None:
            before = self._span or (first, last)
            self._span = min(before[0], first), max(before[1], last)
            counts.seconds, counts.intervals = self._span[1] - self._span[0], counts.answers - 1
            if not counts.seconds:
                counts.intervals = 0
        for number, responses, total, largest in ledger.execute(
            "SELECT v.round, count(*), sum(v.round - 1 - r.policy_version), max(v.round - 1 - r.policy_version) "
            "FROM verdicts v CROSS JOIN responses r ON r.duel_id = v.duel_id "
            f"WHERE {newly} AND r.policy_version >= 0 GROUP BY 1 ORDER BY 1"
        ):
            known = self._staleness.get(number, (0, 0, largest))
            self._staleness[number] = known[0] + responses, known[1] + total, max(known[2], largest)
        counts.waiting = self._asked - sum(counts.outcomes.values())
        self._verdicts = newest


def count(ledger: sqlite3.Connection, wanted: Filter) -> int:
    """How many duels there are."""
    clause, values = wanted.clause()
    tables = _TEXTS if wanted.text else _DUELS if wanted.outcome else "FROM duels d"
    return int(ledger.execute(f"SELECT count(*) {tables} WHERE {clause}", values).fetchone()[0])


def page(ledger: sqlite3.Connection, wanted: Filter, sort: Sort, offset: int, limit: int) -> list[dict[str, Any]]:
    """Some of the duels, with the beginnings of their texts."""
    clause, values = wanted.clause()
    beginnings = ", ".join(
        f"substr({column}, 1, {TEXT_IN_LISTS}) AS {name}, length({column}) > {TEXT_IN_LISTS} AS {name}_cut"
        for name, column in (("prompt", "d.prompt"), ("first", "a.text"), ("second", "b.text"))
    )
    rows = ledger.execute(
        f"SELECT {_COLUMNS}, {beginnings} {_TEXTS} WHERE {clause} ORDER BY {_ORDERS[sort]} LIMIT :limit OFFSET :offset",
        values | {"limit": limit, "offset": offset},
    )
    return [dict(row) for row in rows]


def every(ledger: sqlite3.Connection, wanted: Filter, sort: Sort) -> Iterator[dict[str, Any]]:
    """All of the duels, with whole texts."""
    clause, values = wanted.clause()
    texts = "d.prompt AS prompt, a.text AS first, b.text AS second"
    for row in ledger.execute(f"SELECT {_COLUMNS}, {texts} {_TEXTS} WHERE {clause} ORDER BY {_ORDERS[sort]}", values):
        yield dict(row)


def duel(ledger: sqlite3.Connection, id_: str) -> dict[str, Any] | None:
    """One duel with whole texts, and the share of the run's duels about which the posterior disagreed less."""
    texts = (
        "d.prompt AS prompt, a.text AS first, b.text AS second, a.policy_version AS first_version, "
        "b.policy_version AS second_version, json_array_length(a.tokens) AS first_tokens, "
        "json_array_length(b.tokens) AS second_tokens"
    )
    row = ledger.execute(f"SELECT {_COLUMNS}, {texts} {_TEXTS} WHERE d.id = ?", (id_,)).fetchone()
    if row is None:
        return None
    less, known = ledger.execute(
        "SELECT sum(disagreement < ?), count(disagreement) FROM duels", (row["disagreement"],)
    ).fetchone()
    return {**dict(row), "disagreement_above": less / known if less is not None and known else None}
