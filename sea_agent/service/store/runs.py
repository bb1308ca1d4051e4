"""Runs: their state, instructions for annotators, votes that a duel needs, and progress.

Only an ``open`` run gives duels. A ``paused`` one still takes them, a ``closed`` one is finished, an ``archived`` one
is closed and out of the way.
"""

import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy import exists as there_is

from sea_agent.service.store.faults import Conflict, found
from sea_agent.service.store.live_tables import (
    OF_LIVE_MODE,
    completions,
    feedback,
    implicit_choices,
    live_runs,
    live_users,
    publications,
)
from sea_agent.service.store.purge import demand
from sea_agent.service.store.tables import (
    LIVE,
    OPEN,
    RUN_STATES,
    assignments,
    labels,
    leases,
    queries,
    requests,
    run_assignments,
    runs,
)

DEFAULTS: dict[str, Any] = {
    "instructions": "",
    "votes_needed": 1,
    "repeat_share": 0.05,
    "gold_share": 0.05,
}

MOST_RUNS = 50
"""Runs that ``load`` names; the others are one."""
OTHER_RUNS = "(others)"

UNFINISHED = ("open", "paused")
"""The states of a run that annotators may still see duels of."""
FINISHED = ("closed", "archived")

_ANSWERED = queries.c.votes >= queries.c.votes_needed
_OF_RUN = (queries.c.run == runs.c.id, queries.c.gold.is_(None))
_HAS_DUELS = there_is().where(queries.c.run == runs.c.id)
_RUNS = select(
    runs,
    runs.c.last_seq.label("labels"),
    select(func.count()).where(*_OF_RUN).scalar_subquery().label("queries"),
    select(func.count()).where(*_OF_RUN, _ANSWERED).scalar_subquery().label("answered"),
    runs.c.id.in_(OF_LIVE_MODE).label("live"),
    (_HAS_DUELS & ~_HAS_DUELS.where(queries.c.erased_at.is_(None))).label("erased"),
).order_by(runs.c.created_at, runs.c.id)


def put(connection: Connection, run: str, given: dict[str, Any], now: float, *, only_new: bool = False) -> None:
    """Create a run, or change the given fields of one.

    Raises:
        Conflict: with ``only_new``, for a run that is there.
    """
    if only_new and exists(connection, run):
        raise Conflict(f"There is a run {run} already; it was not changed. Give the new run another id.")
    if "examples" in given:
        given = given | {"examples": json.dumps(given["examples"])}
    if not exists(connection, run):
        row = {"id": run, "name": run, **DEFAULTS, **given, "created_at": now, "last_seq": 0}
        connection.execute(insert(runs), row)
    elif given:
        connection.execute(update(runs).where(runs.c.id == run).values(given))


def retention_days(connection: Connection, run: str) -> float | None:
    """After how many days the texts of a run's duels are erased; None: never, as in a run that is not there yet."""
    return connection.execute(select(runs.c.retention_days).where(runs.c.id == run)).scalar()


def exists(connection: Connection, run: str) -> bool:
    """Whether there is such a run."""
    return connection.execute(select(runs.c.id).where(runs.c.id == run)).first() is not None


def get(connection: Connection, run: str) -> Row:
    """A run with its counts. Raises: Missing."""
    return found(connection.execute(_RUNS.where(runs.c.id == run)).first(), f"run {run}")


def last_seq(connection: Connection, run: str) -> int:
    """The length of a run's label log. Raises: Missing."""
    return found(connection.execute(select(runs.c.last_seq).where(runs.c.id == run)).scalar(), f"run {run}")


def require_unfinished(connection: Connection, run: str) -> None:
    """Raises: Missing for an unknown run, Conflict for one that is closed or archived."""
    state = found(connection.execute(select(runs.c.state).where(runs.c.id == run)).scalar(), f"run {run}")
    if state in FINISHED:
        raise Conflict(f"Run {run} is {state} and takes no duels; open it again first, with its state.")


def everything(connection: Connection, states: Collection[str] = RUN_STATES) -> list[Row]:
    """The runs in these states with their counts, the oldest first."""
    return list(connection.execute(_RUNS.where(runs.c.state.in_(states))))


def remove(connection: Connection, run: str, now: float) -> None:
    """Delete a run with its duels, leases and labels. The files of the database are to be purged then.

    Raises:
        Missing: for an unknown run.
        Conflict: for one that is not closed or archived.
    """
    state = found(connection.execute(select(runs.c.state).where(runs.c.id == run)).scalar(), f"run {run}")
    if state not in FINISHED:
        raise Conflict(f"Run {run} is {state}; close it before you delete it.")
    for table in (requests, labels, leases, run_assignments):
        connection.execute(delete(table).where(table.c.run == run))
    of_run = select(queries.c.id).where(queries.c.run == run)
    connection.execute(delete(assignments).where(assignments.c.query_id.in_(of_run)))
    answered = select(completions.c.id).where(completions.c.run == run)
    for said in (feedback, implicit_choices):
        connection.execute(delete(said).where(said.c.completion_id.in_(answered)))
    for table in (completions, publications, live_users, live_runs):
        connection.execute(delete(table).where(table.c.run == run))
    connection.execute(delete(queries).where(queries.c.run == run))
    connection.execute(delete(runs).where(runs.c.id == run))
    demand(connection, now)


def load(connection: Connection, now: float) -> tuple[int, dict[str, int]]:
    """How many leases are live, and how many duels of each run wait for votes."""
    live = connection.execute(select(func.count()).where(leases.c.state == LIVE, leases.c.expires_at > now))
    waiting = (
        select(queries.c.run, func.count().label("open"))
        .where(queries.c.state == OPEN, queries.c.gold.is_(None))
        .where(queries.c.expires_at.is_(None) | (queries.c.expires_at > now))
        .where(queries.c.run.in_(select(runs.c.id).where(runs.c.state.in_(UNFINISHED))))
        .group_by(queries.c.run)
        .order_by(func.count().desc(), queries.c.run)
    )
    counts = {row.run: row.open for row in connection.execute(waiting)}
    named = dict(list(counts.items())[:MOST_RUNS])
    if len(counts) > MOST_RUNS:
        named[OTHER_RUNS] = sum(counts.values()) - sum(named.values())
    return live.scalar_one(), named


def progress(connection: Connection, run: str, now: float) -> dict[str, int]:
    """How many duels are open, answered, and ended without their answers, and how many labels there are.

    Raises:
        Missing: for an unknown run.
    """
    length = last_seq(connection, run)
    over = queries.c.state.in_(("cancelled", "expired")) | ((queries.c.state == "open") & (queries.c.expires_at <= now))
    counts = connection.execute(
        select(
            func.count().label("asked"),
            func.count().filter(_ANSWERED).label("answered"),
            func.count().filter(~_ANSWERED, func.coalesce(over, False)).label("cancelled"),
        ).where(queries.c.run == run, queries.c.gold.is_(None))
    ).one()
    return {
        "open": counts.asked - counts.answered - counts.cancelled,
        "answered": counts.answered,
        "cancelled": counts.cancelled,
        "labels": length,
    }
