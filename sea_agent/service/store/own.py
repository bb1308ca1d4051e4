"""What annotators are told of runs: nothing that moves otherwise where a duel is gold or a repeat.

Whoever could tell these duels from others would answer them with more care than the rest, and their answers would say
nothing about the rest.
"""

import json
from dataclasses import asdict
from typing import Any

from sqlalchemy import BindParameter, Connection, Row, bindparam, func, select

from sea_agent.service.store import qualification
from sea_agent.service.store.faults import found
from sea_agent.service.store.runs import UNFINISHED
from sea_agent.service.store.tables import labels, runs

Values = dict[str, Any]

_WHO: BindParameter[str] = bindparam("who")
_GIVEN = (
    select(func.count())
    .where(labels.c.run == runs.c.id, labels.c.annotator == _WHO, labels.c.revises.is_(None))
    .scalar_subquery()
)
_RUNS = select(
    runs.c.id,
    runs.c.name,
    runs.c.instructions,
    runs.c.examples,
    runs.c.state,
    runs.c.votes_needed,
    runs.c.qualification,
    runs.c.qualifying_share,
    _GIVEN.label("mine"),
).order_by(runs.c.created_at, runs.c.id)
_LISTED = _RUNS.where(runs.c.state.in_(UNFINISHED))
_RUN = _RUNS.where(runs.c.id == bindparam("of_run"))


def everything(connection: Connection, annotator: str) -> list[Values]:
    """The runs that are not over, the oldest first."""
    return [_told(row) for row in connection.execute(_LISTED, {"who": annotator})]


def get(connection: Connection, run: str, annotator: str) -> Values:
    """One run. Raises: Missing."""
    return _told(_row(connection, run, annotator))


def progress(connection: Connection, run: str, annotator: str) -> Values:
    """The state of a run, how many votes its duels need, how many answers the annotator gave in it, and how far their
    qualification is.

    Whether a duel of theirs lacks the votes of others is not told: it would differ where the duel is gold or a repeat.

    Raises:
        Missing: for an unknown run.
    """
    row = _row(connection, run, annotator)
    standing = qualification.standing(connection, row, annotator)
    return {
        "state": row.state,
        "votes_needed": row.votes_needed,
        "mine": row.mine,
        "qualification": None if standing is None else asdict(standing),
    }


def _row(connection: Connection, run: str, annotator: str) -> Row:
    return found(connection.execute(_RUN, {"of_run": run, "who": annotator}).first(), f"run {run}")


def _told(row: Row) -> Values:
    told = {name: row._mapping[name] for name in ("id", "name", "instructions", "state", "mine")}
    return told | {"examples": json.loads(row.examples)}
