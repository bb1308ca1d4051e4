"""Forgetting a person, or the texts of duels. Labels and counts stay as they were.

What is erased here is still in the files of the database until they are purged, which each function demands.
"""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Select, case, delete, exists, func, or_, select, update

from sea_agent.service.store import keys as keyring
from sea_agent.service.store.completion_texts import forget_texts
from sea_agent.service.store.faults import Missing, found
from sea_agent.service.store.labels import digest_of_answer
from sea_agent.service.store.leases import sweep
from sea_agent.service.store.live_tables import completions
from sea_agent.service.store.purge import demand
from sea_agent.service.store.queries import NO_DIGEST
from sea_agent.service.store.roster import end_keys, give_back, require
from sea_agent.service.store.tables import LIVE, assignments, keys, labels, leases, queries, requests, runs

MOST_AT_ONCE = 1000
"""Duels whose texts one transaction erases when their time has passed."""

_DAY = 86_400.0
_PSEUDONYM = re.compile(r"erased-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Erased:
    """What became of a person: their pseudonym, how many labels bear it, every key as it is now, and where they were
    answering a duel."""

    pseudonym: str
    labels: int
    keys: list[keyring.Key]
    runs: list[str]


def is_erased(annotator: str) -> bool:
    """Whether a name is the pseudonym of somebody who was erased."""
    return _PSEUDONYM.fullmatch(annotator) is not None


def erase_person(connection: Connection, annotator: str, now: float) -> Erased:
    """Put a pseudonym in the place of a person's name, end their keys, and forget their comments.

    Erasing a pseudonym again gives the same one.

    Raises:
        Missing: for somebody who never had a key and never answered.
    """
    require(connection, annotator)
    pseudonym = annotator if is_erased(annotator) else f"erased-{secrets.token_hex(4)}"
    names, own = _names(connection, annotator)
    theirs, by_them = labels.c.annotator == annotator, labels.c.entered_by.in_(own)
    touched = give_back(connection, annotator)
    forget_comments(connection, theirs | by_them)
    _forget_requests(connection, annotator)
    named = by_them | (theirs & labels.c.entered_by.in_(names)) | (labels.c.entered_by == annotator)
    connection.execute(update(labels).where(named).values(entered_by=pseudonym))
    given = update(labels).where(labels.c.annotator == annotator).values(annotator=pseudonym)
    count = connection.execute(given).rowcount
    for table in (leases, assignments):
        connection.execute(update(table).where(table.c.annotator == annotator).values(annotator=pseudonym))
    end_keys(connection, annotator, now)
    renamed = update(keys).where(keys.c.annotator == annotator).values(annotator=pseudonym, name=pseudonym)
    connection.execute(renamed)
    connection.execute(update(keys).where(keys.c.name == annotator).values(name=pseudonym))  # others' that tell of them
    demand(connection, now)
    return Erased(pseudonym, count, keyring.load(connection), touched)


def erase_query(connection: Connection, query_id: str, now: float) -> tuple[str, int]:
    """Erase the texts of a duel, which is cancelled if it is open; its run, and whether there were texts (0 or 1).

    Raises:
        Missing: for an unknown duel.
    """
    run = found(connection.execute(select(queries.c.run).where(queries.c.id == query_id)).scalar(), f"query {query_id}")
    return run, _erase_texts(connection, queries.c.id == query_id, now)


def erase_run(connection: Connection, run: str, now: float) -> int:
    """Erase the texts of a run: of its duels, which are cancelled if they are open, of its completions, and those for
    annotators. How many duels had texts.

    Raises:
        Missing: for an unknown run.
    """
    texts = update(runs).where(runs.c.id == run).values(instructions="", examples="[]")
    if connection.execute(texts).rowcount == 0:
        raise Missing(f"There is no run {run}.")
    forget_texts(connection, completions.c.run == run, now=now)
    return _erase_texts(connection, queries.c.run == run, now)


def erase_queries(connection: Connection, query_ids: Sequence[str], now: float) -> int:
    """Erase the texts of duels, which are cancelled if they are open; of how many that had them."""
    several = (query_ids[start : start + MOST_AT_ONCE] for start in range(0, len(query_ids), MOST_AT_ONCE))
    return sum(_erase_texts(connection, queries.c.id.in_(some), now) for some in several)


def forget_comments(connection: Connection, which: ColumnElement[bool]) -> None:
    """Without a comment a label has the digest of the same answer without one: a guess cannot be confirmed by it."""
    for label in connection.execute(select(labels).where(which, labels.c.comment.is_not(None))).all():
        digest = digest_of_answer(label._asdict() | {"comment": None})
        without = update(labels).where(labels.c.id == label.id).values(comment=None, body_digest=digest)
        connection.execute(without)


def has_past(connection: Connection, now: float) -> bool:
    """Whether texts are kept whose time has passed."""
    return connection.execute(_past(now).limit(1)).first() is not None


def erase_past(connection: Connection, now: float) -> int:
    """Erase the texts of some duels that have been over for longer than their run keeps them; of how many."""
    keeping = connection.execute(select(runs.c.id).where(runs.c.retention_days.is_not(None))).scalars().all()
    for run in keeping:
        sweep(connection, run, now)  # what has expired is over, whether or not anybody asked since
    past = connection.execute(_past(now).limit(MOST_AT_ONCE)).scalars().all()
    return _erase_texts(connection, queries.c.id.in_(past), now) if past else 0


def _past(now: float) -> Select:
    """Duels that have been over for too long: since the last answer, the time at which they expired, or their posting,
    whichever is latest."""
    limit = now - runs.c.retention_days * _DAY
    answered_since = exists().where(labels.c.query_id == queries.c.id, labels.c.revises.is_(None), labels.c.at >= limit)
    expired = (queries.c.state == "expired") | ((queries.c.state == "open") & (queries.c.expires_at <= now))
    return (
        select(queries.c.id)
        .join(runs, runs.c.id == queries.c.run)
        .where(
            runs.c.retention_days.is_not(None),
            queries.c.erased_at.is_(None),
            or_(
                queries.c.state.in_(("answered", "cancelled")),
                expired & (queries.c.expires_at < limit),
            ),
            queries.c.created_at < limit,
            ~answered_since,
        )
        .order_by(queries.c.number)
    )


def _names(connection: Connection, annotator: str) -> tuple[set[str], set[str]]:
    """The names under which somebody entered labels, those of their keys, and those of them that only they have: what
    others answered with a key that is called the same stays theirs."""
    held = connection.execute(select(keys.c.name, keys.c.annotator)).all()
    names = {key.name for key in held if key.annotator == annotator} | {annotator}
    return names, names - {key.name for key in held if key.annotator != annotator}


def _erase_texts(connection: Connection, which: ColumnElement[bool], now: float) -> int:
    """Erase the texts of duels; of how many that had them. Nobody is asked them any more."""
    count = connection.execute(select(func.count()).where(which, queries.c.erased_at.is_(None))).scalar_one()
    live = (leases.c.query_id == queries.c.id, leases.c.state == LIVE, leases.c.kind == "vote")
    held = select(func.count()).where(*live).scalar_subquery()
    erased = {
        "prompt": "",
        "first": "",
        "second": "",
        "body_digest": NO_DIGEST,
        "erased_at": func.coalesce(queries.c.erased_at, now),
        "state": case((queries.c.state == "open", "cancelled"), else_=queries.c.state),
        "places": queries.c.places + held,
    }
    connection.execute(update(queries).where(which).values(erased))
    of_them = leases.c.query_id.in_(select(queries.c.id).where(which))
    connection.execute(update(leases).where(of_them, leases.c.state == LIVE).values(state="released"))
    forget_texts(connection, completions.c.query_id.in_(select(queries.c.id).where(which)), now=now)
    demand(connection, now)
    return int(count)


def _forget_requests(connection: Connection, annotator: str) -> None:
    """Forget the batches that a person sent, and let none that named them confirm a guess: sent again, it clashes."""
    connection.execute(delete(requests).where(requests.c.annotator == annotator))
    imported = (labels.c.annotator == annotator, labels.c.lease_id.is_(None))
    theirs = set(connection.execute(select(labels.c.id).where(*imported)).scalars())
    batches = select(requests).where(requests.c.run.in_(select(labels.c.run).where(*imported)))
    for batch in connection.execute(batches).all() if theirs else ():
        if any(given["label_id"] in theirs for given in json.loads(batch.answer)):
            same = (column == batch._mapping[column] for column in requests.primary_key)
            connection.execute(update(requests).where(*same).values(body_digest=NO_DIGEST))
