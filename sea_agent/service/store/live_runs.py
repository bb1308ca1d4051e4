"""The runs that are live, and by which names users are kept in them."""

import hashlib
import hmac
from collections.abc import Collection

from sqlalchemy import Connection, Row, insert, select, update

from sea_agent.service.store.faults import Missing
from sea_agent.service.store.live_tables import completions, live_runs, live_users
from sea_agent.service.store.tables import runs


def get(connection: Connection, run: str) -> Row:
    """A live run. Raises: Missing for one that is unknown or not live."""
    row = connection.execute(select(live_runs).where(live_runs.c.run == run)).first()
    if row is None:
        raise Missing(f"There is no live run {run}.")
    return row


def reached(connection: Connection, by: Collection[str] | None) -> list[Row]:
    """The live runs that a key reaches which is for the runs ``by`` (None: any)."""
    rows = connection.execute(select(live_runs).order_by(live_runs.c.run)).all()
    return [row for row in rows if by is None or row.run in by]


def hashed(secret: str, user: str) -> str:
    """By which name a user is kept in the run with this secret: HMAC-SHA256, in hexadecimal digits."""
    return hmac.new(secret.encode(), user.encode(), hashlib.sha256).hexdigest()


def of_user(run: str, user_hash: str, owner: str | None) -> tuple:
    """Holds for the completions of a user that the key ``owner`` made (None: any key)."""
    theirs = (completions.c.run == run, completions.c.user_hash == user_hash)
    return theirs if owner is None else (*theirs, completions.c.key_id == owner)


def is_of_others(connection: Connection, run: str, user_hash: str, owner: str | None) -> bool:
    """Whether only other keys than ``owner`` (None: any key is meant) know a user."""
    if owner is None:
        return False
    known, own = (
        connection.execute(select(completions.c.number).where(*of_user(run, user_hash, key)).limit(1)).first()
        for key in (None, owner)
    )
    return known is not None and own is None


def set_asks(connection: Connection, run: str, user_hash: str, asks: bool) -> None:
    """Ask a user no more, or again; they may never have written yet."""
    theirs = (live_users.c.run == run, live_users.c.user_hash == user_hash)
    if connection.execute(update(live_users).where(*theirs).values(asks=asks)).rowcount == 0:
        # Nothing at the beginning of time: the bucket is full whenever it is looked at.
        row = {"run": run, "user_hash": user_hash, "asks": asks, "tokens": 0.0, "since": 0.0}
        connection.execute(insert(live_users), row)


def retention(connection: Connection) -> dict[str, float]:
    """The days after which live runs erase texts, by run; those that keep them are not there."""
    kept = select(runs.c.id, runs.c.retention_days).join(live_runs, live_runs.c.run == runs.c.id)
    rows = connection.execute(kept.where(runs.c.retention_days.is_not(None)))
    return {row.id: row.retention_days for row in rows}
