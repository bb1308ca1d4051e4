"""Leases: who is answering which duel now.

A duel that needs v votes and has n is leased to at most v − n annotators at once. An annotator holds one lease in a run
at a time, and meets a duel once; deliberate repeats and gold duels are leases of another kind. A lease that ended
without an answer goes to the same annotator again if its duel can still be had, as the same lease with the same order
of responses.

A repeat or gold duel is shown instead of an ordinary one, and stands for it until it is answered: its lease takes a
place of that duel, and once it ended without an answer it comes when and only when that duel would. Otherwise who gave
a duel back could tell by what comes next that it was no ordinary one.

Statements are built once: building them for each request would cost as much as running them.
"""

import secrets
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Double,
    Row,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    select,
    text,
    update,
)

from sea_agent.seeding import seed_for
from sea_agent.service.store import qualification
from sea_agent.service.store.faults import Conflict, Missing, found
from sea_agent.service.store.tables import (
    LIVE,
    OPEN,
    assignments,
    leases,
    own_answer,
    queries,
    run_assignments,
    runs,
)

Values = dict[str, Any]

REPEAT_AFTER = 20
"""Leases of an annotator between a duel and its repetition."""
LONGEST_SECONDS = 3600.0
"""A lease that ends later than this from now was made before the clock was set back."""
AFTER_CLOCK_SECONDS = 300.0
"""How long such a lease still lasts."""


@dataclass(frozen=True, slots=True)
class Author:
    """Whose leases and labels they are, by which key, in which runs (None: any), and whether it corrects others."""

    annotator: str
    entered_by: str
    runs: frozenset[str] | None = None
    corrects_others: bool = False

    def sees(self, run: str) -> bool:
        """Whether the key reaches a run."""
        return self.runs is None or run in self.runs


@dataclass(frozen=True, slots=True)
class Claim:
    """Who wants a duel of which run, for how many seconds, and the seed of the draws."""

    run: str
    annotator: str
    ttl_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class _Offer:
    """A duel with its texts, the kind of lease that it comes as, and the duel of which that takes a place, if any."""

    duel: Row
    kind: str
    place: str | None


# --- statements ------------------------------------------------------------------------------------------------------

_RUN: BindParameter[str] = bindparam("of_run")
_ANNOTATOR: BindParameter[str] = bindparam("who")
_NOW: BindParameter[float] = bindparam("now", type_=Double)
_ID: BindParameter[str] = bindparam("which")
_LIVE_IN_RUN = (leases.c.run == _RUN, leases.c.state == LIVE)
_PASSING = (queries.c.run == _RUN, queries.c.state == OPEN, queries.c.expires_at <= _NOW)
_ENDED = leases.c.expires_at <= _NOW
_FROM_THE_FUTURE = leases.c.expires_at > _NOW + LONGEST_SECONDS
_MINE = (leases.c.run == _RUN, leases.c.annotator == _ANNOTATOR)

_FIRST = text("LIMIT 1")  # written, not bound: SQLite plans a statement anew at each execution for a bound one
_UNANSWERED = leases.c.state.in_(("released", "expired"))

# Duels that were handed to the annotator, and that they may still have.
_OPEN_FOR_THEM = (
    assignments.c.annotator == _ANNOTATOR,
    queries.c.id == assignments.c.query_id,
    queries.c.run == _RUN,
    queries.c.state == OPEN,
    queries.c.places > 0,
    ~exists().where(
        leases.c.query_id == queries.c.id,
        leases.c.annotator == _ANNOTATOR,
        leases.c.kind == "vote",
        leases.c.state.in_(("labelled", "skipped")),
    ),
)

_SITUATION = select(
    runs.c.id,
    runs.c.state,
    runs.c.repeat_share,
    runs.c.gold_share,
    runs.c.qualification,
    runs.c.qualifying_share,
    select(func.max(leases.c.number)).where(*_MINE).scalar_subquery().label("last_number"),
    select(leases.c.id).where(*_MINE, leases.c.state == LIVE).scalar_subquery().label("held"),
    exists().where(*_OPEN_FOR_THEM).label("is_named"),
    select(case((_UNANSWERED, leases.c.id)))
    .where(*_MINE)
    .order_by(leases.c.number.desc())
    .suffix_with(_FIRST)
    .scalar_subquery()
    .label("begun"),
    (exists().where(*_LIVE_IN_RUN, _ENDED | _FROM_THE_FUTURE) | exists().where(*_PASSING)).label("due"),
).where(runs.c.id == _RUN)

