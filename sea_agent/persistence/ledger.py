"""The ledger: every duel before it is asked, every verdict before it is trained on.

One SQLite file with a rollback journal and full synchronisation, written by one process. The count of oracle
queries that a run reports is the count of rows in here, nothing else.

A run that is resumed goes back to its checkpoint and lives the rounds after it again. The ledger does not go back: it
hands out what these rounds asked and were answered the first time, so that nobody is asked twice. It also keeps the
checksum of the weights behind a round, by which a life that computes otherwise is told.
"""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sea_agent.errors import UserError
from sea_agent.types import Answer, Duel, Hindsight, LabelSource, Outcome, Prompt, Response, Verdict, prompt_from

SqlRow = tuple[Any, ...]

ERASED = "erased"
"""Who answered a duel whose texts were erased."""
_END = 2**62  # a round that no run comes to

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
    disagreement REAL,
    typical_disagreement REAL
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
    votes INTEGER NOT NULL,
    round INTEGER NOT NULL,
    at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS answers (
    duel_id TEXT NOT NULL REFERENCES verdicts (duel_id),
    place INTEGER NOT NULL,
    annotator TEXT NOT NULL,
    outcome TEXT NOT NULL,
    PRIMARY KEY (duel_id, place)
) STRICT;
CREATE TABLE IF NOT EXISTS not_by_chance (
    duel_id TEXT PRIMARY KEY REFERENCES duels (id)
) STRICT;
CREATE TABLE IF NOT EXISTS rounds (
    round INTEGER PRIMARY KEY,
    weights TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS duels_at_hand ON duels (id, round, label_source);
CREATE INDEX IF NOT EXISTS duels_by_round ON duels (round);
CREATE TABLE IF NOT EXISTS hindsight (
    duel_id TEXT PRIMARY KEY REFERENCES duels (id),
    belief REAL NOT NULL,
    disagreement REAL NOT NULL
) STRICT;
"""

_ORACLE_ANSWERS = """
SELECT count(*) FROM verdicts v JOIN duels d ON d.id = v.duel_id WHERE d.label_source = ? AND v.outcome != ?
"""

_WRITTEN = "SELECT d.id, v.duel_id IS NOT NULL FROM duels d LEFT JOIN verdicts v ON v.duel_id = d.id WHERE d.id IN"
_ANNOTATORS = """
SELECT count(DISTINCT v.annotator) FROM verdicts v JOIN duels d ON d.id = v.duel_id
WHERE d.label_source = ? AND v.outcome != ? AND v.annotator != ?
"""

_SELECT = """
SELECT d.id, d.round, d.prompt_id, d.prompt, d.prompt_tokens, d.prompt_messages, d.rule, d.policy_version,
       d.posterior_version, d.label_source, d.belief, d.disagreement, d.typical_disagreement,
       a.id, a.text, a.tokens, a.logprobs, a.policy_version,
       b.id, b.text, b.tokens, b.logprobs, b.policy_version,
       NOT EXISTS (SELECT 1 FROM not_by_chance WHERE duel_id = d.id),
       v.outcome, v.probability, v.annotator, v.votes, v.round, v.at,
       (SELECT json_group_array(json_array(annotator, outcome))
        FROM (SELECT annotator, outcome FROM answers WHERE duel_id = d.id ORDER BY place))
FROM duels d
JOIN responses a ON a.duel_id = d.id AND a.side = 'first'
JOIN responses b ON b.duel_id = d.id AND b.side = 'second'
LEFT JOIN verdicts v ON v.duel_id = d.id
"""
# The texts of a duel lie in pages of their own, so what needs none of them is read from the index.
_COUNTS = """
SELECT d.label_source, count(*) FROM verdicts v CROSS JOIN duels d INDEXED BY duels_at_hand ON d.id = v.duel_id
WHERE v.round <= ? AND v.outcome != ? GROUP BY d.label_source
"""
_UNSETTLED = f"""{_SELECT} WHERE d.id IN (
    SELECT d.id FROM duels d INDEXED BY duels_at_hand LEFT JOIN verdicts v ON v.duel_id = d.id
    WHERE d.round > :round OR v.round IS NULL OR v.round > :round
) ORDER BY d.round, d.rowid
"""
_ROWS = f"{_SELECT} ORDER BY d.round, d.rowid"
_NEXT_ROWS = f"""{_SELECT}
WHERE d.rowid > coalesce((SELECT rowid FROM duels WHERE id = ?), 0) ORDER BY d.rowid LIMIT ?
"""
_ROWS_AT_ONCE = 500


class Ledger:
    """Duels and verdicts on disk. A duel and a verdict can be written once; a second write is an error.

    Rounds come in order. ``rewind`` goes back to an earlier one.
    """

    def __init__(self, path: Path | str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("PRAGMA busy_timeout = 30000")
        self._db.executescript(_SCHEMA)
        self.rewind(_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def rewind(self, number: int) -> list[Duel]:
        """Go back to the end of round ``number``.

        Returns the duels of the oracle that had no verdict at that time, in the order they were written.
        """
        counts = self._db.execute(_COUNTS, (number, Outcome.SKIP))
        self._answered = Counter({LabelSource(source): count for source, count in counts})
        self._duels_to_come: dict[int, list[Duel]] = {}
        self._verdicts_to_come: dict[int, dict[str, Verdict]] = {}
        waiting = []
        for duel, verdict, answered_in in map(_parse, self._db.execute(_UNSETTLED, {"round": number})):
            if duel.round > number:
                self._duels_to_come.setdefault(duel.round, []).append(duel)
            elif duel.label_source is LabelSource.ORACLE:
                waiting.append(duel)
            if verdict is not None and answered_in is not None:
                self._verdicts_to_come.setdefault(answered_in, {})[duel.id] = verdict
        return waiting

    def add_duels(self, duels: Sequence[Duel], number: int, weights: str | None = None) -> list[Duel]:
        """Write the duels of round ``number`` before anybody is asked, all of them or none.

        ``weights`` is the checksum of the policy that is asked about.

        Returns the round's duels: those that were written the first time, where it is lived again. A round that did not
        ask the first time gets the duels of the next one that did: they are paid for.
        """
        if self.comes_back(number):
            return self._duels_to_come.pop(min(self._duels_to_come))
        self._write(
            ("INSERT OR REPLACE INTO rounds VALUES (?, ?)", [] if weights is None else [(number, weights)]),
            ("INSERT INTO duels VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [_duel_row(duel) for duel in duels]),
            (
                "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    _response_row(duel.id, side, response)
                    for duel in duels
                    for side, response in (("first", duel.first), ("second", duel.second))
                ],
            ),
            ("INSERT INTO not_by_chance VALUES (?)", [(duel.id,) for duel in duels if not duel.by_chance]),
        )
        return list(duels)

    def comes_back(self, number: int) -> bool:
        """Whether round ``number``, if it asks, has its duels from an earlier life."""
        coming = min(self._duels_to_come, default=_END)
        return coming < _END and (coming <= number or self.weights_behind(number) is None)

    def weights_behind(self, number: int) -> str | None:
        """The checksum of the weights that round ``number`` asked about; None if it did not ask."""
        found = self._db.execute("SELECT weights FROM rounds WHERE round = ?", (number,)).fetchone()
        return None if found is None else str(found[0])

    def asking_round(self, number: int, back: int) -> int:
        """The round that asked ``back`` such rounds before ``number``, which asks too; 0 where there were fewer."""
        if not back:
            return number
        found = self._db.execute(
            "SELECT round FROM rounds WHERE round < ? ORDER BY round DESC LIMIT 1 OFFSET ?", (number, back - 1)
        ).fetchone()
        return 0 if found is None else int(found[0])

    def recorded(self, duels: Iterable[Duel], number: int) -> list[Verdict]:
        """The verdicts on these duels that rounds up to ``number`` were given the first time; they count from now on.

        Duels that came early bring those of their own round.
        """
        found = [
            (duel, waiting.pop(duel.id))
            for duel in duels
            for given_in, waiting in self._verdicts_to_come.items()
            if given_in <= max(number, duel.round) and duel.id in waiting
        ]
        for duel, verdict in found:
            self._count(duel, verdict)
        return [verdict for _, verdict in found]

    def unanswered(self, duels: Iterable[Duel]) -> list[Duel]:
        """Those of the duels on which no round, past or to be lived again, has a verdict."""
        to_come = {duel_id for round_ in self._verdicts_to_come.values() for duel_id in round_}
        return [duel for duel in duels if duel.id not in to_come]

    def written(self, ids: Sequence[str]) -> dict[str, bool]:
        """Those of the ids that are of a duel in the file, and whether it has a verdict; rounds that are to be lived
        again included."""
        found: dict[str, bool] = {}
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            part = ids[start : start + _ROWS_AT_ONCE]
            rows = self._db.execute(f"{_WRITTEN} ({', '.join('?' * len(part))})", part)
            found |= {id_: bool(answered) for id_, answered in rows}
        return found

    def answers(self, number: int) -> list[tuple[int, list[tuple[Duel, Verdict]]]]:
        """The oracle's answers that rounds up to ``number`` were given, those to erased duels left out, by round."""
        rounds: dict[int, list[tuple[Duel, Verdict]]] = {}
        for duel, verdict, given_in in map(_parse, self._db.execute(_ROWS)):
            if verdict is None or given_in is None or duel.is_erased or given_in > number:
                continue
            if duel.label_source is LabelSource.ORACLE:
                rounds.setdefault(given_in, []).append((duel, verdict))
        return sorted(rounds.items())

    def add_verdicts(self, duels: Iterable[Duel], verdicts: Sequence[Verdict], number: int) -> None:
        """Write verdicts on ``duels`` in round ``number`` before anybody trains on them, all of them or none."""
        rows: list[SqlRow] = [
            (v.duel_id, v.outcome.value, v.probability, v.annotator, v.votes, number, v.at) for v in verdicts
        ]
        answers: list[SqlRow] = [
            (verdict.duel_id, place, answer.annotator, answer.outcome.value)
            for verdict in verdicts
            for place, answer in enumerate(verdict.answers)
        ]
        self._write(
            ("INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?)", rows),
            ("INSERT INTO answers VALUES (?, ?, ?, ?)", answers),
        )
        by_id = {duel.id: duel for duel in duels}
        for verdict in verdicts:
            self._count(by_id[verdict.duel_id], verdict)

    def add_hindsight(self, beliefs: Iterable[Hindsight]) -> None:
        """Write what the posterior believes of duels after it has learnt from their answers; the latest stays."""
        rows: list[SqlRow] = [(one.duel_id, one.belief, one.disagreement) for one in beliefs]
        self._write(("INSERT OR REPLACE INTO hindsight VALUES (?, ?, ?)", rows))

    def erase(self, ids: Sequence[str]) -> int:
        """Blank the texts and tokens of these duels, and who answered them, as far as they are here; the number found.

        Rows and counts stay. The file is written anew, so that no free page holds what was erased.
        """
        found = sorted(self.written(ids))
        if not found:
            return 0
        rows: list[SqlRow] = [(id_,) for id_ in found]
        self._db.execute("PRAGMA secure_delete = ON")
        self._write(
            (
                "UPDATE duels SET prompt_id = 'erased', prompt = '', prompt_tokens = '[]', prompt_messages = NULL "
                "WHERE id = ?",
                rows,
            ),
            ("UPDATE responses SET text = '', tokens = '[]', logprobs = '[]' WHERE duel_id = ?", rows),
            (f"UPDATE verdicts SET annotator = '{ERASED}' WHERE duel_id = ?", rows),
            (f"UPDATE answers SET annotator = '{ERASED}' WHERE duel_id = ?", rows),
            ("DELETE FROM hindsight WHERE duel_id = ?", rows),
        )
        self._db.execute("VACUUM")
        for rounds in self._duels_to_come.values():
            rounds[:] = [_blank(duel) if duel.id in found else duel for duel in rounds]
        return len(found)

    def annotators(self) -> int:
        """How many people gave the oracle's answers so far; those that were erased do not count."""
        return int(self._db.execute(_ANNOTATORS, (LabelSource.ORACLE, Outcome.SKIP, ERASED)).fetchone()[0])

    @property
    def oracle_queries(self) -> int:
        """Answers of the oracle so far: what the budget counts."""
        return self._answered[LabelSource.ORACLE]

    @property
    def posterior_labels(self) -> int:
        """Duels labelled by the posterior so far; they cost no query."""
        return self._answered[LabelSource.POSTERIOR]

    @property
    def imported_preferences(self) -> int:
        """Preferences that the run was given to begin with; they cost no query."""
        return self._answered[LabelSource.DEMO]

    @property
    def oracle_answers_written(self) -> int:
        """Answers of the oracle in the file, those of rounds that are still to be lived again included."""
        return int(self._db.execute(_ORACLE_ANSWERS, (LabelSource.ORACLE, Outcome.SKIP)).fetchone()[0])

    def rows(self) -> list[tuple[Duel, Verdict | None]]:
        """Every duel in the order it was written, with its verdict where there is one."""
        return [_parse(row)[:2] for row in self._db.execute(_ROWS)]

    def digest(self) -> str:
        """A digest of everything but the times of the verdicts: equal for two runs of one seed."""
        digest = hashlib.blake2b(digest_size=16)
        for row in self._db.execute(_ROWS):
            digest.update(json.dumps(row[:-2]).encode())
        for table in ("hindsight ORDER BY duel_id", "rounds ORDER BY round", "answers ORDER BY duel_id, place"):
            for row in self._db.execute(f"SELECT * FROM {table}"):
                digest.update(json.dumps(row).encode())
        return digest.hexdigest()

    def _count(self, duel: Duel, verdict: Verdict) -> None:
        if verdict.outcome is not Outcome.SKIP:
            self._answered[duel.label_source] += 1

    def _write(self, *statements: tuple[str, list[SqlRow]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for sql, rows in statements:
                self._db.executemany(sql, rows)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def read_ledger(path: Path) -> Iterator[tuple[Duel, Verdict | None]]:
    """Every duel of a ledger that a run may be writing to, with its verdict where there is one.

    The file is opened read-only and read in short pieces, so that no run has to wait for its reader.

    Raises:
        UserError: when it is not a ledger, or cannot be read.
    """
    last = ""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            db.execute("PRAGMA busy_timeout = 30000")
            while rows := db.execute(_NEXT_ROWS, (last, _ROWS_AT_ONCE)).fetchall():
                yield from (_parse(row)[:2] for row in rows)
                last = rows[-1][0]
    except sqlite3.Error as error:
        raise UserError(f"{path}: cannot be read as the ledger of a run ({error})") from None


def _blank(duel: Duel) -> Duel:
    """The duel as it is read once its texts are erased."""
    prompt = Prompt("erased", "", ())
    first, second = (
        replace(side, prompt_id=prompt.id, text="", token_ids=(), logprobs=()) for side in (duel.first, duel.second)
    )
    return replace(duel, prompt=prompt, first=first, second=second)


def _duel_row(duel: Duel) -> SqlRow:
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
        duel.typical_disagreement,
    )


def _response_row(duel_id: str, side: str, response: Response) -> SqlRow:
    tokens, logprobs = json.dumps(response.token_ids), json.dumps(response.logprobs)
    return (duel_id, side, response.id, response.text, tokens, logprobs, response.policy_version)


def _parse(row: SqlRow) -> tuple[Duel, Verdict | None, int | None]:
    """A duel with its verdict and the round in which that was given."""
    duel_id, number, prompt_id, text, tokens, messages, rule, policy_version, posterior_version, source = row[:10]
    said = None if messages is None else json.loads(messages)
    prompt = prompt_from({"id": prompt_id, "text": text, "token_ids": json.loads(tokens), "messages": said})
    first, second = (
        Response(id_, prompt_id, text, tuple(json.loads(ids)), tuple(json.loads(logprobs)), version)
        for id_, text, ids, logprobs, version in (row[13:18], row[18:23])
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
        typical_disagreement=row[12],
        by_chance=bool(row[23]),
    )
    outcome, probability, annotator, votes, answered_in, at, answers = row[24:]
    if outcome is None:
        return duel, None, None
    said_by = tuple(Answer(name, Outcome(what)) for name, what in json.loads(answers))
    return duel, Verdict(duel_id, Outcome(outcome), annotator, at, probability, votes, said_by), answered_in
