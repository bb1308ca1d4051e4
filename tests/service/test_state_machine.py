"""Whatever annotators, experiments and the clock do in whatever order: the store does what the plain model says."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from service.conftest import fresh_postgresql
from service.machine import REPEAT_AFTER, Annotating
from sqlalchemy import false, select, update
from sqlalchemy.exc import IntegrityError

from sea_agent.service.store import assignments, database, labels, leases, queries, runs, tables
from sea_agent.service.store.database import Pool
from sea_agent.service.store.schema import migrate

EVERYTHING = {
    *("vote", "gold", "repeat", "again", "revived", "nothing", "late", "revision", "same revision", "import"),
    *("begun vote", "begun gold", "begun repeat", "begun instead", "lost with its place"),
    *("replay", "other body", "answered elsewhere", "ended heartbeat", "skip of an answer", "expired", "cancelled"),
    *("answered", "from the future", "foreign", "not open", "not theirs", "taken back", "lost to others"),
    *("reopened", "reopen of an answered", "more votes", "fewer votes", "post refused"),
}


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What a machine came by; repeats come early."""
    monkeypatch.setattr(leases, "REPEAT_AFTER", REPEAT_AFTER)
    return Counter()


@pytest.fixture
def sqlite_writer(tmp_path: Path) -> Iterator[Pool]:
    url = database._parse(f"sqlite:///{tmp_path / 'feedback.sqlite'}")
    yield from migrated(database._sqlite_pools(url))


@pytest.fixture
def postgresql_writer(postgres_url: str) -> Iterator[Pool]:
    for url in fresh_postgresql(postgres_url):
        yield from migrated(database._postgresql_pools(database._parse(url)))


def migrated(pools: tuple[Pool, Pool]) -> Iterator[Pool]:
    writer, reader = pools
    with writer.transaction() as connection:
        migrate(connection)
        connection.commit()
    yield writer
    writer.engine.dispose()
    reader.engine.dispose()


def run(writer: Pool, reached: Counter[str], examples: int, steps: int, phases: list[Phase], start: int = 0) -> None:
    limits = settings(max_examples=examples, stateful_step_count=steps, phases=phases, deadline=None)
    run_state_machine_as_test(seed(start)(lambda: Annotating(writer, reached)), settings=limits)


def run_until(everything: set[str], writer: Pool, reached: Counter[str], examples: int, steps: int) -> None:
    """At least so many examples, and more of them until the machine came by everything that it is to test."""
    for start in range(10):
        run(writer, reached, examples, steps, list(Phase), start)
        if not everything - set(+reached):
            return
    raise AssertionError(f"never reached: {everything - set(+reached)}")


@pytest.mark.dear
@pytest.mark.parametrize("examples", [30, pytest.param(500, marks=pytest.mark.soak)])
def test_the_store_does_what_the_model_says(sqlite_writer: Pool, reached: Counter[str], examples: int) -> None:
    run_until(EVERYTHING, sqlite_writer, reached, examples, steps=50)


@pytest.mark.parametrize("examples", [8, pytest.param(100, marks=pytest.mark.soak)])
def test_the_store_does_what_the_model_says_on_postgresql(
    postgresql_writer: Pool, reached: Counter[str], examples: int
) -> None:
    seen = {"vote", "again", "late", "other body", "revision"}
    run_until(seen, postgresql_writer, reached, examples, steps=40)


def search(writer: Pool, reached: Counter[str]) -> None:
    """Many examples, the same each time."""
    for start in range(10):
        run(writer, reached, examples=150, steps=50, phases=[Phase.generate], start=start)


def no_change(*_: object, **__: object) -> None:
    pass


SAME_PLACES = update(tables.queries).where(tables.queries.c.id == leases._ID).values(places=tables.queries.c.places)
NEVER_ANSWERED = select(tables.leases, false().label("answered")).where(tables.leases.c.id == leases._ID)


def put_without_state(connection: Any, run: str, given: dict[str, Any], now: float) -> None:
    put_as_it_is(connection, run, {name: value for name, value in given.items() if name != "state"}, now)


put_as_it_is = runs.put
BREAKS: dict[str, tuple[Any, str, Any]] = {
    "leases take no place": (leases, "_PLACE_TAKEN", SAME_PLACES),
    "leases that end give no place back": (leases, "_PLACE_BACK", SAME_PLACES),
    "nothing ends by time": (leases, "sweep", no_change),
    "the state of a run is not kept": (runs, "put", put_without_state),
    "assignments are not kept": (assignments, "_insert", no_change),
    "who may not have a duel any more keeps it": (assignments, "take_back", no_change),
    "a duel keeps its state whatever votes it needs": (queries, "_state_with", lambda votes, needed: "open"),
    "votes are not counted": (labels, "_count_vote", no_change),
    "what was begun does not come back": (
        leases,
        "_RESUMED",
        dict.fromkeys(tables.KINDS, leases._REPEAT.where(false())),
    ),
    "what stands for a duel takes no place of it": (
        *(leases, "_place_of"),
        lambda lease: lease.query_id if lease.kind == "vote" else None,
    ),
    "what stands for a duel comes back whoever has that": (
        leases,
        "_RESUMED",
        leases._RESUMED | {"vote": leases._offers("vote").where(tables.queries.c.id == leases._ID)},
    ),
    "a gold duel that was begun is drawn anew": (leases, "_NEW_GOLD", leases._UNANSWERED_GOLD),
    "an annotator may vote again": (leases, "_BY_ID", NEVER_ANSWERED),
    "another body is taken for a replay": (
        *(labels, "_replayed"),
        lambda connection, lease, body: labels._answer(
            connection.execute(labels._LABEL_OF_LEASE, {"which": lease.id}).one()._asdict()
        ),
    ),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_break_is_found(
    sqlite_writer: Pool, reached: Counter[str], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    module, name, replacement = BREAKS[broken]
    monkeypatch.setattr(module, name, replacement)
    with pytest.raises((AssertionError, IntegrityError)):  # some are also stopped by the tables themselves
        search(sqlite_writer, reached)