_END_LEASES = (
    update(leases)
    .where(*_LIVE_IN_RUN, _ENDED | _FROM_THE_FUTURE)
    .values(
        state=case((_ENDED, "expired"), else_=leases.c.state),
        expires_at=case((_FROM_THE_FUTURE, _NOW + AFTER_CLOCK_SECONDS), else_=leases.c.expires_at),
    )
    .returning(leases.c.query_id, leases.c.kind, leases.c.instead_of, leases.c.state)
)
_END_QUERIES = update(queries).where(*_PASSING).values(state="expired")
_PLACE_BACK = update(queries).where(queries.c.id == _ID).values(places=queries.c.places + 1)
_PLACES_BACK = update(queries).where(queries.c.id == _ID).values(places=queries.c.places + bindparam("freed"))
_PLACE_TAKEN = update(queries).where(queries.c.id == _ID).values(places=queries.c.places - 1)
_SET_STATE = update(leases).where(leases.c.id == _ID).values(state=bindparam("new_state"))
_SET_END = update(leases).where(leases.c.id == _ID).values(expires_at=bindparam("new_end"))
_BRING_BACK = _SET_END.values(state="live", instead_of=bindparam("for_duel"))
_INSERT = insert(leases)
_ANSWERED_BY_ITS_ANNOTATOR = exists().where(*own_answer(leases.c.query_id, leases.c.annotator))
_BY_ID = select(leases, _ANSWERED_BY_ITS_ANNOTATOR.label("answered")).where(leases.c.id == _ID)
_NEXT_END = select(func.min(leases.c.expires_at)).where(*_LIVE_IN_RUN)

_TEXTS = (queries.c.prompt, queries.c.first, queries.c.second)
_earlier, _standing = leases.alias("earlier"), leases.alias("standing")
_STANDS_FOR_IT = (
    select(_standing.c.id)
    .where(_standing.c.instead_of == queries.c.id, _standing.c.annotator == _ANNOTATOR)
    .where(_standing.c.state.in_(("released", "expired")))
    .order_by(_standing.c.number.desc())
    .suffix_with(_FIRST)
    .scalar_subquery()
)
_IS_THEIRS = exists().where(assignments.c.query_id == queries.c.id, assignments.c.annotator == _ANNOTATOR)
_NAMED_BY_RUN = exists().where(run_assignments.c.run == _RUN)
_RUN_IS_THEIRS = ~_NAMED_BY_RUN | _NAMED_BY_RUN.where(run_assignments.c.annotator == _ANNOTATOR)
_KEYS = (queries.c.priority, queries.c.places, queries.c.number)
_ORDER = (queries.c.priority.desc(), queries.c.places, queries.c.number)


def _offers(kind: str) -> Select:
    """Duels that the annotator may have and neither answered nor skipped as this kind of lease, with their lease that
    ended, and that of a repeat or gold duel which ended without an answer and stands for the duel."""
    theirs = (_earlier.c.query_id == queries.c.id, _earlier.c.annotator == _ANNOTATOR, _earlier.c.kind == kind)
    ended = (_earlier.c.state != "labelled") & (_earlier.c.state != "skipped")
    return (
        select(
            *(queries.c.id, *_KEYS, *_TEXTS),
            *(_earlier.c.id.label("lease_id"), _earlier.c.swapped, _STANDS_FOR_IT.label("stands_for_it")),
        )
        .outerjoin(_earlier, and_(*theirs))
        .where(_earlier.c.id.is_(None) | ended, (~queries.c.assigned & _RUN_IS_THEIRS) | _IS_THEIRS)
    )


