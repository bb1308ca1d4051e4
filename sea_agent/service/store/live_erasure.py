"""Forgetting a user of live mode, or texts whose time has passed. Labels and counts stay as they were.

What is erased here is still in the files of the database until they are purged, which each function demands.
"""

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, exists, func, select, update

from sea_agent.service.store import live_runs
from sea_agent.service.store.completion_texts import MOST_AT_ONCE, forget_texts
from sea_agent.service.store.erasure import erase_queries, forget_comments
from sea_agent.service.store.faults import Missing
from sea_agent.service.store.live_tables import completions, feedback, live_users, publications
from sea_agent.service.store.purge import demand
from sea_agent.service.store.tables import assignments, labels

_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class ErasedUser:
    """How many completions were a user's, how many of them had a choice, which versions came after something of theirs
    could be learnt, and the runs."""

    completions: int
    answers: int
    versions: list[int]
    runs: list[str]


def erase_user(
    connection: Connection, user: str, owner: str | None, by: frozenset[str] | None, now: float
) -> ErasedUser:
    """Forget a user in the live runs that a key reaches: what the key ``owner`` asked for them, or what any did (None).

    A pseudonym takes the place of their hash, so that the counts of users stay.

    Raises:
        Missing: for a user of whom nothing is known, or nothing under this key.
    """
    counts, answers, versions, touched = 0, 0, set[int](), []
    for run in live_runs.reached(connection, by):
        user_hash = live_runs.hashed(run.secret, user)
        which = live_runs.of_user(run.run, user_hash, owner)
        found = connection.execute(select(func.count()).select_from(completions).where(*which)).scalar_one()
        if found or _is_known(connection, run.run, user_hash, owner):
            answers += _answers(connection, which)
            versions |= _learnt(connection, run.run, which)
            _forget(connection, run.run, user_hash, which, now)
            counts += found
            touched.append(run.run)
    if not touched:
        raise Missing("Nothing is known of such a user under this key.")
    demand(connection, now)
    return ErasedUser(counts, answers, sorted(versions), touched)


def has_past(connection: Connection, now: float) -> bool:
    """Whether texts are kept whose time has passed."""
    kept = live_runs.retention(connection).items()
    return any(connection.execute(_past(run, now - days * _DAY).limit(1)).first() for run, days in kept)


def erase_past(connection: Connection, now: float) -> int:
    """Erase the texts of some completions that came longer ago than their run keeps them; of how many."""
    count = 0
    for run, days in live_runs.retention(connection).items():
        past = connection.execute(_past(run, now - days * _DAY).limit(MOST_AT_ONCE)).all()
        if past:
            erase_queries(connection, [row.query_id for row in past if row.query_id is not None], now)
            forget_texts(connection, completions.c.number.in_([row.number for row in past]), now=now)
            demand(connection, now)
            count += len(past)
    return count


def _past(run: str, limit: float) -> Any:
    kept = (completions.c.run == run, completions.c.erased_at.is_(None))
    late = select(completions.c.number, completions.c.query_id).where(*kept, completions.c.created_at < limit)
    return late.order_by(completions.c.created_at)


def _is_known(connection: Connection, run: str, user_hash: str, owner: str | None) -> bool:
    """Whether a user who has no completions said whether they are to be asked; only an admin may erase that."""
    theirs = (live_users.c.run == run, live_users.c.user_hash == user_hash)
    return owner is None and connection.execute(select(live_users.c.asks).where(*theirs)).first() is not None


def _answers(connection: Connection, which: tuple) -> int:
    chosen = (feedback.c.kind == "choice", feedback.c.is_current)
    theirs = select(func.count()).select_from(feedback).join(completions, completions.c.id == feedback.c.completion_id)
    return int(connection.execute(theirs.where(*which, *chosen)).scalar_one())


def _learnt(connection: Connection, run: str, which: tuple) -> set[int]:
    """Versions that were published after the first of some completions from which something could be learnt: from its
    conversation too, for which rounds imagine answers."""
    learnable = (completions.c.stored, ~completions.c.heldout, completions.c.state == "done")
    # A sum, lest the database looks for the first of all requests that is the user's, in the order of their times.
    first = connection.execute(select(func.min(completions.c.created_at + 0.0)).where(*which, *learnable)).scalar()
    if first is None:
        return set()
    after = (publications.c.run == run, publications.c.created_at >= first)
    return set(connection.execute(select(publications.c.version).where(*after)).scalars())


def _forget(connection: Connection, run: str, user_hash: str, which: tuple, now: float) -> None:
    pseudonym = f"erased-{secrets.token_hex(4)}"
    duels = connection.execute(
        select(completions.c.query_id).where(*which, completions.c.query_id.is_not(None))
    ).scalars()
    duels_of_them = duels.all()
    erase_queries(connection, duels_of_them, now)
    forget_texts(connection, *which, now=now)
    for start in range(0, len(duels_of_them), MOST_AT_ONCE):
        some = duels_of_them[start : start + MOST_AT_ONCE]
        forget_comments(connection, labels.c.query_id.in_(some))
        for table in (labels, assignments):
            theirs = (table.c.query_id.in_(some), table.c.annotator == user_hash)
            connection.execute(update(table).where(*theirs).values(annotator=pseudonym))
    connection.execute(update(completions).where(*which).values(user_hash=pseudonym))
    of_others = exists().where(*live_runs.of_user(run, user_hash, None))
    row = (live_users.c.run == run, live_users.c.user_hash == user_hash, ~of_others)
    connection.execute(update(live_users).where(*row).values(user_hash=pseudonym, erased_at=now))
