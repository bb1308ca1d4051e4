"""What live mode looks up is found by indexes: with 100,000 older requests nothing takes more steps."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from service.conftest import START
from service.live_rows import RUN, Asked, make_run, write
from sqlalchemy import Connection, event, insert, text

from sea_agent.service.store import (
    database,
    feedback,
    implicit,
    live_erasure,
    live_log,
    live_runs,
    live_summary,
    publications,
    runs,
)
from sea_agent.service.store.feedback import Giver
from sea_agent.service.store.schema import migrate
from sea_agent.service.store.tables import keys

KEY = "key-0"
GIVER = Giver(KEY, "app", None, False)
MANY = 100_000
RECENT = 200
LARGE = ("completions", "feedback", "implicit_choices", "queries", "labels", "assignments", "live_users")
YEAR = 365 * 86_400.0

# Requests of a year ago, every twentieth of them a duel with a choice.
OLDER = """
    WITH RECURSIVE n(i) AS (SELECT :start UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :start + :count)
"""
OLDER_QUERIES = (
    OLDER
    + """
    INSERT INTO queries (id, run, client_key, body_digest, votes_needed, priority, state, votes, places, created_at,
        assigned, erased_at, prompt, first, second)
    SELECT 'query-' || i, :run, 'old-' || i, '', 1, 0, 'answered', 1, 0, :at, 1, :erased_at, '', 'a', 'b' FROM n
    WHERE i % 20 = 0
"""
)
OLDER_COMPLETIONS = (
    OLDER
    + """
    INSERT INTO completions (id, run, user_hash, conversation, key_id, body_digest, state, stored, heldout, eligible,
        asked, query_id, created_at, erased_at, erasure, messages, prompt, responses, answer)
    SELECT 'old-' || i, :run, 'user ' || (i % 997), 'c' || i, 'key-0', '', 'done', 1, i % 10 = 0, 1,
        CASE WHEN i % 20 = 0 THEN 'duel' END, CASE WHEN i % 20 = 0 THEN 'query-' || i END, :at, :erased_at,
        :erasure, '[]', '{}', '[]', '' FROM n
"""
)
OLDER_LABELS = (
    OLDER
    + """
    INSERT INTO labels (run, seq, id, query_id, annotator, entered_by, kind, outcome, swapped, late, body_digest, at)
    SELECT :run, 1000000 + i, 'label-' || i, 'query-' || i, 'user ' || (i % 997), 'app', 'vote', 'first', 0, 0, '',
        :at FROM n WHERE i % 20 = 0
"""
)
OLDER_FEEDBACK = (
    OLDER
    + """
    INSERT INTO feedback (completion_id, kind, value, body_digest, is_current, at)
    SELECT 'old-' || i, 'choice', '{"outcome":"first"}', '', 1, :at FROM n WHERE i % 20 = 0
"""
)
OLDER_IMPLICIT = (
    OLDER
    + """
    INSERT INTO implicit_choices (completion_id, outcome, at) SELECT 'old-' || i, 'first', :at FROM n WHERE i % 20 = 0