_ANSWERED = exists().where(*own_answer(queries.c.id, _ANNOTATOR))
_OPEN_IN_RUN = (queries.c.run == _RUN, queries.c.state == OPEN)
_VOTES = _offers("vote").where(*_OPEN_IN_RUN, queries.c.gold.is_(None), queries.c.places > 0, ~_ANSWERED)
_GOLD = _offers("gold").where(*_OPEN_IN_RUN, queries.c.gold.is_not(None), ~_ANSWERED)
_WAITING = _VOTES.where(~queries.c.assigned).order_by(*_ORDER).suffix_with(_FIRST)
_WAITING_FOR_THEM = _VOTES.where(queries.c.assigned).order_by(*_ORDER).suffix_with(_FIRST)
_STANDS_FOR_NONE = _earlier.c.instead_of.is_(None)
_UNANSWERED_GOLD = _GOLD.order_by(queries.c.number).suffix_with(_FIRST)
_NEW_GOLD = _UNANSWERED_GOLD.where(_STANDS_FOR_NONE)
_REPEATS = _offers("repeat").where(queries.c.erased_at.is_(None))
_REPEAT = _REPEATS.where(queries.c.id == _ID)
_RESUMED = {
    "vote": _VOTES.where(queries.c.id == _ID),
    "gold": _GOLD.where(queries.c.id == _ID),
    "repeat": _REPEAT,
}
_OF_LEASE = select(leases.c.kind, leases.c.query_id, leases.c.instead_of).where(leases.c.id == _ID)
_REPEATABLE = (
    _REPEATS.where(_STANDS_FOR_NONE)
    .with_only_columns(queries.c.id)
    .join(leases, leases.c.query_id == queries.c.id)
    .where(*_MINE, leases.c.kind == "vote", leases.c.state == "labelled", leases.c.number <= bindparam("last"))
    .order_by(leases.c.number)
)
_HELD = (
    select(leases, *_TEXTS, queries.c.state.label("query_state"))
    .join(queries, queries.c.id == leases.c.query_id)
    .where(leases.c.id == _ID)
)


# --- what can be done ------------------------------------------------------------------------------------------------


def claim(connection: Connection, wanted: Claim, now: float) -> Values | None:
    """Lease a duel, or give the caller the one they hold; None when there is nothing for them now.

    A run that is not open gives nothing, not even what the caller holds.

    Raises:
        Missing: for an unknown run.
    """
    known = {"of_run": wanted.run, "who": wanted.annotator, "now": now}
    situation = found(connection.execute(_SITUATION, known).first(), f"run {wanted.run}")
    if situation.due:
        sweep(connection, wanted.run, now)
        situation = connection.execute(_SITUATION, known).one()
    if situation.state != "open":
        return None
    if situation.held is not None:
        held = _again(connection, situation.held, now + wanted.ttl_s)
        if held is not None:
            return held
    number = (situation.last_number or 0) + 1
    offer = _next(connection, situation, wanted, number)
    return None if offer is None else _lease(connection, wanted, offer, number, now)


def is_there(connection: Connection, wanted: Claim, now: float) -> bool:
    """Whether a claim would give a duel now. Raises: Missing for an unknown run."""
    known = {"of_run": wanted.run, "who": wanted.annotator, "now": now}
    situation = found(connection.execute(_SITUATION, known).first(), f"run {wanted.run}")
    if situation.state != "open":
        return False
    number = (situation.last_number or 0) + 1
    return situation.held is not None or _next(connection, situation, wanted, number) is not None


def sweep(connection: Connection, run: str, now: float) -> None:
    """Mark the leases and duels of a run that have expired, so that a clock set back cannot revive them."""
    for lease in connection.execute(_END_LEASES, {"of_run": run, "now": now}).all():
        if lease.state == "expired":
            give_place_back(connection, lease)
    connection.execute(_END_QUERIES, {"of_run": run, "now": now})


def end_live(connection: Connection, *which: ColumnElement[bool]) -> set[str]:
    """End the live leases for which ``which`` holds, so that others may have their duels; their runs."""
    ended = update(leases).where(leases.c.state == LIVE, *which).values(state="released")
    of_lease = (leases.c.query_id, leases.c.run, leases.c.kind, leases.c.instead_of)
    over = connection.execute(ended.returning(*of_lease)).all()
    freed = Counter(place for lease in over if (place := _place_of(lease)) is not None)
    if freed:
        connection.execute(_PLACES_BACK, [{"which": query_id, "freed": count} for query_id, count in freed.items()])
    return {lease.run for lease in over}


