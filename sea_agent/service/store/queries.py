"""Duels that experiments post."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from sea_agent.seeding import id_for
from sea_agent.service.store.faults import Conflict, found
from sea_agent.service.store.tables import LIVE, leases, queries, runs

Values = dict[str, Any]


def digest_of(body: Any) -> str:
    """SHA-256 of a JSON value in one fixed spelling: equal for equal bodies."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def addressed(run: str, items: Iterable[Values]) -> list[Values]:
    """The duels of a batch with the ids and digests that ``post`` needs: the writer has no time to make them."""
    return [{**item, "id": id_for("query", run, item["client_key"]), "body_digest": digest_of(item)} for item in items]


def post(connection: Connection, run: str, items: Sequence[Values], now: float) -> list[Values]:
    """Store the ``addressed`` duels of a batch that are not there yet: all of them or, with an exception, none.

    Raises:
        Missing: for an unknown run.
        Conflict: for a ``client_key`` that is there with another body.
    """
    default = found(connection.execute(select(runs.c.votes_needed).where(runs.c.id == run)).scalar(), f"run {run}")
    known = _digests(connection, run, [item["client_key"] for item in items])
    answers, new = [], []
    for item in items:
        client_key, digest = item["client_key"], item["body_digest"]
        created = client_key not in known
        if known.setdefault(client_key, digest) != digest:
            raise Conflict(f"client_key {client_key!r} is there already with another body.", client_key)
        answers.append({"id": item["id"], "client_key": client_key, "created": created})
        if created:
            new.append(_row(run, item, default, now))
    if new:
        connection.execute(insert(queries), new)
    return answers


def get(connection: Connection, query_id: str, now: float) -> Values:
    """A duel, with its state at a time. Raises: Missing."""
    row = found(connection.execute(select(queries).where(queries.c.id == query_id)).first(), f"query {query_id}")
    return {**row._asdict(), "state": state_at(row, now)}


def state_at(query: Row, now: float) -> str:
    """The state of a duel; an open one whose time has passed is expired before anybody wrote that down."""
    passed = query.state == "open" and query.expires_at is not None and query.expires_at <= now
    return "expired" if passed else query.state


def cancel(connection: Connection, query_id: str) -> None:
    """Ask nobody any more; an answer that comes all the same is kept, as late. An answered duel stays answered.

    Raises:
        Missing: for an unknown duel.
    """
    state = found(
        connection.execute(select(queries.c.state).where(queries.c.id == query_id)).scalar(), f"query {query_id}"
    )
    if state != "open":
        return
    connection.execute(update(queries).where(queries.c.id == query_id).values(state="cancelled"))
    ended = update(leases).where(leases.c.query_id == query_id, leases.c.state == LIVE).values(state="released")
    kinds = connection.execute(ended.returning(leases.c.kind)).scalars().all()
    freed = kinds.count("vote")  # repeats and gold duels take no place
    connection.execute(update(queries).where(queries.c.id == query_id).values(places=queries.c.places + freed))


def find(connection: Connection, run: str, column: str, values: Iterable[str]) -> dict[str, Row]:
    """The duels of a run with these ids or client keys (``column``), by that column."""
    wanted = queries.c[column]
    rows = connection.execute(select(queries).where(queries.c.run == run, wanted.in_(list(values))))
    return {row._mapping[column]: row for row in rows}


def _digests(connection: Connection, run: str, client_keys: Sequence[str]) -> dict[str, str]:
    statement = select(queries.c.client_key, queries.c.body_digest).where(
        queries.c.run == run, queries.c.client_key.in_(client_keys)
    )
    return {row.client_key: row.body_digest for row in connection.execute(statement)}


def _row(run: str, item: Values, default_votes: int, now: float) -> Values:
    votes_needed = item["votes_needed"] or default_votes
    return {
        **item,
        "run": run,
        "votes_needed": votes_needed,
        "state": "open",
        "votes": 0,
        "places": votes_needed,
        "created_at": now,
    }
