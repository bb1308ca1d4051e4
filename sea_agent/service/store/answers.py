"""The label log with every correction applied. Nothing here writes.

The log is append-only, so its state at any earlier length can be read later.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, Connection, Integer, Row, bindparam, func, literal, select, union_all

from sea_agent.service.store.queries import digest_of
from sea_agent.service.store.tables import labels, leases, queries, runs

_RUN: BindParameter[str] = bindparam("of_run")
_UP_TO: BindParameter[int] = bindparam("up_to_seq")
_AFTER: BindParameter[int] = bindparam("after_seq")
_QUERIES: BindParameter[Sequence[str]] = bindparam("of_queries", expanding=True)


@dataclass(frozen=True, slots=True)
class Given:
    """An answer as it stands: its first entry in the log and the one that holds, which are the same unless revised."""

    first: Row[Any]
    holds: Row[Any]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A duel that was voted on, its votes as they stand, and where in the log the first of them is."""

    query: Row[Any]
    votes: Sequence[Given]
    seq: int


_OF_RUN = (
    select(
        labels.c.id,
        labels.c.revises,
        labels.c.query_id,
        labels.c.annotator,
        labels.c.kind,
        labels.c.outcome,
        labels.c.swapped,
        labels.c.late,
        labels.c.elapsed_ms,
        labels.c.at,
        queries.c.gold,
    )
    .join(queries, queries.c.id == labels.c.query_id)
    .where(labels.c.run == _RUN)
    .order_by(labels.c.seq)
)
_SKIPS = (
    select(leases.c.annotator, func.count().label("skips"))
    .where(leases.c.run == _RUN, leases.c.state == "skipped")
    .group_by(leases.c.annotator)
)

_ASKED = select(runs.c.last_seq, runs.c.qualification, runs.c.qualifying_share).where(runs.c.id == _RUN)
_BY_PERSON = union_all(
    select(labels.c.annotator, literal("answered"), func.count())
    .where(labels.c.run == _RUN)
    .group_by(labels.c.annotator),
    select(leases.c.annotator, literal("skipped"), func.count())
    .where(leases.c.run == _RUN, leases.c.state == "skipped")
    .group_by(leases.c.annotator),
)

_vote = labels.alias("vote")
_IS_VOTE = (labels.c.kind == "vote", labels.c.revises.is_(None))
_earlier = labels.alias("earlier")
# Duels in the order of their first votes: the log's primary key leads from one to the next. Those whose texts were
# erased have nothing to learn from.
_PAGE = (
    select(queries, labels.c.seq)
    .join(queries, queries.c.id == labels.c.query_id)
    .where(labels.c.run == _RUN, labels.c.seq > _AFTER, labels.c.seq <= _UP_TO, *_IS_VOTE)
    .where(queries.c.erased_at.is_(None))
    .where(
        ~select(_earlier.c.seq)
        .where(
            _earlier.c.query_id == labels.c.query_id,
            _earlier.c.kind == "vote",
            _earlier.c.revises.is_(None),
            _earlier.c.seq < labels.c.seq,
        )
        .exists()
    )
    .order_by(labels.c.seq)
    .limit(bindparam("at_most", type_=Integer))
)
_VOTES = select(labels).where(labels.c.query_id.in_(_QUERIES), labels.c.seq <= _UP_TO, *_IS_VOTE)
_REVISIONS = (
    select(labels)
    .join(_vote, labels.c.revises == _vote.c.id)
    .where(_vote.c.query_id.in_(_QUERIES), _vote.c.kind == "vote", _vote.c.revises.is_(None), labels.c.seq <= _UP_TO)
)


def of_run(connection: Connection, run: str) -> list[Given]:
    """Every answer in a run, repeats and gold too, in the order in which they were first given."""
    return as_they_stand(connection.execute(_OF_RUN, {"of_run": run}))


def version(connection: Connection, run: str) -> str:
    """What changes whenever the answers of a run, its skips, the names of who gave them, or what it asks of a
    qualification change."""
    asked = connection.execute(_ASKED, {"of_run": run}).one()
    by_person = connection.execute(_BY_PERSON, {"of_run": run})
    return digest_of([list(asked), sorted([*row] for row in by_person)])


def skips(connection: Connection, run: str) -> dict[str, int]:
    """By annotator: how many duels they skipped."""
    return {row.annotator: row.skips for row in connection.execute(_SKIPS, {"of_run": run})}


def page(connection: Connection, run: str, after_seq: int, up_to_seq: int, at_most: int) -> list[Labelled]:
    """Voted duels that have their texts, as they stood when the log was ``up_to_seq`` long; their first votes lie after
    ``after_seq``."""
    known = {"of_run": run, "after_seq": after_seq, "up_to_seq": up_to_seq, "at_most": at_most}
    found = connection.execute(_PAGE, known).all()
    of_page = {"of_queries": [query.id for query in found], "up_to_seq": up_to_seq}
    entries = [*connection.execute(_VOTES, of_page), *connection.execute(_REVISIONS, of_page)]
    votes: dict[str, list[Given]] = defaultdict(list)
    for given in as_they_stand(sorted(entries, key=lambda entry: entry.seq)):
        votes[given.first.query_id].append(given)
    return [Labelled(query, votes[query.id], query.seq) for query in found]


def as_they_stand(entries: Iterable[Row[Any]]) -> list[Given]:
    """Entries of the log, in its order, with each correction in the place of what it corrects."""
    given: dict[str, Given] = {}
    for entry in entries:
        root = entry.revises or entry.id
        given[root] = Given(given[root].first if root in given else entry, entry)
    return list(given.values())
