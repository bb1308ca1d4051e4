"""Duels that experiments post, change and withdraw."""

import hashlib
import json
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, select, update

from sea_agent.service.store.faults import Conflict, found
from sea_agent.service.store.leases import end_live
from sea_agent.service.store.runs import require_unfinished
from sea_agent.service.store.tables import leases, queries, runs

Values = dict[str, Any]

NO_DIGEST = ""
"""In the place of the digest of what was erased: it could confirm a guess."""


def digest_of(body: Any) -> str:
    """SHA-256 of a JSON value in one fixed spelling: equal for equal bodies."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def new_id() -> str:
    """An id for a duel. It is drawn: annotators see it, and nothing that they know may lead from it to the duel's key,
    the order of its responses, or the file that it came from."""
    return f"query-{secrets.token_hex(10)}"


def addressed(items: Iterable[Values]) -> list[Values]:
    """The duels of a batch with the ids and digests that ``post`` needs: the writer has no time to make them."""
    return [{**item, "id": new_id(), "body_digest": digest_of(item)} for item in items]


def post(connection: Connection, run: str, items: Sequence[Values], now: float) -> list[Values]:
    """Store the ``addressed`` duels of a batch that are not there yet: all of them or, with an exception, none.

    A ``client_key`` that is there names the duel that is there, whose id is the answer. One whose texts were erased is
    there with any body, so that a run that posts it again goes on.

    Raises:
        Missing: for an unknown run.
        Conflict: for a ``client_key`` that is there with another body; for a run that is closed or archived.
    """
    require_unfinished(connection, run)
    default = connection.execute(select(runs.c.votes_needed).where(runs.c.id == run)).scalar_one()
    known = _known(connection, run, [item["client_key"] for item in items])
    answers, new = [], []
    for item in items:
        client_key, digest = item["client_key"], item["body_digest"]
        created = client_key not in known
        wanted = item["votes_needed"] or default
        query_id, stored_digest, votes_needed = known.setdefault(client_key, (item["id"], digest, wanted))
        if stored_digest not in (digest, NO_DIGEST):
            raise Conflict(f"client_key {client_key!r} is there already with another body.", client_key)
        answers.append({"id": query_id, "client_key": client_key, "created": created, "votes_needed": votes_needed})
        if created:
            new.append(_row(run, item, votes_needed, now))
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


def cancel(connection: Connection, query_id: str, now: float) -> None:
    """Ask nobody any more; an answer that comes all the same is kept, as late. An answered duel stays answered.

    Raises:
        Missing: for an unknown duel.
    """
    state = found(
        connection.execute(select(queries.c.state).where(queries.c.id == query_id)).scalar(), f"query {query_id}"
    )
    if state != "open":
        return
    connection.execute(update(queries).where(queries.c.id == query_id).values(state="cancelled", ended_at=now))
    take_back(connection, query_id)


def take_back(connection: Connection, query_id: str, *which: ColumnElement[bool]) -> None:
    """End the live leases of a duel, or those for which ``which`` holds; others may have it. A late answer is kept."""
    end_live(connection, leases.c.query_id == query_id, *which)


def change(connection: Connection, query_id: str, given: Values, now: float) -> None:
    """Change the priority of a duel, or the votes that it needs: it is answered, or open again, as these say.

    Raises:
        Missing: for an unknown duel.
        Conflict: for one without texts that would be open again.
    """
    query = found(connection.execute(select(queries).where(queries.c.id == query_id)).first(), f"query {query_id}")
    values = dict(given)
    if "votes_needed" in given:
        values["places"] = query.places + given["votes_needed"] - query.votes_needed
        if query.state in ("open", "answered"):
            values["state"] = _state_with(query.votes, given["votes_needed"])
            if values["state"] == "open":
                _require_texts(query)
            if values["state"] != query.state:
                values["ended_at"] = now if query.state == "open" else None
    if values:
        connection.execute(update(queries).where(queries.c.id == query_id).values(values))


def reopen(connection: Connection, query_id: str, now: float) -> None:
    """Ask for a duel again that was cancelled or has expired, also those who skipped it. It expires no more.

    Raises:
        Missing: for an unknown duel.
        Conflict: for one that has all its votes, or no texts.
    """
    query = found(connection.execute(select(queries).where(queries.c.id == query_id)).first(), f"query {query_id}")
    if query.state == "answered":
        raise Conflict("The duel has all its votes; let it need more (votes_needed) to ask for more.")
    _require_texts(query)
    over = query.state == "expired" or (query.expires_at is not None and query.expires_at <= now)
    values = {
        "state": _state_with(query.votes, query.votes_needed),
        "expires_at": None if over else query.expires_at,
    }
    values["ended_at"] = None if values["state"] == "open" else query.ended_at
    connection.execute(update(queries).where(queries.c.id == query_id).values(values))
    skipped = (leases.c.query_id == query_id, leases.c.state == "skipped")
    connection.execute(update(leases).where(*skipped).values(state="released", instead_of=None))


def find(connection: Connection, run: str, column: str, values: Iterable[str]) -> dict[str, Row]:
    """The duels of a run with these ids or client keys (``column``), by that column."""
    wanted = queries.c[column]
    rows = connection.execute(select(queries).where(queries.c.run == run, wanted.in_(list(values))))
    return {row._mapping[column]: row for row in rows}


def _require_texts(query: Row) -> None:
    if query.erased_at is not None:
        raise Conflict("The texts of the duel were erased; post it anew, under another client_key.")


def _state_with(votes: int, needed: int) -> str:
    return "answered" if votes >= needed else "open"


def _known(connection: Connection, run: str, client_keys: Sequence[str]) -> dict[str, tuple[str, str, int]]:
    """By client key, the id and the digest of the duel that is there already, and the votes that it needs."""
    statement = select(queries.c.client_key, queries.c.id, queries.c.body_digest, queries.c.votes_needed).where(
        queries.c.run == run, queries.c.client_key.in_(client_keys)
    )
    return {row.client_key: (row.id, row.body_digest, row.votes_needed) for row in connection.execute(statement)}


def _row(run: str, item: Values, votes_needed: int, now: float) -> Values:
    return {
        **item,
        "run": run,
        "votes_needed": votes_needed,
        "state": "open",
        "votes": 0,
        "places": votes_needed,
        "created_at": now,
    }
