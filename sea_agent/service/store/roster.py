"""Everybody who has a key or has answered, and how their work ends. Users of live mode are not among them: they are
hashes, and ``store.live_erasure`` forgets them."""

from collections.abc import Collection
from dataclasses import dataclass, field

from sqlalchemy import Connection, Double, bindparam, case, delete, exists, func, select, update

from sea_agent.service.store import assignments as handed_out
from sea_agent.service.store import keys as keyring
from sea_agent.service.store.faults import Missing
from sea_agent.service.store.keys import Key
from sea_agent.service.store.leases import end_live
from sea_agent.service.store.live_tables import OF_LIVE_MODE
from sea_agent.service.store.tables import assignments, keys, labels, leases, queries, requests

_HOUR = 3600.0
_ANSWERED = (
    select(
        labels.c.annotator,
        labels.c.run,
        func.count().label("answers"),
        func.count().filter(labels.c.at > bindparam("recent", type_=Double)).label("answers_last_hour"),
        func.max(labels.c.at).label("last"),
    )
    .where(labels.c.revises.is_(None), labels.c.run.not_in(OF_LIVE_MODE))
    .group_by(labels.c.annotator, labels.c.run)
    .order_by(labels.c.run)
)
_OF_USERS = {
    labels: labels.c.run.in_(OF_LIVE_MODE),
    assignments: exists().where(queries.c.id == assignments.c.query_id, queries.c.run.in_(OF_LIVE_MODE)),
}
_TOOK = select(leases.c.annotator, func.max(leases.c.created_at).label("at")).group_by(leases.c.annotator)
_SIGNED_IN_AT = case((keys.c.parent.is_not(None), keys.c.created_at))
_HAVE_KEYS = select(keys.c.annotator, func.max(_SIGNED_IN_AT).label("at")).group_by(keys.c.annotator)


@dataclass(slots=True)
class Work:
    """What somebody did: when they were last seen, how many answers they gave, and in which runs."""

    last_seen: float | None = None
    answers: int = 0
    answers_last_hour: int = 0
    runs: list[str] = field(default_factory=list)

    def seen(self, at: float | None) -> None:
        """They did something at a time."""
        self.last_seen = max((moment for moment in (self.last_seen, at) if moment is not None), default=None)


@dataclass(frozen=True, slots=True)
class Ended:
    """Every key as it is after those of somebody ended, and the runs in which duels came free."""

    keys: list[Key]
    runs: list[str]


def everybody(connection: Connection, now: float) -> dict[str, Work]:
    """Everybody by annotator, in the order of their names. They were last seen when they answered, took a duel or
    signed in."""
    found: dict[str, Work] = {}
    for row in connection.execute(_ANSWERED, {"recent": now - _HOUR}):
        work = found.setdefault(row.annotator, Work())
        work.answers += row.answers
        work.answers_last_hour += row.answers_last_hour
        work.runs.append(row.run)
        work.seen(row.last)
    for row in (*connection.execute(_TOOK), *connection.execute(_HAVE_KEYS)):
        found.setdefault(row.annotator, Work()).seen(row.at)
    return dict(sorted(found.items()))


def require(connection: Connection, annotator: str) -> None:
    """Raises: Missing for somebody who never had a key, an answer, a duel or a batch."""
    for table in (keys, labels, leases, assignments, requests):
        theirs = select(table.c.annotator).where(table.c.annotator == annotator)
        if table in _OF_USERS:
            theirs = theirs.where(~_OF_USERS[table])
        if connection.execute(theirs.limit(1)).first():
            return
    raise Missing(f"There is nobody called {annotator!r}.")


def give_back(connection: Connection, annotator: str, kept: Collection[str] = ()) -> list[str]:
    """Let others have every duel that somebody is answering or was handed, but for those of the runs ``kept``; the runs
    in which there were any."""
    held = end_live(connection, leases.c.annotator == annotator, leases.c.run.not_in(list(kept)))
    return sorted(held | handed_out.take_back_from(connection, annotator, kept))


def end_key(connection: Connection, key: Key, now: float) -> list[str]:
    """End a key and its sessions. In runs where its annotator has no other key to answer with, the duels that they are
    answering or were handed are given back; the runs in which there were any."""
    keyring.revoke(connection, key.id, now)
    reached = keyring.reach(connection, key.annotator, now)
    return [] if reached is None else give_back(connection, key.annotator, reached)


def end(connection: Connection, annotator: str, now: float) -> Ended:
    """End every key of somebody, and give back the duels that they are answering or were handed.

    Raises:
        Missing: for somebody who never had a key and never answered.
    """
    require(connection, annotator)
    end_keys(connection, annotator, now)
    freed = give_back(connection, annotator)
    return Ended(keyring.load(connection), freed)


def end_keys(connection: Connection, annotator: str, now: float) -> None:
    """End every key of somebody, and forget the sessions of the pages."""
    theirs = keys.c.annotator == annotator
    connection.execute(delete(keys).where(theirs, keys.c.parent.is_not(None)))
    connection.execute(update(keys).where(theirs, keys.c.revoked_at.is_(None)).values(revoked_at=now))
