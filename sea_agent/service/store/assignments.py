"""Duels and whole runs that are for some annotators only: who has which, and handing them out.

A duel with names of its own is for these, any other of a run with names for those, and the rest are for everybody.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Column, Connection, Row, bindparam, delete, exists, insert, select, true, update

from sea_agent.service.store.faults import Conflict, Missing
from sea_agent.service.store.leases import end_live, sweep
from sea_agent.service.store.queries import take_back
from sea_agent.service.store.runs import get, last_seq
from sea_agent.service.store.tables import assignments, leases, queries, run_assignments

MOST_AT_ONCE = 10_000
"""Duels that are handed out in one transaction: nothing else is written meanwhile."""

_NAMED = queries.c.id.in_(select(assignments.c.query_id))
_FREE_IF_NOBODYS = (
    update(queries)
    .where(queries.c.id == bindparam("which"), ~exists().where(assignments.c.query_id == queries.c.id))
    .values(assigned=False)
)


@dataclass(frozen=True, slots=True)
class HandOut:
    """Duels for whom, what ``share`` of those there are or how many, and each for how many (None: its votes)."""

    annotators: Sequence[str]
    share: float | None
    count: int | None
    each: int | None


def of(connection: Connection, query_ids: Iterable[str]) -> dict[str, list[str]]:
    """Who the duels are for, by duel; a duel for everybody is not there."""
    return _named(connection, assignments.c.query_id, query_ids)


def assign(connection: Connection, query_id: str, annotators: Sequence[str]) -> None:
    """Let a duel be for these annotators only, or for everybody if there are none; others who hold it lose it."""
    connection.execute(delete(assignments).where(assignments.c.query_id == query_id))
    if annotators:
        take_back(connection, query_id, leases.c.annotator.not_in(list(annotators)))
        _insert(connection, [(query_id, annotator) for annotator in dict.fromkeys(annotators)])
    connection.execute(update(queries).where(queries.c.id == query_id).values(assigned=bool(annotators)))


def of_runs(connection: Connection, runs: Iterable[str]) -> dict[str, list[str]]:
    """Who the runs are for, by run; a run for everybody is not there."""
    return _named(connection, run_assignments.c.run, runs)


def assign_run(connection: Connection, run: str, annotators: Sequence[str], able: Collection[str]) -> None:
    """Let a run be for these of the annotators who are ``able`` to answer it: its duels, also those posted later, but
    for duels with names of their own. Others who hold one lose it.

    Raises:
        Missing: for an unknown run.
        Conflict: for somebody who cannot answer, or fewer people than a duel needs votes.
    """
    needed, names = get(connection, run).votes_needed, list(dict.fromkeys(annotators))
    if unknown := [repr(name) for name in names if name not in able]:
        raise Conflict(
            f"No key to answer run {run} with belongs to {', '.join(unknown)}; the run is as it was. Correct the "
            "names, or make links for these people first."
        )
    if needed > len(names):
        raise Conflict(
            f"A duel of run {run} needs votes by {needed} people, and the names are those of {len(names)}: name more, "
            "or let duels need fewer votes (votes_needed)."
        )
    connection.execute(delete(run_assignments).where(run_assignments.c.run == run))
    connection.execute(insert(run_assignments), [{"run": run, "annotator": name} for name in names])
    without_names = select(queries.c.id).where(queries.c.run == run, ~queries.c.assigned)
    end_live(connection, leases.c.query_id.in_(without_names), leases.c.annotator.not_in(names))


def hand_out(connection: Connection, run: str, wanted: HandOut, now: float) -> dict[str, int]:
    """Assign duels that nobody has or has answered, those that would come first, evenly; how many each annotator got.

    A duel that too few of the annotators can still answer, because they skipped it, stays for everybody.

    Raises:
        Missing: for an unknown run.
        Conflict: for a duel that needs more annotators than there are, or too many duels at once.
    """
    last_seq(connection, run)  # refuses an unknown run
    sweep(connection, run, now)
    free = _free(connection, run)
    count = round(wanted.share * len(free)) if wanted.count is None and wanted.share else wanted.count
    if count is not None and count > MOST_AT_ONCE:
        raise Conflict(f"{count:,} duels are too many to be handed out at once: hand out {MOST_AT_ONCE:,} and go on.")
    skipped = _skipped(connection, run)
    given = dict.fromkeys(wanted.annotators, 0)
    rows: list[tuple[str, str]] = []
    for duel in free[:count]:
        each = wanted.each or duel.votes_needed
        if each > len(given):
            raise Conflict(
                f"{each} annotators are to answer a duel, and {len(given)} are named: name more, or say for how many "
                "each is (each)."
            )
        able = [annotator for annotator in given if annotator not in skipped[duel.id]]
        if len(able) >= each:
            for annotator in sorted(able, key=given.__getitem__)[:each]:
                given[annotator] += 1
                rows.append((duel.id, annotator))
    _insert(connection, rows)
    connection.execute(update(queries).where(queries.c.run == run, ~queries.c.assigned, _NAMED).values(assigned=True))
    return given


def take_back_of_run(connection: Connection, run: str, annotators: Collection[str]) -> None:
    """Take back a run and every duel of it from these annotators, from everybody where none is named. What is assigned
    to nobody else is for everybody.

    Raises:
        Missing: for an unknown run, and for somebody to whom nothing of it is assigned; nothing is taken back then.
    """
    last_seq(connection, run)  # refuses an unknown run
    of_run = assignments.c.query_id.in_(select(queries.c.id).where(queries.c.run == run))
    tables = ((assignments, of_run), (run_assignments, run_assignments.c.run == run))
    theirs = [
        (table, of_it, table.c.annotator.in_(list(annotators)) if annotators else true()) for table, of_it in tables
    ]
    have = {name for table, *which in theirs for name in connection.scalars(select(table.c.annotator).where(*which))}
    if without := sorted(set(annotators) - have):
        names = ", ".join(map(repr, without))
        raise Missing(f"Nothing of run {run} is assigned to {names}. Nothing was taken back; leave these out.")
    for table, *which in theirs:
        connection.execute(delete(table).where(*which))
    connection.execute(update(queries).where(queries.c.run == run, queries.c.assigned, ~_NAMED).values(assigned=False))


def take_back_from(connection: Connection, annotator: str, kept: Collection[str] = ()) -> set[str]:
    """Take back the runs that are assigned to somebody, and the duels that are and are open, or may be opened again as
    they were cancelled or have expired, but for the runs ``kept`` and their duels; the runs. What is assigned to nobody
    else is for everybody."""
    of_duel = (queries.c.id == assignments.c.query_id, queries.c.run.not_in(list(kept)))
    unanswered = (*of_duel, queries.c.state != "answered")
    theirs = assignments.c.annotator == annotator
    touched = set(connection.execute(select(queries.c.run).where(*unanswered, theirs).distinct()).scalars())
    taken = connection.execute(
        delete(assignments).where(theirs, exists().where(*unanswered)).returning(assignments.c.query_id)
    )
    if rows := [{"which": query_id} for query_id in taken.scalars()]:
        connection.execute(_FREE_IF_NOBODYS, rows)
    named = (run_assignments.c.annotator == annotator, run_assignments.c.run.not_in(list(kept)))
    freed = connection.execute(delete(run_assignments).where(*named).returning(run_assignments.c.run))
    return touched | set(freed.scalars())


def _named(connection: Connection, assigned: Column[str], which: Iterable[str]) -> dict[str, list[str]]:
    """The annotators beside each of these values of a column, in order; of a value without any there is nothing."""
    who, named = assigned.table.c.annotator, defaultdict(list)
    wanted = select(assigned, who).where(assigned.in_(list(which))).order_by(who)
    for value, annotator in connection.execute(wanted):
        named[value].append(annotator)
    return named


def _insert(connection: Connection, rows: Sequence[tuple[str, str]]) -> None:
    if rows:
        values = [{"query_id": query_id, "annotator": annotator} for query_id, annotator in rows]
        connection.execute(insert(assignments), values)


def _free(connection: Connection, run: str) -> Sequence[Row]:
    """Open duels for everybody without a vote or a lease, in the order in which they would be given."""
    return connection.execute(
        select(queries.c.id, queries.c.votes_needed)
        .where(queries.c.run == run, queries.c.state == "open", queries.c.gold.is_(None), ~queries.c.assigned)
        .where(queries.c.places == queries.c.votes_needed)
        .order_by(queries.c.priority.desc(), queries.c.places, queries.c.number)
    ).all()


def _skipped(connection: Connection, run: str) -> dict[str, set[str]]:
    """Who skipped which duels of a run, by duel."""
    skipped: dict[str, set[str]] = defaultdict(set)
    skips = select(leases.c.query_id, leases.c.annotator).where(leases.c.run == run, leases.c.state == "skipped")
    for row in connection.execute(skips):
        skipped[row.query_id].add(row.annotator)
    return skipped
