"""Forgetting the texts of completions: of the conversation, the responses, and edits of them. Counts stay, but for what
nobody said: implicit choices."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, delete, select, update

from sea_agent.service.store.live_tables import completions, feedback, implicit_choices, live_runs

MOST_AT_ONCE = 1000
"""Completions whose texts one erasure takes; a larger one is numbered as several."""

_NOTHING = {
    "messages": "[]",
    "prompt": "{}",
    "responses": "[]",
    "answer": "",
    # Digests could confirm a guess, and an app may have put anything into the key of a request.
    "conversation": "",
    "body_digest": "",
    "idempotency_key": None,
}
NO_EDIT = '{"text":""}'


def forget_texts(connection: Connection, *which: ColumnElement[bool], now: float) -> int:
    """Forget the texts of completions that have them; of how many. The files of the database are to be purged then."""
    kept = select(completions.c.run, completions.c.id).where(*which, completions.c.erased_at.is_(None))
    of_run: dict[str, list[str]] = {}
    for row in connection.execute(kept.order_by(completions.c.number)):
        of_run.setdefault(row.run, []).append(row.id)
    for run, ids in of_run.items():
        for start in range(0, len(ids), MOST_AT_ONCE):
            _forget(connection, run, ids[start : start + MOST_AT_ONCE], now)
    return sum(map(len, of_run.values()))


def _forget(connection: Connection, run: str, ids: Sequence[str], now: float) -> None:
    counted = update(live_runs).where(live_runs.c.run == run).values(erasures=live_runs.c.erasures + 1)
    erasure = connection.execute(counted.returning(live_runs.c.erasures)).scalar_one()
    erased = _NOTHING | {"erased_at": now, "erasure": erasure}
    connection.execute(update(completions).where(completions.c.id.in_(ids)).values(erased))
    _forget_implied(connection, ids)
    edits = (feedback.c.completion_id.in_(ids), feedback.c.kind == "edit")
    connection.execute(update(feedback).where(*edits).values(value=NO_EDIT, body_digest=""))


def _forget_implied(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(delete(implicit_choices).where(implicit_choices.c.completion_id.in_(ids)))