def give_place_back(connection: Connection, lease: Row) -> None:
    """Let others have the place that a live lease takes, which ends."""
    if (place := _place_of(lease)) is not None:
        connection.execute(_PLACE_BACK, {"which": place})


def next_end(connection: Connection, run: str) -> float | None:
    """When the first live lease of a run ends: the next time at which a duel may come free by itself."""
    return connection.execute(_NEXT_END, {"of_run": run}).scalar()


def own(connection: Connection, lease_id: str, author: Author) -> Row:
    """An annotator's lease, and whether they answered its duel. Raises: Missing."""
    lease = connection.execute(_BY_ID, {"which": lease_id}).first()
    if lease is None or lease.annotator != author.annotator or not author.sees(lease.run):
        raise Missing(f"There is no lease {lease_id}.")
    return lease


def extend(connection: Connection, lease_id: str, author: Author, ttl_s: float, now: float) -> float:
    """Let a live lease end ``ttl_s`` from now; when that is.

    Raises:
        Missing: for a lease that is not the annotator's.
        Conflict: when it has ended.
    """
    lease = own(connection, lease_id, author)
    if lease.state == "live" and lease.expires_at > now:
        connection.execute(_SET_END, {"which": lease_id, "new_end": now + ttl_s})
        return now + ttl_s
    raise Conflict("The lease has ended. An answer is still accepted, unless there is one already.")


def release(connection: Connection, lease_id: str, author: Author) -> str:
    """Give a duel back; its run. A lease that has ended stays as it is. Raises: Missing."""
    lease = own(connection, lease_id, author)
    if lease.state == "live":
        _end(connection, lease, "released")
    return lease.run


def skip(connection: Connection, lease_id: str, author: Author) -> str:
    """Give a duel to others, and not to this annotator again; its run.

    Raises:
        Missing: for a lease that is not the annotator's.
        Conflict: when it was answered.
    """
    lease = own(connection, lease_id, author)
    if lease.state == "labelled":
        raise Conflict("The lease has its answer already; revise the label instead.")
    _end(connection, lease, "skipped")
    return lease.run


def _end(connection: Connection, lease: Row, state: str) -> None:
    connection.execute(_SET_STATE, {"which": lease.id, "new_state": state})
    if lease.state == "live":
        give_place_back(connection, lease)


def _place_of(lease: Row) -> str | None:
    """The duel of which a lease takes a place: its own, or that in whose stead a repeat or gold duel is shown."""
    place: str | None = lease.query_id if lease.kind == "vote" else lease.instead_of
    return place


def _again(connection: Connection, lease_id: str, expires_at: float) -> Values | None:
    """The lease that the annotator holds, unless its duel needs no vote any more: then it is ended."""
    held = connection.execute(_HELD, {"which": lease_id}).one()
    if held.kind != "repeat" and held.query_state != "open":
        _end(connection, held, "released")
        return None
    connection.execute(_SET_END, {"which": lease_id, "new_end": expires_at})
    return _presented(held, lease_id, held.query_id, held.run, held.swapped, expires_at)


def _next(connection: Connection, run: Row, wanted: Claim, number: int) -> _Offer | None:
    """What comes next: a gold duel for who must qualify; then what was begun; then the first duel that waits, what was
    begun in its stead, or what is drawn to be shown in its stead.

    Nothing is drawn where no ordinary duel waits, or where the one that does was begun: it comes as it was.
    """
    known = {"of_run": wanted.run, "who": wanted.annotator}
    standing = qualification.standing(connection, run, wanted.annotator)
    if standing is not None and not standing.passed:
        gold = None if standing.passed is False else connection.execute(_UNANSWERED_GOLD, known).first()
        return None if gold is None else _Offer(gold, "gold", None)
    begun = None if run.begun is None else _resumed(connection, run.begun, known)
    if begun is not None:
        return begun
    ordinary = _waiting(connection, run, known)
    if ordinary is None:
        return None
    instead = None
    if ordinary.stands_for_it is not None:
        instead = _resumed(connection, ordinary.stands_for_it, known)
    if instead is None and ordinary.lease_id is None:
        instead = _drawn(connection, run, wanted, number, ordinary.id)
    return instead or _Offer(ordinary, "vote", ordinary.id)


