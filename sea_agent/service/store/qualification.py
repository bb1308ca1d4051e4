"""Who may answer the duels of a run that asks for a qualification: so many gold duels first, a share of them right.

The first gold duels that an annotator answered in time count, with the corrections made until the last of them was
answered. Corrections after that count for the log and not here: otherwise who failed could try other answers until the
verdict changed.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import BindParameter, Connection, Row, Select, bindparam, false, func, select, text

from sea_agent.service.store.faults import found
from sea_agent.service.store.tables import labels, leases, queries, runs

_RUN: BindParameter[str] = bindparam("of_run")
_ANNOTATOR: BindParameter[str] = bindparam("who")

_ASKED = select(runs.c.id, runs.c.qualification, runs.c.qualifying_share).where(runs.c.id == _RUN)
_GOLD_LEFT = select(func.count()).where(queries.c.run == _RUN, queries.c.gold.is_not(None), queries.c.state == "open")
_CORRECTIONS = (
    select(labels.c.revises, labels.c.outcome)
    .where(labels.c.revises.in_(bindparam("of", expanding=True)), labels.c.seq <= bindparam("up_to_seq"))
    .order_by(labels.c.seq)
)


@dataclass(frozen=True, slots=True)
class Standing:
    """How many gold duels somebody must answer, how many they have, and whether that was enough: None before."""

    needed: int
    given: int
    passed: bool | None


def standing(connection: Connection, run: Row, annotator: str) -> Standing | None:
    """How far an annotator is, in a run with its ``id``, ``qualification`` and ``qualifying_share``; None where the run
    asks for none."""
    needed: int = run.qualification
    if not needed:
        return None
    given = connection.execute(_first_gold(needed), {"of_run": run.id, "who": annotator}).all()
    if len(given) < needed:
        return Standing(needed, len(given), None)
    outcomes = {answer.id: answer.outcome for answer in given}
    known = {"of": list(outcomes), "up_to_seq": max(answer.seq for answer in given)}
    outcomes |= {entry.revises: entry.outcome for entry in connection.execute(_CORRECTIONS, known)}
    right = sum(outcomes[answer.id] == answer.gold for answer in given)
    return Standing(needed, needed, right / needed >= run.qualifying_share)


def failed(connection: Connection, run: str, annotators: Collection[str]) -> frozenset[str]:
    """Those who get no more duels of a run."""
    return frozenset(who for who, how in standings(connection, run, annotators).items() if how.passed is False)


def standings(connection: Connection, run: str, annotators: Collection[str]) -> dict[str, Standing]:
    """How far each of the annotators is; of nobody in a run that asks for no qualification."""
    asked = _asked(connection, run)
    told = {annotator: standing(connection, asked, annotator) for annotator in annotators}
    return {annotator: how for annotator, how in told.items() if how is not None}


def gold_missing(connection: Connection, run: str) -> int:
    """How many open gold duels a run lacks for somebody who begins now to qualify."""
    left: int = connection.execute(_GOLD_LEFT, {"of_run": run}).scalar_one()
    return max(0, int(_asked(connection, run).qualification) - left)


def _asked(connection: Connection, run: str) -> Row:
    return found(connection.execute(_ASKED, {"of_run": run}).first(), f"run {run}")


@cache
def _first_gold(count: int) -> Select[Any]:
    """The annotator's first answers to gold duels. The limit is written, not bound, as SQLite would plan anew."""
    return (
        select(labels.c.id, labels.c.seq, labels.c.outcome, queries.c.gold)
        .select_from(leases)
        .join(labels, (labels.c.lease_id == leases.c.id) & labels.c.revises.is_(None))
        .join(queries, queries.c.id == leases.c.query_id)
        .where(
            leases.c.run == _RUN,
            leases.c.annotator == _ANNOTATOR,
            leases.c.kind == "gold",
            leases.c.state == "labelled",
            labels.c.late == false(),
        )
        .order_by(leases.c.number)
        .suffix_with(text(f"LIMIT {count:d}"))
    )
