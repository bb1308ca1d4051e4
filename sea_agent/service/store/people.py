"""Who can still answer a duel, and duels that nobody can answer any more.

An annotator is done with a duel that they answered or skipped. People are those whose keys let them annotate in a run.
Somebody with all rights counts once they have taken a duel of the run; who failed its qualification does not. A duel
that is assigned, or whose run is, is only for those of them whom it is assigned to. Duels of live mode wait for users,
and for no annotator.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    ScalarSelect,
    Table,
    and_,
    bindparam,
    case,
    distinct,
    exists,
    func,
    literal,
    select,
)

from sea_agent.service.store import qualification
from sea_agent.service.store.leases import sweep
from sea_agent.service.store.live_tables import OF_LIVE_MODE
from sea_agent.service.store.queries import cancel
from sea_agent.service.store.tables import assignments, leases, queries, run_assignments

_WAITING = (queries.c.state == "open", queries.c.gold.is_(None), queries.c.run.not_in(OF_LIVE_MODE))
_RUN_HAS_NAMES = exists().where(run_assignments.c.run == queries.c.run)
_ITS_RUN_HAS_NAMES = exists().where(run_assignments.c.run == leases.c.run)
_FOR_ITS_HOLDER = case(
    (
        queries.c.assigned,
        exists().where(assignments.c.query_id == leases.c.query_id, assignments.c.annotator == leases.c.annotator),
    ),
    else_=~_ITS_RUN_HAS_NAMES | _ITS_RUN_HAS_NAMES.where(run_assignments.c.annotator == leases.c.annotator),
)
_WITH_DUELS_OF_THEIR_OWN = (
    select(assignments.c.annotator)
    .distinct()
    .join(queries, queries.c.id == assignments.c.query_id)
    .where(queries.c.run == bindparam("of_run"), queries.c.state == "open")
)


@dataclass(frozen=True, slots=True)
class Staff:
    """Annotators whose keys are for annotating in a run, and those who may do everything."""

    annotators: frozenset[str]
    admins: frozenset[str]

    @property
    def everybody(self) -> frozenset[str]:
        """Whoever could answer."""
        return self.annotators | self.admins


def of_run(connection: Connection, run: str, staff: Staff) -> frozenset[str]:
    """The people of a run, by annotator."""
    took = select(leases.c.annotator).distinct().where(leases.c.run == run, leases.c.annotator.in_(staff.admins))
    there = staff.annotators | set(connection.execute(took).scalars())
    named = set(connection.execute(select(run_assignments.c.annotator).where(run_assignments.c.run == run)).scalars())
    if named:
        there &= named | set(connection.execute(_WITH_DUELS_OF_THEIR_OWN, {"of_run": run}).scalars())
    return there - qualification.failed(connection, run, there)


def stuck(connection: Connection, run: str, people: Collection[str], now: float) -> int:
    """Open duels that lack more votes than there are people who can still answer them."""
    count = select(func.count()).where(queries.c.run == run, is_stuck(people, now))
    return int(connection.execute(count).scalar_one())


def is_stuck(people: Collection[str], now: float) -> ColumnElement[bool]:
    """Holds for an open duel that lacks more votes than there are people who can still answer it. One whose time has
    passed is not open, whether or not anybody wrote that down."""
    missing = queries.c.votes_needed - queries.c.votes
    in_time = queries.c.expires_at.is_(None) | (queries.c.expires_at > now)
    return and_(*_WAITING, in_time, _may_answer(people) - _done_with(people, ("labelled", "skipped")) < missing)


def settle(connection: Connection, run: str, staff: Staff, now: float) -> None:
    """End the open duels with which everybody is done, and which somebody skipped: they would wait forever. Those whose
    time has passed end as expired."""
    sweep(connection, run, now)
    people = of_run(connection, run, staff)
    over = select(queries.c.id).where(
        queries.c.run == run,
        *_WAITING,
        _done_with(people, ("labelled", "skipped")) == _may_answer(people),
        _done_with(people, ("skipped",)) > 0,
    )
    for query_id in connection.execute(over).scalars().all():
        cancel(connection, query_id, now)


def _may_answer(people: Collection[str]) -> ColumnElement[Any]:
    """How many of the people a duel is for."""

    def among(names: Table, which: ColumnElement[bool]) -> ScalarSelect[int]:
        return select(func.count()).where(which, names.c.annotator.in_(list(people))).scalar_subquery()

    return case(
        (queries.c.assigned, among(assignments, assignments.c.query_id == queries.c.id)),
        (_RUN_HAS_NAMES, among(run_assignments, run_assignments.c.run == queries.c.run)),
        else_=literal(len(people)),
    )


def _done_with(people: Collection[str], states: Collection[str]) -> ColumnElement[Any]:
    """How many of the people whom a duel is for have a lease of it in one of these states."""
    return (
        select(func.count(distinct(leases.c.annotator)))
        .where(
            leases.c.query_id == queries.c.id,
            leases.c.kind == "vote",
            leases.c.annotator.in_(list(people)),
            leases.c.state.in_(list(states)),
            _FOR_ITS_HOLDER,
        )
        .scalar_subquery()
    )
