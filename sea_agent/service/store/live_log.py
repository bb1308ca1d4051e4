"""What the agent reads of a live run: duels in the order in which they were asked, conversations, and what was erased.

Duels are counted by the row of ``queries``, which is written with the answer to the request: in the order of the
commits, so that no duel appears behind a cursor. Requests are counted when they begin, and end in any order.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select

from sea_agent.service.store import live_runs
from sea_agent.service.store.feedback import IS_CURRENT, is_swapped
from sea_agent.service.store.live_tables import EXPORTED, completions, feedback
from sea_agent.service.store.tables import queries

Values = dict[str, Any]

MOST_ERASURES = 5
"""Erasures in one answer, of 1,000 completions each at most."""
LOOKED_AT = 20
"""Of how many requests, for each conversation that is wanted, the newest are looked at."""

# No index is for the value of an expression: those for a run have no order of duels and of thumbs.
_of_run: ColumnElement[str] = queries.c.run + ""
_in_run: ColumnElement[str] = completions.c.run + ""
_DUELS = (
    select(
        queries.c.number,
        queries.c.client_key,
        queries.c.first,
        queries.c.second,
        completions.c.id.label("completion"),
        completions.c.query_id,
        completions.c.user_hash,
        completions.c.asked,
        completions.c.by_chance,
        completions.c.information,
        completions.c.policy_version,
        completions.c.created_at,
        completions.c.messages,
        completions.c.prompt,
        completions.c.responses,
    )
    .join(completions, completions.c.id == queries.c.client_key)
    .where(completions.c.asked.is_not(None), completions.c.erased_at.is_(None))
    .order_by(queries.c.number)
)
_CONVERSATIONS = (
    completions.c.state == "done",
    completions.c.stored,
    completions.c.erased_at.is_(None),
)
_THUMBS = (
    select(
        feedback.c.number,
        feedback.c.value,
        feedback.c.at,
        *EXPORTED,
    )
    .join(completions, completions.c.id == feedback.c.completion_id)
    .where(feedback.c.kind == "thumbs", IS_CURRENT)
    .where(*_CONVERSATIONS, ~completions.c.heldout, completions.c.asked.is_distinct_from("audit"))
    .order_by(feedback.c.number)
)


@dataclass(frozen=True, slots=True)
class Erased:
    """Ids of completions whose texts were erased, up to which erasure, and how many erasures there were."""

    completions: Sequence[str]
    next_after: int
    erasures: int


def duels(connection: Connection, run: str, after: int, limit: int) -> list[Values]:
    """Duels of a run after a number, in order, without those whose texts were erased.

    Raises:
        Missing: for a run that is not live.
    """
    live_runs.get(connection, run)
    rows = connection.execute(_DUELS.where(_of_run == run, queries.c.number > after).limit(limit))
    return [_duel(row) for row in rows]


def prompts(connection: Connection, run: str, after: int | None, heldout: bool, limit: int) -> list[Values]:
    """Conversations of a run by the number of their newest request, each once: those after a number, or the newest.

    Raises:
        Missing: for a run that is not live.
    """
    live_runs.get(connection, run)
    wanted = (completions.c.run == run, completions.c.heldout == heldout, *_CONVERSATIONS)
    which = select(completions.c.number, completions.c.conversation).where(*wanted)
    if after is None:
        looked_at = which.order_by(completions.c.number.desc()).limit(limit * LOOKED_AT)
    else:
        looked_at = which.where(completions.c.number > after).order_by(completions.c.number).limit(limit)
    newest: dict[str, int] = {}
    for row in connection.execute(looked_at):
        if after is not None or (row.conversation not in newest and len(newest) < limit):
            newest[row.conversation] = row.number
    with_texts = select(completions).where(completions.c.number.in_(newest.values())).order_by(completions.c.number)
    return [_prompt(row) for row in connection.execute(with_texts)]


def erased(connection: Connection, run: str, after: int) -> Erased:
    """What the erasures of a run took after so many of them. Raises: Missing for a run that is not live."""
    erasures = live_runs.get(connection, run).erasures
    last = min(after + MOST_ERASURES, erasures)
    taken = (completions.c.erasure > after, completions.c.erasure <= last)
    ids = select(completions.c.id).where(completions.c.run == run, *taken)
    in_order = ids.order_by(completions.c.erasure, completions.c.number)
    return Erased(connection.execute(in_order).scalars().all(), max(after, last), erasures)


def thumbs(connection: Connection, run: str, after: int, limit: int) -> list[Row]:
    """Thumbs on responses from which something may be learnt, after a number, in order."""
    return list(connection.execute(_THUMBS.where(_in_run == run, feedback.c.number > after).limit(limit)))


def _duel(row: Row) -> Values:
    shown = json.loads(row.responses)[:2]
    swapped = is_swapped([response["text"] for response in shown], row)
    first, second = reversed(shown) if swapped else shown
    told = ("number", "completion", "query_id", "by_chance", "information", "policy_version")
    return {name: row._mapping[name] for name in told} | {
        "user": row.user_hash,
        "audit": row.asked == "audit",
        "prompt": json.loads(row.prompt) | {"messages": json.loads(row.messages)},
        "first": first,
        "second": second,
        "at": row.created_at,
    }


def _prompt(row: Row) -> Values:
    told = {"number": row.number, "completion": row.id, "user": row.user_hash, "at": row.created_at}
    return told | json.loads(row.prompt) | {"messages": json.loads(row.messages)}
