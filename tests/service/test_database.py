"""One writer with group commit: acknowledged is committed, a fault stays with its own request."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from service.conftest import Running, fresh_postgresql, together
from sqlalchemy import Connection, RootTransaction, text
from sqlalchemy import insert as sql_insert
from sqlalchemy.exc import IntegrityError, OperationalError

from sea_agent.errors import UserError
from sea_agent.service.store import database as module
from sea_agent.service.store import runs, tables
from sea_agent.service.store.database import Database, StoreUnavailable

pytestmark = pytest.mark.anyio


def insert(name: str) -> Any:
    """A function that writes a run and returns its name."""

    def write(connection: Connection) -> str:
        runs.put(connection, name, {}, now=0.0)
        return name

    return write


def names(connection: Connection) -> list[str]:
    return list(connection.execute(text("SELECT id FROM runs ORDER BY id")).scalars())


async def one_batch(database: Database, *functions: Any) -> list[Any]:
    """Let functions be written in one transaction; their results or exceptions."""
    taken, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(connection: Connection) -> None:
        loop.call_soon_threadsafe(taken.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(30)

    holding = asyncio.create_task(database.write(hold))
    holding.add_done_callback(asyncio.Task.exception)  # looked at: its own commit may be broken on purpose
    await taken.wait()
    waiting = asyncio.gather(*(database.write(function) for function in functions), return_exceptions=True)
    while database._queue.qsize() < len(functions):
        await asyncio.sleep(0.001)
    go_on.set()
    (results,) = await together(waiting)
    return results


async def test_a_function_that_fails_takes_nothing_with_it(database_url: str) -> None:
    def fail(connection: Connection) -> None:
        insert("undone")(connection)
        raise ValueError("mine alone")

    def clash(connection: Connection) -> None:
        connection.execute(text("INSERT INTO runs SELECT * FROM runs"))

    async with Database(database_url, 20) as database:
        results = await one_batch(database, insert("a"), fail, insert("b"), clash, insert("c"))
        assert await database.read(names) == ["a", "b", "c"]
    assert [type(result).__name__ for result in results] == ["str", "ValueError", "str", "IntegrityError", "str"]


async def test_a_commit_that_fails_is_acknowledged_to_nobody(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Database(database_url, 20) as database:
        with monkeypatch.context() as broken:
            broken.setattr(RootTransaction, "commit", no_commit)
            results = await one_batch(database, insert("a"), insert("b"))
        assert [type(result) for result in results[:2]] == [StoreUnavailable, StoreUnavailable]
        assert await database.read(names) == []
        assert await database.write(insert("later")) == "later"  # the service goes on


async def test_acknowledging_before_the_commit_is_seen(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def acknowledge_then_commit(self: Database, connection: Connection, outcomes: Sequence[Any]) -> None:
        self._acknowledge(outcomes)
        no_commit(connection)

    async with Database(database_url, 20) as database:
        with monkeypatch.context() as broken:
            broken.setattr(Database, "_commit_then_acknowledge", acknowledge_then_commit)
            results = await one_batch(database, insert("a"), insert("b"))
        assert results == ["a", "b"]  # acknowledged,
        assert await database.read(names) == []  # and lost


async def test_maintenance_is_outside_of_transactions_and_after_what_was_queued(database_url: str) -> None:
    def vacuum(connection: Connection) -> list[str]:
        connection.exec_driver_sql("VACUUM")  # refused within a transaction
        return names(connection)

    def fail(connection: Connection) -> None:
        raise ValueError("nowhere")

    async with Database(database_url, 20) as database:
        written, found = await together(database.write(insert("a")), database.maintain(vacuum))
        assert (written, found) == ("a", ["a"])
        with pytest.raises(ValueError, match="nowhere"):
            await database.maintain(fail)
        await database.write(insert("b"))
        assert await database.read(names) == ["a", "b"], "the writer goes on, in transactions"


async def test_no_error_tells_the_texts_of_a_statement(database_url: str) -> None:
    def twice(connection: Connection) -> None:
        insert("a")(connection)
        again = {"id": "a", "name": "secret", **runs.DEFAULTS, "created_at": 0.0, "last_seq": 0}
        connection.execute(sql_insert(tables.runs), again)

    async with Database(database_url, 20) as database:
        with pytest.raises(IntegrityError) as caught:
            await database.write(twice)
    assert "secret" not in str(caught.value)


def no_commit(_: RootTransaction | Connection) -> None:
    raise OperationalError("COMMIT", {}, Exception("database or disk is full"))


async def test_a_full_disk_is_told_and_loses_nothing(sqlite_service: Running) -> None:
    await sqlite_service.run()
    await sqlite_service.post(3)
    database = sqlite_service.state.database

    def set_pages(more: int) -> None:
        with database._writer.transaction() as connection:
            pages = connection.execute(text("PRAGMA page_count")).scalar_one()
            connection.execute(text(f"PRAGMA max_page_count = {pages + more}"))

    set_pages(0)
    big = {"client_key": "big", "prompt": "x" * 100_000, "first": "a", "second": "b"}
    for _ in range(2):
        full = await sqlite_service.admin.post("/v1/runs/run/queries:batch", json={"queries": [big]})
        assert full.status_code == 503
        assert full.headers["content-type"] == "application/problem+json"
        assert full.headers["retry-after"] == "1"
    assert (await sqlite_service.admin.get("/v1/runs/run")).json()["queries"] == 3
    set_pages(1000)
    done = await sqlite_service.admin.post("/v1/runs/run/queries:batch", json={"queries": [big]})
    assert [query["created"] for query in done.json()["queries"]] == [True]


async def test_a_write_that_takes_too_long_is_told(database_url: str) -> None:
    async with Database(database_url, 0.2) as database:
        release = asyncio.Event()
        loop = asyncio.get_running_loop()
        with pytest.raises(StoreUnavailable, match="did not answer in time"):
            await database.write(lambda _: asyncio.run_coroutine_threadsafe(release.wait(), loop).result(30))
        release.set()


async def test_two_services_do_not_write_to_one_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_MS", 100)
    async with Database(database_url, 20) as first:
        with pytest.raises(UserError, match="another service writes to it"):
            Database(database_url, 20)
        await first.write(insert("a"))  # the first one goes on
    async with Database(database_url, 20) as second:
        assert await second.read(names) == ["a"]


@pytest.fixture
def postgresql(postgres_url: str) -> Iterator[str]:
    yield from fresh_postgresql(postgres_url)


def end_connections(url: str) -> None:
    """As a restart of the server or a broken network does."""
    with psycopg.connect(url) as connection:
        others = "datname = current_database() AND pid != pg_backend_pid()"
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")


async def test_connections_that_end_in_a_batch_take_it_with_them_and_are_replaced(postgresql: str) -> None:
    def cut(connection: Connection) -> None:
        end_connections(postgresql)
        insert("never")(connection)

    async with Database(postgresql, 20) as database:
        await database.write(insert("before"))
        results = await one_batch(database, insert("a"), cut, insert("b"))
        assert [type(result) for result in results] == [StoreUnavailable] * 3
        assert await database.read(names) == ["before"]
        results = [await database.write(insert(name)) for name in ("a", "b")]  # who was refused sends it again
        assert await database.read(names) == ["a", "b", "before"] == sorted([*results, "before"])


def end_once_somebody_waits(url: str, holds: psycopg.Connection) -> None:
    """Close a connection as soon as another one waits for its lock."""
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    end = time.monotonic() + 30
    with holds, psycopg.connect(url, autocommit=True) as look:
        while look.execute(waiting).fetchone() == (0,) and time.monotonic() < end:
            time.sleep(0.01)


async def test_a_service_waits_for_the_lock_of_one_that_has_just_ended(postgresql: str) -> None:
    """Its connection is closed, but the server has not noticed yet."""
    ended = psycopg.connect(postgresql)
    ended.execute("SELECT pg_advisory_lock(%s)", (module.ADVISORY_LOCK,))
    ending = asyncio.create_task(asyncio.to_thread(end_once_somebody_waits, postgresql, ended))
    await asyncio.sleep(0)  # it begins; opening the database keeps this thread
    async with Database(postgresql, 20) as database:
        await database.write(insert("a"))
    await ending


async def test_a_writer_that_lost_its_connection_waits_while_another_service_writes(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_MS", 1_000)
    async with Database(postgresql, 20) as database:
        end_connections(postgresql)
        await database.write(insert("before"))  # an idle connection that ended is replaced, and nobody notices
        end_connections(postgresql)
        async with Database(postgresql, 20) as other:
            with pytest.raises(StoreUnavailable, match="Nothing was saved"):
                await database.write(insert("twice"))
            await other.write(insert("other"))
        await database.write(insert("after"))
        assert await database.read(names) == ["after", "before", "other"]


async def test_an_sqlite_that_damages_databases_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sqlite, "sqlite_version_info", (3, 51, 2))
    with pytest.raises(UserError, match=r"3\.51\.3 or newer is needed"):
        Database(f"sqlite:///{tmp_path / 'x.sqlite'}", 20)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/x", "nonsense"])
async def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="sqlite:///FILE or postgresql://"):
        Database(url, 20)


async def test_what_keeps_sqlite_safe_is_set(tmp_path: Any) -> None:
    async with Database(f"sqlite:///{tmp_path / 'x.sqlite'}", 20) as database:

        def pragmas(connection: Connection) -> list[Any]:
            wanted = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            return [connection.execute(text(f"PRAGMA {name}")).scalar() for name in wanted]

        assert await database.write(pragmas) == ["wal", 2, 1, 5000]  # 2 is FULL
