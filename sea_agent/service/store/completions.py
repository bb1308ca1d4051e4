"""Completions of live mode as the gateway writes them: at their end, and at their start if a repeat must find them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from sea_agent.service.store import assignments, implicit, queries, runs, tables
from sea_agent.service.store.faults import Conflict
from sea_agent.service.store.live_tables import completions, live_runs, live_users

Values = dict[str, Any]

NO_TEXTS = {"messages": "[]", "prompt": "{}", "responses": "[]", "answer": ""}
OF_NOBODY = {"user_hash": None, "conversation": "", "idempotency_key": None, "body_digest": queries.NO_DIGEST}
"""Columns of a request whose user was erased while it was answered: digests could confirm a guess."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the store knows of a user and a conversation before a request: whether they may be asked, which nobody may
    in a closed run, the bucket that says how often, and whether the last request of the conversation asked."""

    asks: bool
    tokens: float | None
    since: float | None
    was_asked: bool


def make_run(connection: Connection, run: str, secret: str, retention_days: float | None, now: float) -> Row:
    """The live run, made if it is missing; requests that its last life left unfinished have failed."""
    runs.put(connection, run, {"repeat_share": 0.0, "gold_share": 0.0, "retention_days": retention_days}, now=now)
    if connection.execute(select(live_runs.c.run).where(live_runs.c.run == run)).first() is None:
        connection.execute(insert(live_runs), {"run": run, "secret": secret})
    left = update(completions).where(completions.c.run == run, completions.c.state == "begun")
    connection.execute(left.values(state="failed", done_at=now))
    return connection.execute(select(live_runs).where(live_runs.c.run == run)).one()


def considered(connection: Connection, run: str, limit: int) -> list[float]:
    """The information of the newest considered requests, oldest first."""
    found = select(completions.c.information).where(completions.c.run == run, completions.c.information.is_not(None))
    return list(connection.execute(found.order_by(completions.c.number.desc()).limit(limit)).scalars())[::-1]


def known(connection: Connection, run: str, user_hash: str, conversation: str) -> Known:
    """What is known of a user and a conversation."""
    theirs = (live_users.c.run == run, live_users.c.user_hash == user_hash)
    user = connection.execute(select(live_users).where(*theirs)).first()
    same = (completions.c.run == run, completions.c.user_hash == user_hash, completions.c.conversation == conversation)
    answered = (*same, completions.c.state == "done")
    last = select(completions.c.asked).where(*answered).order_by(completions.c.number.desc()).limit(1)
    was_asked = connection.execute(last).scalar() is not None
    state = connection.execute(select(tables.runs.c.state).where(tables.runs.c.id == run)).scalar()
    takes_duels = state in runs.UNFINISHED
    if user is None:
        return Known(takes_duels, None, None, was_asked)
    return Known(takes_duels and user.asks, user.tokens, user.since, was_asked)


def begin(connection: Connection, row: Values) -> Row | None:
    """Write a request with an idempotency key before it is answered. None if it is new, or if nobody answers the last
    one any more, which failed or was cut off; else the row that is there.

    Raises:
        Conflict: for a key that came with another body before.
    """
    same = (completions.c.key_id == row["key_id"], completions.c.idempotency_key == row["idempotency_key"])
    there = connection.execute(select(completions).where(*same)).first()
    if there is not None:
        if there.body_digest != row["body_digest"]:
            raise other_body(row["idempotency_key"])
        if there.state == "done":
            return there
        # It has no feedback: nobody was told its id.
        connection.execute(delete(completions).where(completions.c.number == there.number))
    connection.execute(insert(completions), row | NO_TEXTS | {"state": "begun"})
    return None


def other_body(key: str) -> Conflict:
    """Why an idempotency key cannot be used."""
    return Conflict(f"Idempotency-Key {key!r} came with another body before.")


def begun(asked: Any) -> Values:
    """The row of a request that begins."""
    names = ("id", "run", "user_hash", "conversation", "key_id", "idempotency_key", "created_at", "heldout", "eligible")
    return {name: getattr(asked, name) for name in names} | {"body_digest": asked.digest, "stored": False}


def fail(connection: Connection, row: Values, now: float) -> None:
    """Count a request as failed, unless its answer is on disk: a write whose answer came late may have happened."""
    there = connection.execute(select(completions.c.state).where(completions.c.id == row["id"])).scalar()
    failed = {"state": "failed", "done_at": now}
    if there is None:
        connection.execute(insert(completions), row | NO_TEXTS | failed)
    elif there == "begun":
        connection.execute(update(completions).where(completions.c.id == row["id"]).values(failed))


def end(
    connection: Connection,
    row: Values,
    duel: Values | None,
    bucket: tuple[float, float] | None,
    messages: Sequence[Values],
) -> None:
    """Write how a request ended, with the duel that it became, how often its user may be asked from now on, and what it
    implies about an earlier duel.

    Args:
        row: the columns of a completion; those of one that has begun replace what is there.
        duel: as ``queries.addressed`` makes it, for the user alone.
        bucket: tokens and since when.
        messages: the whole conversation; empty where nothing of it may be kept.
    """
    if messages:
        implicit.note(connection, row, messages)
    if duel is not None:
        queries.post(connection, row["run"], [duel], row["done_at"])
        assignments.assign(connection, duel["id"], [row["user_hash"]])
    there = update(completions).where(completions.c.id == row["id"]).values(**row)
    if connection.execute(there).rowcount == 0:
        connection.execute(insert(completions), row)
    if bucket is not None:
        values = dict(zip(("tokens", "since"), bucket, strict=True))
        theirs = (live_users.c.run == row["run"], live_users.c.user_hash == row["user_hash"])
        if connection.execute(update(live_users).where(*theirs).values(**values)).rowcount == 0:
            key = {"run": row["run"], "user_hash": row["user_hash"]}
            connection.execute(insert(live_users), key | values)


def texts(messages: Sequence[Values], prompt: Values, responses: Sequence[Values], answer: Values) -> Values:
    """The columns that hold texts."""
    parts = {"messages": messages, "prompt": prompt, "responses": responses, "answer": answer}
    return {name: json.dumps(part, ensure_ascii=False) for name, part in parts.items()}
