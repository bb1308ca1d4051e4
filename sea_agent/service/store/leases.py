"""Leases: who is answering which duel now.

A duel that needs v votes and has n is leased to at most v − n annotators at once. An annotator holds one lease in a run
at a time, and meets a duel once; deliberate repeats and gold duels are leases of another kind. A lease that ended
without an answer may go to the same annotator again, as the same lease with the same order of responses.
"""

import secrets
from dataclasses import dataclass
from random import Random
from typing import Any

from sqlalchemy import Connection, Row, and_, case, exists, func, insert, select, update

from sea_agent.keys import seed_for
from sea_agent.service.store.faults import Conflict, Missing
from sea_agent.service.store.tables import LIVE, OPEN, labels, leases, queries, runs

Values = dict[str, Any]

REPEAT_AFTER = 20
"""Leases of an annotator between a duel and its repetition."""
LONGEST_SECONDS = 3600.0
"""A lease that ends later than this from now was made before the clock was set back."""
AFTER_CLOCK_SECONDS = 300.0
"""How long such a lease still lasts."""

_PLACE_BACK = {"places": queries.c.places + 1}


@dataclass(frozen=True, slots=True)
class Claim:
    """Who wants a duel of which run, for how many seconds, and the seed of the draws."""

    run: str
    annotator: str
    ttl_s: float
    seed: int


def claim(connection: Connection, wanted: Claim, now: float) -> Values | None:
    """Lease a duel, or give the caller the one they hold; None when there is nothing for them now.

    Raises:
        Missing: for an unknown run.
    """
    run = connection.execute(select(runs).where(runs.c.id == wanted.run)).first()
    if run is None:
        raise Missing(f"There is no run {wanted.run}.")
    sweep(connection, wanted.run, now)
    held = _held(connection, wanted)
    if held is not None:
        connection.execute(update(leases).where(leases.c.id == held.id).values(expires_at=now + wanted.ttl_s))
        return _presented(connection, held.id)
    number = _last_number(connection, wanted) + 1
    query_id, kind = _choose(connection, run, wanted, number)
    if query_id is None:
        return None
    lease_id = _lease(connection, wanted, query_id, kind, number, now)
    if kind == "vote":
        connection.execute(update(queries).where(queries.c.id == query_id).values(places=queries.c.places - 1))
    return _presented(connection, lease_id)


def sweep(connection: Connection, run: str, now: float) -> None:
    """Write down which leases and duels of a run have passed their time, so that no clock brings them back."""
    ended, from_the_future = leases.c.expires_at <= now, leases.c.expires_at > now + LONGEST_SECONDS
    changed = connection.execute(
        update(leases)
        .where(leases.c.run == run, leases.c.state == LIVE, ended | from_the_future)
        .values(
            state=case((ended, "expired"), else_=leases.c.state),
            expires_at=case((from_the_future, now + AFTER_CLOCK_SECONDS), else_=leases.c.expires_at),
        )
        .returning(leases.c.query_id, leases.c.kind, leases.c.state)
    ).all()
    for lease in changed:
        if lease.state == "expired" and lease.kind == "vote":
            connection.execute(update(queries).where(queries.c.id == lease.query_id).values(_PLACE_BACK))
    connection.execute(
        update(queries)
        .where(queries.c.run == run, queries.c.state == OPEN, queries.c.expires_at <= now)
        .values(state="expired")
    )


def next_end(connection: Connection, run: str) -> float | None:
    """When the first live lease of a run ends: the next time at which a duel may come free by itself."""
    statement = select(func.min(leases.c.expires_at)).where(leases.c.run == run, leases.c.state == LIVE)
    return connection.execute(statement).scalar()


def run_of(connection: Connection, lease_id: str, annotator: str) -> str:
    """The run of an annotator's lease. Raises: Missing."""
    return str(_own(connection, lease_id, annotator).run)


def extend(connection: Connection, lease_id: str, annotator: str, ttl_s: float, now: float) -> float:
    """Let a live lease end ``ttl_s`` from now; when that is.

    Raises:
        Missing: for a lease that is not the annotator's.
        Conflict: when it has ended.
    """
    run = run_of(connection, lease_id, annotator)
    sweep(connection, run, now)
    lease = _own(connection, lease_id, annotator)
    if lease.state != "live":
        raise Conflict(f"The lease has ended ({lease.state}). An answer is still accepted unless one was given.")
    connection.execute(update(leases).where(leases.c.id == lease_id).values(expires_at=now + ttl_s))
    return now + ttl_s


def release(connection: Connection, lease_id: str, annotator: str) -> None:
    """Give a duel back. A lease that has ended stays as it is. Raises: Missing."""
    lease = _own(connection, lease_id, annotator)
    if lease.state == "live":
        _end(connection, lease, "released")


def skip(connection: Connection, lease_id: str, annotator: str) -> None:
    """Give a duel to others, and not to this annotator again.

    Raises:
        Missing: for a lease that is not the annotator's.
        Conflict: when it was answered.
    """
    lease = _own(connection, lease_id, annotator)
    if lease.state == "labelled":
        raise Conflict("The lease has its answer already; revise the label instead.")
    _end(connection, lease, "skipped")


def _end(connection: Connection, lease: Row, state: str) -> None:
    connection.execute(update(leases).where(leases.c.id == lease.id).values(state=state))
    if lease.state == "live" and lease.kind == "vote":
        connection.execute(update(queries).where(queries.c.id == lease.query_id).values(_PLACE_BACK))


def _own(connection: Connection, lease_id: str, annotator: str) -> Row:
    mine = and_(leases.c.id == lease_id, leases.c.annotator == annotator)
    lease = connection.execute(select(leases).where(mine)).first()
    if lease is None:
        raise Missing(f"There is no lease {lease_id}.")
    return lease


