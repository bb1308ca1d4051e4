"""Implicit choices: a duel that nobody answered, of which the conversation went on with one side.

They are kept apart from what users say. Nothing learns from them: most apps go on with the first response by
themselves. What a user says of the duel, before or after, takes their place.
"""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, exists, func, insert, select

from sea_agent.service.store.feedback import IS_CURRENT
from sea_agent.service.store.live_tables import EXPORTED, SIDES, completions, feedback, implicit_choices

Values = dict[str, Any]

LOOKED_AT = 10
"""Of the duels of a conversation, so many of the newest are looked at."""

_SAID = exists().where(feedback.c.completion_id == completions.c.id, feedback.c.kind == "choice", IS_CURRENT)
_OF_DUEL = implicit_choices.c.completion_id == completions.c.id
_in_run: ColumnElement[str] = completions.c.run + ""  # found by their duels, not by the run
_LISTED = (
    select(
        implicit_choices.c.number,
        implicit_choices.c.outcome,
        implicit_choices.c.at,
        *EXPORTED,
    )
    .join(completions, _OF_DUEL)
    .where(completions.c.asked == "duel", completions.c.erased_at.is_(None), ~_SAID)
    .order_by(implicit_choices.c.number)
)


def note(connection: Connection, row: Values, messages: Sequence[Values]) -> None:
    """Note which side of a duel a request goes on with, if the last response in it is one: the first time, and as long
    as its user did not say which is better.

    Args:
        row: the request's columns.
        messages: its whole conversation.
    """
    place = max((place for place, message in enumerate(messages) if message["role"] == "assistant"), default=0)
    said, before = messages[place]["content"], list(messages[:place])
    if not before:
        return
    same = (completions.c.run == row["run"], completions.c.conversation == row["conversation"])
    asked = (completions.c.asked.is_not(None), completions.c.erased_at.is_(None), completions.c.state == "done")
    duels = select(
        completions.c.id,
        exists().where(_OF_DUEL).label("known"),
        _SAID.label("said"),
        completions.c.messages,
        completions.c.responses,
    ).where(*same, *asked)
    for duel in connection.execute(duels.order_by(completions.c.number.desc()).limit(LOOKED_AT)):
        read, texts = json.loads(duel.messages), [shown["text"] for shown in json.loads(duel.responses)]
        if said in texts and before[-len(read) :] == read:
            if not duel.known and not duel.said:
                outcome = SIDES[texts.index(said)]
                connection.execute(
                    insert(implicit_choices), {"completion_id": duel.id, "outcome": outcome, "at": row["done_at"]}
                )
            return


def counts(connection: Connection, run: str, since: float) -> dict[str, int]:
    """With which side, in the order shown, duels were gone on with that were asked since a time."""
    counted = (
        select(implicit_choices.c.outcome, func.count().label("n"))
        .join(completions, and_(_OF_DUEL, completions.c.run == run, completions.c.created_at >= since))
        .where(~_SAID)
        .group_by(implicit_choices.c.outcome)
    )
    return dict.fromkeys(SIDES, 0) | {row.outcome: row.n for row in connection.execute(counted)}


def listed(connection: Connection, run: str, after: int, limit: int) -> list[Row]:
    """Implicit choices after a number, in order, without audits and erased texts."""
    return list(connection.execute(_LISTED.where(_in_run == run, implicit_choices.c.number > after).limit(limit)))
