"""The ledger: every duel before it is asked, every verdict before it is trained on.

One SQLite file with a rollback journal and full synchronisation, written by one process. The count of oracle
queries that a run reports is the count of rows in here, nothing else.
"""

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sea_agent.types import Duel, LabelSource, Outcome, Prompt, Response, Verdict

Row = tuple[Any, ...]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS duels (
    id TEXT PRIMARY KEY,
    round INTEGER NOT NULL,
    prompt_id TEXT NOT NULL,
    prompt TEXT NOT NULL,
    prompt_tokens TEXT NOT NULL,
    prompt_messages TEXT,
    rule TEXT NOT NULL,
    policy_version INTEGER NOT NULL,
    posterior_version INTEGER NOT NULL,
    label_source TEXT NOT NULL,
    belief REAL,
    disagreement REAL
) STRICT;
CREATE TABLE IF NOT EXISTS responses (
    duel_id TEXT NOT NULL REFERENCES duels (id),
    side TEXT NOT NULL CHECK (side IN ('first', 'second')),
    id TEXT NOT NULL,
    text TEXT NOT NULL,
    tokens TEXT NOT NULL,
    logprobs TEXT NOT NULL,
    policy_version INTEGER NOT NULL,
    PRIMARY KEY (duel_id, side)
) STRICT;
CREATE TABLE IF NOT EXISTS verdicts (
    duel_id TEXT PRIMARY KEY REFERENCES duels (id),
    outcome TEXT NOT NULL,
    probability REAL,
    annotator TEXT NOT NULL,
    at REAL NOT NULL
) STRICT;
"""

_COUNT = """
SELECT count(*) FROM verdicts JOIN duels ON duels.id = verdicts.duel_id
WHERE duels.label_source = ? AND verdicts.outcome != 'skip'
"""

_ROWS = """
SELECT d.id, d.round, d.prompt_id, d.prompt, d.prompt_tokens, d.prompt_messages, d.rule, d.policy_version,
       d.posterior_version, d.label_source, d.belief, d.disagreement,
       a.id, a.text, a.tokens, a.logprobs, a.policy_version,
       b.id, b.text, b.tokens, b.logprobs, b.policy_version,
       v.outcome, v.probability, v.annotator, v.at
FROM duels d
JOIN responses a ON a.duel_id = d.id AND a.side = 'first'
JOIN responses b ON b.duel_id = d.id AND b.side = 'second'
LEFT JOIN verdicts v ON v.duel_id = d.id
ORDER BY d.round, d.rowid
"""


class Ledger:
    """Duels and verdicts on disk. A duel and a verdict can be written once; a second write is an error."""

    def __init__(self, path: Path | str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("PRAGMA busy_timeout = 30000")
        self._db.executescript(_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add_duels(self, duels: Sequence[Duel]) -> None:
        """Write duels before anybody is asked, all of them or none."""
        self._write(
            ("INSERT INTO duels VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [_duel_row(duel) for duel in duels]),
            (
                "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    _response_row(duel.id, side, response)
                    for duel in duels
                    for side, response in (("first", duel.first), ("second", duel.second))
                ],
            ),
        )

    def add_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """Write verdicts before anybody trains on them, all of them or none."""
        rows: list[Row] = [(v.duel_id, v.outcome.value, v.probability, v.annotator, v.at) for v in verdicts]
        self._write(("INSERT INTO verdicts VALUES (?, ?, ?, ?, ?)", rows))

    @property
    def oracle_queries(self) -> int:
        """Answers of the oracle so far: what the budget counts."""
        return self._count(LabelSource.ORACLE)

    @property
    def posterior_labels(self) -> int:
        """Duels labelled by the posterior so far; they cost no query."""
        return self._count(LabelSource.POSTERIOR)

    def rows(self) -> list[tuple[Duel, Verdict | None]]:
        """Every duel in the order it was written, with its verdict where there is one."""
        return [_parse(row) for row in self._db.execute(_ROWS)]

    def digest(self) -> str:
        """A digest of everything but the times of the verdicts: equal for two runs of one seed."""
        digest = hashlib.blake2b(digest_size=16)
        for row in self._db.execute(_ROWS):
            digest.update(json.dumps(row[:-1]).encode())
        return digest.hexdigest()

    def _count(self, source: LabelSource) -> int:
        return int(self._db.execute(_COUNT, (source.value,)).fetchone()[0])

    def _write(self, *statements: tuple[str, list[Row]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for sql, rows in statements:
                self._db.executemany(sql, rows)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _duel_row(duel: Duel) -> Row:
    prompt = duel.prompt
    return (
        duel.id,
        duel.round,
        prompt.id,
        prompt.text,
        json.dumps(prompt.token_ids),
        None if prompt.messages is None else json.dumps(prompt.messages),
        duel.rule,
        duel.policy_version,
        duel.posterior_version,
        duel.label_source.value,
        duel.belief,
        duel.disagreement,
    )


def _response_row(duel_id: str, side: str, response: Response) -> Row:
    tokens, logprobs = json.dumps(response.token_ids), json.dumps(response.logprobs)
    return (duel_id, side, response.id, response.text, tokens, logprobs, response.policy_version)


def _parse(row: Row) -> tuple[Duel, Verdict | None]:
    duel_id, number, prompt_id, text, tokens, messages, rule, policy_version, posterior_version, source = row[:10]
    pairs = None if messages is None else tuple((role, content) for role, content in json.loads(messages))
    prompt = Prompt(prompt_id, text, tuple(json.loads(tokens)), pairs)
    first, second = (
        Response(id_, prompt_id, text, tuple(json.loads(ids)), tuple(json.loads(logprobs)), version)
        for id_, text, ids, logprobs, version in (row[12:17], row[17:22])
    )
    duel = Duel(
        id=duel_id,
        round=number,
        prompt=prompt,
        first=first,
        second=second,
        rule=rule,
        policy_version=policy_version,
        posterior_version=posterior_version,
        label_source=LabelSource(source),
        belief=row[10],
        disagreement=row[11],
    )
    outcome, probability, annotator, at = row[22:]
    return duel, None if outcome is None else Verdict(duel_id, Outcome(outcome), annotator, at, probability)
