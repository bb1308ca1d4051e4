"""The label log: append-only, ``seq`` without gaps in the order of the commits.

An answer comes in presentation order and is kept in the query's own. An annotator has one vote on a duel; corrections
are entries of their own that name the label they revise.
"""

import json
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Connection, Row, bindparam, case, insert, select, update

from sea_agent.service.store import queries as duels
from sea_agent.service.store.faults import Conflict, Missing
from sea_agent.service.store.leases import Author, give_place_back, own, sweep
from sea_agent.service.store.queries import digest_of
from sea_agent.service.store.runs import last_seq
from sea_agent.service.store.tables import OPEN, labels, leases, own_answer, queries, requests, runs

Values = dict[str, Any]

_OTHER_SIDE = {"first": "second", "second": "first"}
NOTHING_ELSE: Values = {"strength": None, "comment": None, "elapsed_ms": None}
"""What an answer does not have that was imported or given by a user of live mode."""

_ID: BindParameter[str] = bindparam("which")
_NEXT_SEQ = update(runs).where(runs.c.id == _ID).values(last_seq=runs.c.last_seq + 1).returning(runs.c.last_seq)
_INSERT = insert(labels)
_SET_LABELLED = update(leases).where(leases.c.id == _ID).values(state="labelled")
_COUNT_VOTE = (
    update(queries)
    .where(queries.c.id == _ID)
    .values(
        votes=queries.c.votes + 1,
        places=queries.c.places - bindparam("taken"),
        state=case(
            ((queries.c.votes + 1 >= queries.c.votes_needed) & (queries.c.state == OPEN), "answered"),
            else_=queries.c.state,
        ),
    )
)
_VOTE_OF = select(labels).where(*own_answer(_ID, bindparam("who")))
_LABEL = select(labels).where(labels.c.id == _ID)
_LABEL_OF_LEASE = select(labels).where(labels.c.lease_id == _ID, labels.c.revises.is_(None))


class Refused(Exception):
    """Items of a batch name nothing that exists: (index, field, what is wrong)."""

    def __init__(self, faults: list[tuple[int, str, str]]) -> None:
        super().__init__("the batch names what does not exist")
        self.faults = faults


def put(connection: Connection, lease_id: str, author: Author, body: Values, now: float) -> tuple[Values, bool]:
    """Answer a lease: the label with its run, and whether it is new. An exact replay finds the label that is there.

    Raises:
        Missing: for a lease that is not the annotator's.
        Conflict: when there is an answer with another body.
    """
    lease = own(connection, lease_id, author)
    if lease.state == "labelled":
        return _replayed(connection, lease, body), False
    if lease.state == "live" and lease.expires_at <= now:
        sweep(connection, lease.run, now)
        lease = own(connection, lease_id, author)
    if lease.kind != "repeat" and lease.answered:
        raise Conflict("This annotator has answered the query already, in an import.")
    shown = {"lease_id": lease_id, "swapped": lease.swapped, "late": lease.state != "live"}
    entry = _append(connection, lease.run, lease.query_id, lease.kind, author, body, now, **shown)
    connection.execute(_SET_LABELLED, {"which": lease_id})
    if lease.kind == "vote":
        _count_vote(connection, lease.query_id, held_place=lease.state == "live")
    elif lease.state == "live":
        give_place_back(connection, lease)
    return _answer(entry), True


def revise(connection: Connection, label_id: str, author: Author, body: Values, now: float) -> tuple[Values, bool]:
    """Correct a label by a new entry: that with its run, and whether it is new. Saying again what holds adds nothing.

    Raises:
        Missing: for a label that is not the annotator's.
    """
    given = connection.execute(_LABEL, {"which": label_id}).first()
    if given is None or not _may_correct(author, given):
        raise Missing(f"There is no label {label_id}.")
    root = given.revises or given.id
    history = select(labels).where((labels.c.id == root) | (labels.c.revises == root)).order_by(labels.c.seq.desc())
    latest = connection.execute(history.limit(1)).one()
    if latest.body_digest == digest_of(body):
        return _answer(latest._asdict()), False
    of_annotator = Author(given.annotator, author.entered_by)
    shown = {"lease_id": given.lease_id, "swapped": given.swapped, "late": given.late}
    entry = _append(connection, given.run, given.query_id, given.kind, of_annotator, body, now, **shown, revises=root)
    return _answer(entry), True


def import_batch(
    connection: Connection, run: str, author: Author, key: str, items: Sequence[Values], now: float
) -> tuple[list[Values], bool]:
    """Store answers in the queries' own order, all of them or, with an exception, none; and whether the batch is new.

    The same idempotency key with the same body gives the first answer again.

    Raises:
        Missing: for an unknown run.
        Refused: for a query that is not in the run.
        Conflict: for an idempotency key that came with another body, or a second vote with another outcome.
    """
    digest = digest_of(list(items))
    same = (requests.c.run == run, requests.c.annotator == author.annotator, requests.c.idempotency_key == key)
    before = connection.execute(select(requests).where(*same)).first()
    if before is not None:
        if before.body_digest != digest:
            raise Conflict(f"Idempotency-Key {key!r} came with another body before.")
        return list(json.loads(before.answer)), False
    last_seq(connection, run)
    answers = _import(connection, run, author, _resolved(connection, run, items), now)
    connection.execute(
        insert(requests),
        {
            "run": run,
            "annotator": author.annotator,
            "idempotency_key": key,
            "body_digest": digest,
            "answer": json.dumps(answers),
            "created_at": now,
        },
    )
    return answers, True


