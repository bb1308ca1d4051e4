"""Keys of callers and the sessions of the page, which are short-lived children of a key."""

import hashlib
import json
import secrets
from dataclasses import dataclass, replace

from sqlalchemy import Connection, Row, delete, insert, select, update

from sea_agent.service.store.tables import keys

SESSION_SECONDS = 12 * 3600.0
ANSWERING = frozenset({"annotate", "admin"})
"""The scopes with which duels may be answered."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret."""

    id: str
    name: str
    annotator: str
    scopes: frozenset[str]
    runs: frozenset[str] | None
    digest: str
    parent: str | None
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    def valid(self, now: float) -> bool:
        """Whether the key is valid at a time; a session also needs a valid parent."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def answers(self) -> bool:
        """Whether duels may be answered with the key."""
        return not self.scopes.isdisjoint(ANSWERING)


def digest_of(secret: str) -> str:
    """SHA-256: enough for random keys, and quick enough for every request."""
    return hashlib.sha256(secret.encode()).hexdigest()


def make_session(parent: Key, now: float) -> tuple[Key, str]:
    """A child of a key for the page, not stored yet, and its token."""
    token = secrets.token_urlsafe(32)
    child = replace(
        parent,
        id=new_id(),
        digest=digest_of(token),
        parent=parent.id,
        created_at=now,
        expires_at=min(now + SESSION_SECONDS, parent.expires_at or float("inf")),
    )
    return child, token


def load(connection: Connection) -> list[Key]:
    """Every key and session."""
    return [_key(row) for row in connection.execute(select(keys).order_by(keys.c.created_at, keys.c.id))]


def add(connection: Connection, key: Key) -> None:
    """Store a key."""
    row = {field: getattr(key, field) for field in Key.__slots__}
    row["scopes"] = " ".join(sorted(key.scopes))
    row["runs"] = None if key.runs is None else json.dumps(sorted(key.runs))
    connection.execute(insert(keys), row)


def revoke(connection: Connection, key_id: str, now: float) -> None:
    """End a key; its sessions end with it."""
    connection.execute(update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=now))


def reach(connection: Connection, annotator: str, now: float) -> frozenset[str] | None:
    """The runs in which somebody has a valid key to answer with; None: in any."""
    of_theirs = select(keys).where(keys.c.annotator == annotator, keys.c.parent.is_(None))
    held = [key for key in map(_key, connection.execute(of_theirs)) if key.valid(now) and key.answers]
    if any(key.runs is None for key in held):
        return None
    return frozenset[str]().union(*(key.runs or () for key in held))


def remove_sessions(connection: Connection, ended_before: float, token_digest: str | None = None) -> None:
    """Forget sessions that are over, and the one with this token."""
    over = (keys.c.expires_at <= ended_before) | (keys.c.digest == token_digest)
    connection.execute(delete(keys).where(keys.c.parent.is_not(None), over))


def new_id() -> str:
    """A fresh id."""
    return f"key-{secrets.token_hex(10)}"


def _key(row: Row) -> Key:
    values = row._asdict()
    values["scopes"] = frozenset(values["scopes"].split())
    values["runs"] = None if values["runs"] is None else frozenset(json.loads(values["runs"]))
    return Key(**values)
