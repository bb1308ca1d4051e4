"""What users say of completions. A choice also is an entry of the label log; a correction, an entry that revises it."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, insert, select, text, update

from sea_agent.service.store import labels as log
from sea_agent.service.store.faults import Conflict, Missing
from sea_agent.service.store.leases import Author, sweep
from sea_agent.service.store.live_tables import completions, feedback
from sea_agent.service.store.queries import digest_of, state_at
from sea_agent.service.store.tables import queries

Values = dict[str, Any]

NOBODY = "anonymous"
"""The annotator of a choice where the app named no user."""
IS_CURRENT = text("feedback.is_current")
"""Written as the index has it: SQLite does not see that ``is_current = 1`` is the same."""

_REACHED = ("id", "run", "key_id", "user_hash", "state", "asked", "query_id", "stored", "erased_at")
_COMPLETION = tuple(completions.c[name] for name in _REACHED)


@dataclass(frozen=True, slots=True)
class Giver:
    """Which key gives feedback: on its own completions, or on any for an admin, in ``runs`` (None: in every run)."""

    owner: str
    entered_by: str
    runs: frozenset[str] | None
    is_admin: bool

    def reaches(self, completion: Row) -> bool:
        """Whether a completion is the giver's to speak of."""
        in_runs = self.runs is None or completion.run in self.runs
        return in_runs and (self.is_admin or completion.key_id == self.owner)


@dataclass(frozen=True, slots=True)
class Given:
    """Feedback that is stored: whether it is ``new``, the ``same`` or ``corrected``, and the entry that it made in the
    label log, if it did."""

    run: str
    state: Literal["new", "same", "corrected"]
    late: bool
    at: float
    entry: str | None
    """``vote`` or ``revision``."""


def put(connection: Connection, completion_id: str, kind: str, body: Values, giver: Giver, now: float) -> Given:
    """Store feedback of a kind on a completion, or correct what is there. Saying again what holds adds nothing.

    Raises:
        Missing: for a completion that is unknown or another key's.
        Conflict: for a completion that is not done, a choice where nobody was asked, an edit of what is not kept, or
            erased texts.
    """
    completion = connection.execute(select(*_COMPLETION).where(completions.c.id == completion_id)).first()
    if completion is None or not giver.reaches(completion):
        raise Missing(f"There is no completion {completion_id}.")
    _require_kept(completion, kind)
    digest = digest_of(body)
    same = (feedback.c.completion_id == completion_id, feedback.c.kind == kind, IS_CURRENT)
    before = connection.execute(select(feedback).where(*same)).first()
    if before is not None and before.body_digest == digest:
        return Given(completion.run, "same", _is_late(connection, completion, kind), before.at, None)
    if before is not None:
        connection.execute(update(feedback).where(feedback.c.number == before.number).values(is_current=False))
    row = {"completion_id": completion_id, "kind": kind, "body_digest": digest, "at": now, "is_current": True}
    value = json.dumps(body, sort_keys=True, separators=(",", ":"))  # one spelling, so that SQL can count equal ones
    connection.execute(insert(feedback), row | {"value": value})
    late, entry = _label(connection, completion, body, giver, now) if kind == "choice" else (False, None)
    return Given(completion.run, "new" if before is None else "corrected", late, now, entry)


def is_swapped(shown: list[str], query: Row) -> bool:
    """Whether the responses of a duel were shown in the other order than its own.

    Raises:
        RuntimeError: for responses that are not the duel's: a label in the wrong order would be worse than none.
    """
    own = [query.first, query.second]
    straight, swapped = (any(map(str.__eq__, shown, order)) for order in (own, own[::-1]))
    if len(shown) < len(own) or straight == swapped:
        raise RuntimeError(f"the responses of {query.client_key} are not those of its duel")
    return swapped


def _require_kept(completion: Row, kind: str) -> None:
    if completion.erased_at is not None:
        raise Conflict("The texts of this completion were erased, so nothing more is kept of it.")
    if completion.state != "done":  # one that is still answered may yet fail, and be answered anew under another id
        raise Conflict("This completion is still being answered, or has failed; give feedback once it is complete.")
    if kind == "choice" and (completion.asked is None or completion.query_id is None):
        raise Conflict("This completion was no duel: there was one response, and nothing to choose.")
    if kind == "edit" and not completion.stored:
        raise Conflict("This completion was requested with store: false, so no text of it is kept.")


def _annotator(completion: Row) -> str:
    return completion.user_hash or NOBODY


def _is_late(connection: Connection, completion: Row, kind: str) -> bool:
    if kind != "choice":
        return False
    vote = log.vote_of(connection, completion.query_id, _annotator(completion))
    return vote is not None and bool(vote.late)


def _label(connection: Connection, completion: Row, body: Values, giver: Giver, now: float) -> tuple[bool, str | None]:
    """Write a choice into the label log; whether it is late, and the kind of the entry if there is a new one."""
    author = Author(_annotator(completion), giver.entered_by)
    answer = log.NOTHING_ELSE | body
    vote = log.vote_of(connection, completion.query_id, author.annotator)
    if vote is not None:
        entry, new = log.revise(connection, vote.id, author, answer, now)
        return bool(entry["late"]), "revision" if new else None
    query = connection.execute(select(queries).where(queries.c.id == completion.query_id)).one()
    state = state_at(query, now)
    if state != query.state:
        sweep(connection, query.run, now)
    served = select(completions.c.responses).where(completions.c.id == completion.id)
    shown = json.loads(connection.execute(served).scalar_one())[:2]
    swapped = is_swapped([response["text"] for response in shown], query)
    late = state in ("expired", "cancelled")
    log.vote(connection, query, author, answer, now, swapped=swapped, late=late)
    return late, "vote"
