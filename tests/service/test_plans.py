"""What every label needs is found by indexes: the time of a label does not grow with the labels there are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Select, event, exists, text

from sea_agent.service.store import assignments, database, labels, leases, queries, runs, tables
from sea_agent.service.store.leases import Author, Claim
from sea_agent.service.store.schema import migrate

BODY = {"outcome": "tie", "strength": None, "comment": None, "elapsed_ms": None}
DUEL = {"prompt": "p", "first": "a", "second": "b", "policy_version": None, "rule": None, "score": None}
DUEL |= {"votes_needed": 2, "priority": 0, "expires_at": None, "gold": None}
QUALIFICATION = {"qualification": 2, "qualifying_share": 0.0}

# No index knows the value of an expression.
ANY_ENTRY = exists().where(tables.labels.c.query_id + "" == tables.queries.c.id, tables.labels.c.annotator == "cem")
ANY_ASSIGNMENT = exists().where(tables.assignments.c.query_id + "" == tables.queries.c.id)

WITHOUT_GOLD = leases._offers("vote").where(
    *leases._OPEN_IN_RUN, ~tables.queries.c.assigned, tables.queries.c.gold.is_(None), tables.queries.c.places > 0
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Connection]:
    """A new SQLite store with a run of a few duels, some of them gold, some for one annotator only."""
    writer, reader = database._sqlite_pools(database._parse(f"sqlite:///{tmp_path / 'feedback.sqlite'}"))
    with writer.transaction() as connection:
        migrate(connection)
        runs.put(connection, "run", {"gold_share": 0.3, "repeat_share": 0.3} | QUALIFICATION, now=0.0)
        items = [DUEL | {"client_key": f"k{n}", "gold": "first" if n % 5 == 0 else None} for n in range(60)]
        posted = queries.post(connection, "run", queries.addressed(items), now=0.0)
        for number, annotator in ((1, "ann"), (2, "bob"), (3, "cem")):
            assignments.assign(connection, posted[number]["id"], [annotator])
        yield connection
    writer.engine.dispose()
    reader.engine.dispose()


def label(connection: Connection) -> None:
    """Claims and answers of two annotators, until they have met every kind of duel."""
    kinds = set()
    for number in range(80):
        for author in (Author("ann", "ann"), Author("bob", "bob")):
            lease = leases.claim(connection, Claim("run", author.annotator, 300.0, seed=0), now=float(number))
            if lease is not None:
                given, _ = labels.put(connection, lease["lease_id"], author, BODY, now=float(number))
                kinds.add(given["kind"])
    assert kinds == {"vote", "gold", "repeat"}
    labels.of_query(connection, given["query_id"])
    leases.sweep(connection, "run", now=90.0)


def detours(connection: Connection) -> set[str]:
    """Whole tables that SQLite goes through for ``label``, and statements that it plans anew at each execution."""
    asked: dict[str, Any] = {}

    def note(_: Connection, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        asked.setdefault(statement, parameters)

    event.listen(connection, "before_cursor_execute", note)
    label(connection)
    event.remove(connection, "before_cursor_execute", note)
    assert len(asked) >= 15
    planned_anew = {statement for statement in asked if "LIMIT ?" in statement}
    plans = (connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", asked[statement]) for statement in asked)
    return planned_anew | {row[3] for plan in plans for row in plan if row[3].startswith("SCAN")}


def test_a_label_costs_the_same_however_many_there_are(store: Connection) -> None:
    assert detours(store) == set()


@pytest.mark.parametrize(
    ("broken", "detour"),
    [
        (leases._WAITING.where(~ANY_ENTRY), "SCAN labels"),
        (WITHOUT_GOLD.limit(1), "LIMIT ?"),
        (leases._WAITING.where(~ANY_ASSIGNMENT), "SCAN assignments"),
    ],
    ids=["answers without their index", "a bound limit", "assignments without their index"],
)
def test_a_detour_is_seen(store: Connection, monkeypatch: pytest.MonkeyPatch, broken: Select, detour: str) -> None:
    monkeypatch.setattr(leases, "_WAITING", broken)
    assert [found for found in detours(store) if detour in found]


def answered(connection: Connection, run: str, count: int) -> None:
    """A run with so many duels, each with an answer by ann."""
    runs.put(connection, run, {"gold_share": 0.0, "repeat_share": 0.0}, now=0.0)
    queries.post(
        connection,
        run,
        queries.addressed([DUEL | {"client_key": f"k{n}", "votes_needed": 1} for n in range(count)]),
        now=0.0,
    )
    for _ in range(count):
        lease = leases.claim(connection, Claim(run, "ann", 300.0, seed=0), now=0.0)
        assert lease is not None
        labels.put(connection, lease["lease_id"], Author("ann", "ann"), BODY, now=0.0)


def steps_to_delete(connection: Connection, run: str) -> int:
    """Hundreds of SQLite's own steps that it takes to delete a run; foreign keys are in no plan."""
    steps: list[int] = []
    driver: Any = connection.connection.dbapi_connection
    runs.put(connection, run, {"state": "closed"}, now=0.0)
    driver.set_progress_handler(lambda: steps.append(1), 100)
    runs.remove(connection, run, now=0.0)
    driver.set_progress_handler(None, 0)
    return len(steps)


def growth(connection: Connection) -> float:
    """How many times as long it takes to delete a run when there are 400 labels more of another run."""
    answered(connection, "first", 40)
    alone = steps_to_delete(connection, "first")
    answered(connection, "other", 400)
    answered(connection, "second", 40)
    return steps_to_delete(connection, "second") / alone


def test_to_delete_a_run_takes_as_long_however_many_labels_others_have(store: Connection) -> None:
    assert growth(store) < 1.3


@pytest.mark.parametrize("index", ["ix_labels_query_id", "ix_labels_lease_id"])
def test_a_deletion_that_looks_through_all_labels_is_seen(store: Connection, index: str) -> None:
    store.execute(text(f"DROP INDEX {index}"))
    assert growth(store) > 2