def page(connection: Connection, run: str, after_seq: int, limit: int) -> list[Row]:
    """Entries of a run's log after ``seq``, in order. Raises: Missing for an unknown run."""
    entries = list(connection.execute(_log(labels.c.run == run, labels.c.seq > after_seq).limit(limit)))
    if not entries:
        last_seq(connection, run)
    return entries


def of_query(connection: Connection, query_id: str) -> list[Row]:
    """The votes on a duel and their corrections, in the order of the log."""
    votes = select(labels.c.id).where(
        labels.c.query_id == query_id, labels.c.kind == "vote", labels.c.revises.is_(None)
    )
    return list(connection.execute(_log(labels.c.id.in_(votes) | labels.c.revises.in_(votes))))


def vote_of(connection: Connection, query_id: str, annotator: str) -> Row | None:
    """The annotator's own answer to a duel: a vote, or that to a gold duel."""
    return connection.execute(_VOTE_OF, {"which": query_id, "who": annotator}).first()


def vote(
    connection: Connection, query: Row, author: Author, body: Values, now: float, *, swapped: bool, late: bool
) -> Values:
    """Answer a duel that was shown without a lease: the label, with its run. Nobody has answered it before."""
    entry = _append(connection, query.run, query.id, "vote", author, body, now, swapped=swapped, late=late)
    _count_vote(connection, query.id, held_place=False)
    return _answer(entry)


def _may_correct(author: Author, label: Row) -> bool:
    return author.sees(label.run) and (author.corrects_others or label.annotator == author.annotator)


def _log(*where: ColumnElement[bool]) -> Any:
    joined = select(labels, labels.c.id.label("label_id"), queries.c.client_key).join(
        queries, queries.c.id == labels.c.query_id
    )
    return joined.where(*where).order_by(labels.c.seq)


def _replayed(connection: Connection, lease: Row, body: Values) -> Values:
    label = connection.execute(_LABEL_OF_LEASE, {"which": lease.id}).one()
    if label.body_digest != digest_of(body):
        raise Conflict("The lease has another answer already; revise the label instead.")
    return _answer(label._asdict())


def _import(
    connection: Connection, run: str, author: Author, items: Sequence[tuple[Row, Values]], now: float
) -> list[Values]:
    answers = []
    for query, item in items:
        annotator = item["annotator"] or author.annotator
        given = vote_of(connection, query.id, annotator)
        if given is not None and given.outcome != item["outcome"]:
            raise Conflict(f"{annotator} has answered {query.client_key!r} with {given.outcome} already.")
        kind = "vote" if query.gold is None else "gold"
        if given is None:
            by, body = Author(annotator, author.entered_by), NOTHING_ELSE | {"outcome": item["outcome"]}
            entry = _append(connection, run, query.id, kind, by, body, item["at"] or now)
            if kind == "vote":
                _count_vote(connection, query.id, held_place=False)
        else:
            entry = given._asdict()
        answer = {"label_id": entry["id"], "seq": entry["seq"], "query_id": query.id}
        answers.append(answer | {"kind": kind, "created": given is None})
    return answers


def _resolved(connection: Connection, run: str, items: Sequence[Values]) -> list[tuple[Row, Values]]:
    """Each item with its query."""
    found: dict[str, dict[str, Row]] = {}
    for field, column in (("client_key", "client_key"), ("query_id", "id")):
        found[field] = duels.find(connection, run, column, [item[field] for item in items if field in item])
    resolved, faults = [], []
    for index, item in enumerate(items):
        field = "client_key" if "client_key" in item else "query_id"
        query = found[field].get(item[field])
        if query is None:
            faults.append((index, field, f"there is no such query in run {run}"))
        else:
            resolved.append((query, item))
    if faults:
        raise Refused(faults)
    return resolved


def _append(
    connection: Connection,
    run: str,
    query_id: str,
    kind: str,
    author: Author,
    body: Values,
    at: float,
    *,
    lease_id: str | None = None,
    swapped: bool | None = None,
    late: bool = False,
    revises: str | None = None,
) -> Values:
    """Append an entry to the log of a run: ``body`` in presentation order, with which responses were ``swapped``."""
    entry = body | {
        "run": run,
        "seq": int(connection.execute(_NEXT_SEQ, {"which": run}).scalar_one()),
        "id": f"label-{secrets.token_hex(10)}",
        "query_id": query_id,
        "lease_id": lease_id,
        "annotator": author.annotator,
        "entered_by": author.entered_by,
        "kind": kind,
        "outcome": _own_order(body["outcome"], swapped),
        "swapped": swapped,
        "late": late,
        "revises": revises,
        "body_digest": digest_of(body),
        "at": at,
    }
    connection.execute(_INSERT, entry)
    return entry


def digest_of_answer(entry: Values) -> str:
    """The digest of the answer by which an entry of the log was given, from the entry itself."""
    body = {name: entry[name] for name in NOTHING_ELSE}
    return digest_of(body | {"outcome": _own_order(entry["outcome"], entry["swapped"])})


def _count_vote(connection: Connection, query_id: str, held_place: bool) -> None:
    """Count a vote; one that was not given on a live lease takes a place that others could have leased."""
    connection.execute(_COUNT_VOTE, {"which": query_id, "taken": 0 if held_place else 1})


def _own_order(outcome: str, swapped: bool | None) -> str:
    return _OTHER_SIDE.get(outcome, outcome) if swapped else outcome


def _answer(entry: Values) -> Values:
    """The label as its author sees it, with the outcome in the order that was shown."""
    return {
        "run": entry["run"],
        "label_id": entry["id"],
        "seq": entry["seq"],
        "query_id": entry["query_id"],
        "kind": "revision" if entry["revises"] else entry["kind"],
        "outcome": _own_order(entry["outcome"], entry["swapped"]),
        "late": entry["late"],
    }