"""
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Connection]:
    """A new SQLite store with a live run and some requests of now."""
    writer, reader = database._sqlite_pools(database._parse(f"sqlite:///{tmp_path / 'feedback.sqlite'}"))
    with writer.transaction() as connection:
        migrate(connection)
        connection.execute(
            insert(keys),
            {"id": KEY, "name": "app", "annotator": "app", "scopes": "chat", "digest": "d", "created_at": 0.0},
        )
        make_run(connection)
        runs.put(connection, RUN, {"retention_days": 30.0}, now=START)
        yield connection
    writer.engine.dispose()
    reader.engine.dispose()


def grow(connection: Connection, start: int, count: int, erased: bool = True) -> None:
    """Requests of a year ago whose texts were erased, or not."""
    values = {"start": start, "count": count, "run": RUN, "at": START - YEAR}
    values |= {"erased_at": START - YEAR / 2 if erased else None, "erasure": 1 if erased else None}
    for statement in (OLDER_QUERIES, OLDER_COMPLETIONS, OLDER_LABELS, OLDER_FEEDBACK, OLDER_IMPLICIT):
        connection.execute(text(statement), values)


def recent(connection: Connection, start: int, now: float = START) -> list[Asked]:
    """Requests of now by users of their own."""
    asked = [
        Asked(start + n, KEY, user=f"u{start + n % 5}", asked="duel" if n % 4 == 0 else None, created_at=now + n)
        for n in range(RECENT)
    ]
    write(connection, asked)
    return asked


def uses(connection: Connection, asked: list[Asked]) -> dict[str, Callable[[], Any]]:
    """Everything that live mode does often."""
    since = asked[0].created_at
    now = since + RECENT
    first, *_, last = [one for one in asked if one.asked]
    plain = asked[1]
    newest = connection.execute(text("SELECT max(number) FROM queries")).scalar_one()
    ended = {"run": RUN, "conversation": f"conversation {last.number}", "done_at": now}
    texts = (("user", f"prompt {last.number}"), ("assistant", last.texts[1]), ("user", "And now?"))
    going_on = [{"role": role, "content": said} for role, said in texts]
    on = partial(feedback.put, connection, giver=GIVER, now=now)
    return {
        "choice": lambda: on(first.id, "choice", {"outcome": "first"}),
        "correction": lambda: on(first.id, "choice", {"outcome": "tie"}),
        "going on": lambda: implicit.note(connection, ended, going_on),
        "thumbs": lambda: on(plain.id, "thumbs", {"up": True}),
        "duels": lambda: live_log.duels(connection, RUN, newest - 20, 10),
        "prompts": lambda: live_log.prompts(connection, RUN, None, False, 5),
        "erased": lambda: live_log.erased(connection, RUN, 1),
        "thumbs out": lambda: live_log.thumbs(connection, RUN, 10_000_000, 10),
        "implicit out": lambda: implicit.listed(connection, RUN, 10_000_000, 10),
        "implicit": lambda: implicit.counts(connection, RUN, since),
        "counts": lambda: live_summary.counts(connection, RUN, since),
        "choices": lambda: live_summary.choices(connection, RUN, since),
        "others": lambda: live_summary.others(connection, RUN, since),
        "users": lambda: live_summary.users(connection, RUN, since),
        "latencies": lambda: live_summary.latencies(connection, RUN, since),
        "series": lambda: live_summary.series(connection, RUN, since, now, 10),
        "published": lambda: live_summary.published(connection, RUN),
        "serving": lambda: publications.serving(connection, RUN),
        "asks": lambda: live_runs.set_asks(connection, RUN, "somebody", False),
        "has past": lambda: live_erasure.has_past(connection, now),
        "erase user": lambda: live_erasure.erase_user(connection, last.user or "", KEY, None, now),
    }


def scans(connection: Connection, asked: list[Asked]) -> dict[str, set[str]]:
    """Large tables that SQLite goes through from end to end, by what was done."""
    found = {}
    for name, use in uses(connection, asked).items():
        statements: dict[str, Any] = {}

        def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any, to: dict = statements) -> None:
            to.setdefault(statement, parameters)

        event.listen(connection, "before_cursor_execute", note)
        use()
        event.remove(connection, "before_cursor_execute", note)
        assert statements, name
        plans = (connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", given) for sql, given in statements.items())
        lines = {row[3] for plan in plans for row in plan if row[3].startswith("SCAN")}
        if seen := {line for line in lines if line.split()[1] in LARGE}:
            found[name] = seen
    return found


def steps(connection: Connection, use: Callable[[], Any]) -> int:
    """Tens of SQLite's own steps."""
    ticks: list[int] = []
    driver: Any = connection.connection.dbapi_connection
    driver.set_progress_handler(lambda: ticks.append(1), 10)
    use()
    driver.set_progress_handler(None, 0)
    return len(ticks)


def dearer(connection: Connection, count: int = MANY) -> dict[str, tuple[int, int]]:
    """What takes more steps when there are many more older requests, and how many."""
    grow(connection, 0, 1000)
    before = {name: steps(connection, use) for name, use in uses(connection, recent(connection, 10_000_000)).items()}
    grow(connection, 1000, count)
    later = recent(connection, 20_000_000, START + 1000.0)
    after = {name: steps(connection, use) for name, use in uses(connection, later).items()}
    return {name: (before[name], after[name]) for name in before if after[name] > 1.3 * before[name] + 20}


def test_no_large_table_is_gone_through(store: Connection) -> None:
    grow(store, 0, 1000)
    assert scans(store, recent(store, 10_000_000)) == {}


def test_a_condition_that_its_index_does_not_know_is_seen(store: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    store.execute(text("DROP INDEX ix_feedback_completion_id"))
    grow(store, 0, 1000)
    assert "thumbs" not in scans(store, recent(store, 10_000_000))
    is_current = live_summary.feedback.c.is_current  # "= 1", which SQLite does not take for the index's condition
    monkeypatch.setattr(feedback, "IS_CURRENT", is_current)
    assert "thumbs" in scans(store, recent(store, 20_000_000))


def test_nothing_is_dearer_with_100_000_older_requests(store: Connection) -> None:
    assert dearer(store) == {}


@pytest.mark.parametrize(
    ("index", "what"),
    [
        ("ix_completions_created_at", "counts"),
        ("ix_completions_kept", "has past"),
        ("ix_completions_erasure", "erased"),
        ("ix_completions_user", "erase user"),
        ("ix_completions_query_id", "erase user"),
        ("ix_completions_asked", "going on"),
    ],
)
def test_an_index_that_is_missing_is_seen(store: Connection, index: str, what: str) -> None:
    store.execute(text(f"DROP INDEX {index}"))
    assert what in dearer(store, 20_000)


def test_texts_whose_time_has_passed_are_erased_some_at_a_time(store: Connection) -> None:
    grow(store, 0, 2500, erased=False)
    counts = []
    while live_erasure.has_past(store, START):
        counts.append(live_erasure.erase_past(store, START))
    assert counts == [1000, 1000, 500]
    assert not live_erasure.has_past(store, START)