def _resumed(connection: Connection, lease_id: str, known: Values) -> _Offer | None:
    """The duel of a lease that ended, if it can be had again; with a repeat or gold duel, that which it stands for."""
    begun = connection.execute(_OF_LEASE, {"which": lease_id}).one()
    place = _place_of(begun)
    if place is None:
        return None
    duel = connection.execute(_RESUMED["vote"], {**known, "which": place}).first()
    if duel is not None and begun.kind != "vote":
        duel = connection.execute(_RESUMED[begun.kind], {**known, "which": begun.query_id}).first()
    return None if duel is None else _Offer(duel, begun.kind, place)


def _drawn(connection: Connection, run: Row, wanted: Claim, number: int, place: str) -> _Offer | None:
    """The gold duel or repeat that is shown instead of a duel, if one is drawn. The draw depends on the number of the
    lease, so asking again gives the same."""
    known = {"of_run": wanted.run, "who": wanted.annotator}
    drawn = _draw(wanted, "kind", number).random()
    if drawn < run.gold_share:
        gold = connection.execute(_NEW_GOLD, known).first()
        return None if gold is None else _Offer(gold, "gold", place)
    if drawn < run.gold_share + run.repeat_share:
        answered = connection.execute(_REPEATABLE, {**known, "last": number - REPEAT_AFTER}).scalars().all()
        if answered:
            chosen = _draw(wanted, "repeat", number).choice(answered)
            return _Offer(connection.execute(_REPEAT, {**known, "which": chosen}).one(), "repeat", place)
    return None


def _waiting(connection: Connection, run: Row, known: Values) -> Row | None:
    """The first of the duels for everybody and of those that are assigned to the annotator, if any are."""
    offer = connection.execute(_WAITING, known).first()
    theirs = connection.execute(_WAITING_FOR_THEM, known).first() if run.is_named else None
    return min(filter(None, (offer, theirs)), key=_place_in_order, default=None)


def _place_in_order(offer: Row) -> tuple[int, ...]:
    return (-offer.priority, offer.places, offer.number)


def _lease(connection: Connection, wanted: Claim, offer: _Offer, number: int, now: float) -> Values:
    """Make the lease, or bring back the one that ended without an answer."""
    duel, expires_at = offer.duel, now + wanted.ttl_s
    lease_id, swapped = duel.lease_id, duel.swapped
    instead_of = None if offer.kind == "vote" else offer.place
    if lease_id is None:
        lease_id, swapped = f"lease-{secrets.token_hex(10)}", _draw(wanted, "order", number).random() < 0.5
        row = {
            "id": lease_id,
            "query_id": duel.id,
            "run": wanted.run,
            "annotator": wanted.annotator,
            "number": number,
            "kind": offer.kind,
            "swapped": swapped,
            "state": "live",
            "created_at": now,
            "expires_at": expires_at,
            "instead_of": instead_of,
        }
        connection.execute(_INSERT, row)
    else:
        connection.execute(_BRING_BACK, {"which": lease_id, "new_end": expires_at, "for_duel": instead_of})
    if offer.place is not None:
        connection.execute(_PLACE_TAKEN, {"which": offer.place})
    return _presented(duel, lease_id, duel.id, wanted.run, swapped, expires_at)


def _draw(wanted: Claim, what: str, number: int) -> Random:
    return Random(seed_for(wanted.seed, what, wanted.run, wanted.annotator, number))


def _presented(texts: Row, lease_id: str, query_id: str, run: str, swapped: bool, expires_at: float) -> Values:
    first, second = (texts.second, texts.first) if swapped else (texts.first, texts.second)
    return {
        "lease_id": lease_id,
        "query_id": query_id,
        "run": run,
        "prompt": texts.prompt,
        "first": first,
        "second": second,
        "expires_at": expires_at,
    }