def _held(connection: Connection, wanted: Claim) -> Row | None:
    """The annotator's live lease, unless its duel needs no answer any more: that one is ended."""
    mine = (leases.c.run == wanted.run, leases.c.annotator == wanted.annotator, leases.c.state == LIVE)
    joined = select(leases, queries.c.state.label("query_state")).join(queries, queries.c.id == leases.c.query_id)
    lease = connection.execute(joined.where(*mine)).first()
    if lease is not None and lease.kind == "vote" and lease.query_state != "open":
        _end(connection, lease, "released")
        return None
    return lease


def _last_number(connection: Connection, wanted: Claim) -> int:
    mine = (leases.c.run == wanted.run, leases.c.annotator == wanted.annotator)
    return connection.execute(select(func.max(leases.c.number)).where(*mine)).scalar() or 0


def _choose(connection: Connection, run: Row, wanted: Claim, number: int) -> tuple[str | None, str]:
    """A duel and how it is shown. The draw hangs on the number of the lease, so asking again draws nothing new."""
    drawn = _draw(wanted, "kind", number).random()
    if drawn < run.gold_share and (query_id := _unseen_gold(connection, wanted)) is not None:
        return query_id, "gold"
    if run.gold_share <= drawn < run.gold_share + run.repeat_share:
        query_id = _repeatable(connection, wanted, number)
        if query_id is not None:
            return query_id, "repeat"
    return _waiting(connection, wanted), "vote"


def _waiting(connection: Connection, wanted: Claim) -> str | None:
    """The open duel to be answered next: by priority, then the fewest missing votes, then age."""
    met = exists().where(
        leases.c.query_id == queries.c.id,
        leases.c.annotator == wanted.annotator,
        leases.c.kind == "vote",
        leases.c.state.in_(("labelled", "skipped")),
    )
    answered = exists().where(labels.c.query_id == queries.c.id, labels.c.annotator == wanted.annotator)
    statement = (
        select(queries.c.id)
        .where(queries.c.run == wanted.run, queries.c.state == OPEN, queries.c.gold.is_(None), queries.c.places > 0)
        .where(~met, ~answered)
        .order_by(queries.c.priority.desc(), queries.c.places, queries.c.number)
        .limit(1)
    )
    return connection.execute(statement).scalar()


def _unseen_gold(connection: Connection, wanted: Claim) -> str | None:
    met = exists().where(
        leases.c.query_id == queries.c.id,
        leases.c.annotator == wanted.annotator,
        leases.c.kind == "gold",
        leases.c.state.in_(("labelled", "skipped")),
    )
    answered = exists().where(labels.c.query_id == queries.c.id, labels.c.annotator == wanted.annotator)
    statement = (
        select(queries.c.id)
        .where(queries.c.run == wanted.run, queries.c.state == OPEN, queries.c.gold.is_not(None), ~met, ~answered)
        .order_by(queries.c.number)
        .limit(1)
    )
    return connection.execute(statement).scalar()


def _repeatable(connection: Connection, wanted: Claim, number: int) -> str | None:
    """A duel that the annotator answered long enough ago and has not met again."""
    again = leases.alias()
    repeated = exists().where(
        again.c.query_id == leases.c.query_id,
        again.c.annotator == wanted.annotator,
        again.c.kind == "repeat",
        again.c.state.in_(("labelled", "skipped")),
    )
    statement = (
        select(leases.c.query_id)
        .where(leases.c.run == wanted.run, leases.c.annotator == wanted.annotator)
        .where(leases.c.kind == "vote", leases.c.state == "labelled", leases.c.number <= number - REPEAT_AFTER)
        .where(~repeated)
        .order_by(leases.c.number)
    )
    candidates = list(connection.execute(statement).scalars())
    return _draw(wanted, "repeat", number).choice(candidates) if candidates else None


def _lease(connection: Connection, wanted: Claim, query_id: str, kind: str, number: int, now: float) -> str:
    """Make the lease, or bring back the one that ended without an answer."""
    same = (leases.c.query_id == query_id, leases.c.annotator == wanted.annotator, leases.c.kind == kind)
    expires_at = now + wanted.ttl_s
    back = connection.execute(
        update(leases).where(*same).values(state="live", expires_at=expires_at).returning(leases.c.id)
    ).scalar()
    if back is not None:
        return str(back)
    lease_id = f"lease-{secrets.token_hex(10)}"
    row = {
        "id": lease_id,
        "query_id": query_id,
        "run": wanted.run,
        "annotator": wanted.annotator,
        "number": number,
        "kind": kind,
        "swapped": _draw(wanted, "order", number).random() < 0.5,
        "state": "live",
        "created_at": now,
        "expires_at": expires_at,
    }
    connection.execute(insert(leases), row)
    return lease_id


def _draw(wanted: Claim, what: str, number: int) -> Random:
    return Random(seed_for(wanted.seed, what, wanted.run, wanted.annotator, number))


def _presented(connection: Connection, lease_id: str) -> Values:
    statement = (
        select(leases, queries.c.prompt, queries.c.first, queries.c.second)
        .join(queries, queries.c.id == leases.c.query_id)
        .where(leases.c.id == lease_id)
    )
    row = connection.execute(statement).one()
    first, second = (row.second, row.first) if row.swapped else (row.first, row.second)
    return {
        "lease_id": row.id,
        "query_id": row.query_id,
        "run": row.run,
        "prompt": row.prompt,
        "first": first,
        "second": second,
        "expires_at": row.expires_at,
    }
