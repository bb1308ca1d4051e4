"""The duels of a run as a list, and what there is around a duel: who it is for, who holds it, who skipped it."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, func, or_, select

from sea_agent.service.store import assignments
from sea_agent.service.store.people import is_stuck
from sea_agent.service.store.queries import Values, state_at
from sea_agent.service.store.runs import last_seq
from sea_agent.service.store.tables import assignments as assigned
from sea_agent.service.store.tables import labels, leases, queries

BEGINNING = 200
"""Characters of a prompt that stand in the list."""

_COLUMNS = (
    *(queries.c[name] for name in ("number", "id", "client_key", "state", "gold", "votes", "votes_needed")),
    *(queries.c[name] for name in ("priority", "created_at", "expires_at", "erased_at")),
    func.substr(queries.c.prompt, 1, BEGINNING).label("prompt"),
)
_LEASE = (leases.c.query_id == queries.c.id, leases.c.kind != "repeat")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which duels: in a ``state``, with a ``text``, that an ``annotator`` has to do with, ``gold`` or not; the
    ``newest`` or ``oldest`` first (``order``), how many, and ``after`` which."""

    run: str
    state: str | None
    text: str | None
    annotator: str | None
    gold: bool | None
    order: str
    after: int | None
    limit: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some duels of the list, where it goes on, and how many are in all of it."""

    queries: list[Values]
    next_after: int | None
    total: int


def page(connection: Connection, wanted: Wanted, people: Collection[str], now: float) -> Page:
    """Some of the duels that are wanted. ``people`` are those of the run, who say which duels are stuck.

    Raises:
        Missing: for an unknown run.
    """
    last_seq(connection, wanted.run)  # refuses an unknown run
    conditions = list(_conditions(wanted, people, now))
    total = connection.execute(select(func.count()).where(*conditions)).scalar_one()
    number, oldest_first = queries.c.number, wanted.order == "oldest"
    if wanted.after is not None:
        conditions.append(number > wanted.after if oldest_first else number < wanted.after)
    in_order = number.asc() if oldest_first else number.desc()
    listed = select(*_COLUMNS).where(*conditions).order_by(in_order).limit(wanted.limit + 1)
    found = connection.execute(listed).all()
    shown = found[: wanted.limit]
    beside = around(connection, [row.id for row in shown], now)
    rows = [row._asdict() | {"state": state_at(row, now)} | beside[row.id] for row in shown]
    return Page(rows, shown[-1].number if len(found) > wanted.limit else None, total)


def around(connection: Connection, query_ids: Sequence[str], now: float) -> dict[str, Values]:
    """For each duel: whom it is ``assigned`` to, and the ``leases`` of it for votes and as gold, the oldest first."""
    named, held = assignments.of(connection, query_ids), defaultdict(list)
    of_them = select(leases).where(leases.c.query_id.in_(query_ids), leases.c.kind != "repeat")
    for lease in connection.execute(of_them.order_by(leases.c.created_at, leases.c.id)):
        ended = lease.state == "live" and lease.expires_at <= now
        state = "expired" if ended else lease.state
        held[lease.query_id].append(lease._asdict() | {"lease_id": lease.id, "state": state})
    return {query_id: {"assigned": named.get(query_id, []), "leases": held[query_id]} for query_id in query_ids}


def _conditions(wanted: Wanted, people: Collection[str], now: float) -> Iterable[ColumnElement[bool]]:
    yield queries.c.run == wanted.run
    if wanted.state is not None:
        yield _in_state(wanted, people, now)
    elif wanted.annotator is not None:
        yield _concerns(wanted.annotator)
    if wanted.gold is not None:
        yield queries.c.gold.is_not(None) if wanted.gold else queries.c.gold.is_(None)
    if wanted.text is not None:
        texts = (queries.c.prompt, queries.c.first, queries.c.second, queries.c.client_key)
        yield or_(*(column.icontains(wanted.text, autoescape=True) for column in texts))


def _in_state(wanted: Wanted, people: Collection[str], now: float) -> ColumnElement[bool]:
    live = leases.c.expires_at > now
    of_lease = {"leased": and_(leases.c.state == "live", live), "skipped": leases.c.state == "skipped"}
    if wanted.state in of_lease:
        theirs: Any = () if wanted.annotator is None else (leases.c.annotator == wanted.annotator,)
        return exists().where(*_LEASE, of_lease[wanted.state], *theirs)
    passed = func.coalesce(queries.c.expires_at <= now, False)
    by_state = {
        "open": and_(queries.c.state == "open", ~passed),
        "expired": or_(queries.c.state == "expired", and_(queries.c.state == "open", passed)),
        "stuck": is_stuck(people, now),
    }
    in_state = by_state.get(wanted.state or "", queries.c.state == wanted.state)
    return in_state if wanted.annotator is None else and_(in_state, _concerns(wanted.annotator))


def _concerns(annotator: str) -> ColumnElement[bool]:
    """Holds for a duel that is assigned to an annotator, or that they hold, skipped or answered."""
    return or_(
        exists().where(assigned.c.query_id == queries.c.id, assigned.c.annotator == annotator),
        exists().where(*_LEASE, leases.c.annotator == annotator, leases.c.state.in_(("live", "labelled", "skipped"))),
        exists().where(labels.c.query_id == queries.c.id, labels.c.annotator == annotator, labels.c.kind != "repeat"),
    )
