"""Of what was erased no byte is left: in any file of the database, in exports, metrics or the log."""

import logging
import string
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from random import Random

import psycopg
import pysqlite3.dbapi2 as sqlite
import pytest
from service.conftest import Running, claim, fresh_postgresql, label, start
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from sea_agent.service import erasing
from sea_agent.service.store import purge

pytestmark = pytest.mark.anyio

NAME, COMMENT, PROMPT, FIRST, SECOND, TOLD = (
    f"{what} of Xanthippe" for what in ("name", "comment", "prompt", "first", "second", "told")
)
TEXTS = (PROMPT, FIRST, SECOND, TOLD)
PERSON = (NAME, COMMENT)
DUELS = 40


@pytest.fixture
async def postgresql_service(postgres_url: str) -> AsyncIterator[Running]:
    """A service on PostgreSQL, for what SQLite does not have."""
    for url in fresh_postgresql(postgres_url):
        async with AsyncExitStack() as stack:
            yield await start(stack, url)


def folder_of(url: str) -> Path:
    """Where the files of a database are."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return Path(parsed.database or "").parent
    with psycopg.connect(url) as connection:
        return Path(str(connection.execute("SHOW data_directory").fetchone()[0]))  # type: ignore[index]


def holding(url: str, *texts: str) -> set[tuple[str, str]]:
    """Which files hold which of the texts, byte by byte."""
    found = set()
    for path in folder_of(url).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found |= {(path.parent.name, text) for text in texts if text.encode() in content}
    return found


async def answered(service: Running, name: str = NAME) -> list[str]:
    """A run full of texts that were answered with comments, looked at by the planner; the ids of its duels."""
    await service.run(instructions=TOLD)
    ids = []
    for number in range(DUELS):
        noise = "".join(Random(number).choices(string.ascii_letters + string.digits, k=4000))
        long = f"{FIRST} {noise}"  # stored outside of its row, and no shorter when it is compressed
        texts = {"prompt": f"{PROMPT} {number}", "first": long, "second": SECOND}
        body = {"queries": [{"client_key": f"{name[:4]} {number}", **texts}]}
        ids += [
            row["id"] for row in (await service.admin.post("/v1/runs/run/queries:batch", json=body)).json()["queries"]
        ]
    somebody = await service.annotator(name)
    for _ in range(DUELS):
        await label(somebody, await claim(somebody), comment=COMMENT)
    if service.state.settings.url.startswith("postgresql"):  # it keeps frequent values, and writes pages out later
        owner = make_url(service.state.settings.url).set(username="postgres").render_as_string(hide_password=False)
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute("ANALYZE")
            connection.execute("CHECKPOINT")
    return ids


async def told(service: Running, caplog: pytest.LogCaptureFixture) -> str:
    """All that the service tells: exports, the log of labels, people, metrics, its own log."""
    paths = ("v1/runs/run/export.jsonl?ties=keep", "v1/runs/run/labels", "v1/people", "v1/keys", "v1/runs", "metrics")
    bodies = [(await service.admin.get(f"/{path}")).text for path in paths]
    parquet = (await service.admin.get("/v1/runs/run/export.parquet?ties=keep")).content
    return "\n".join([*bodies, parquet.decode("latin-1"), caplog.text])


async def erase(service: Running, path: str) -> list[str]:
    done = await service.admin.post(f"/v1/{path}/erase")
    assert done.status_code == 200, done.text
    return list(done.json()["left"])


# --- nothing is left -------------------------------------------------------------------------------------------------


async def test_of_a_person_nothing_is_left(
    service: Running, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sea_agent")
    await answered(service)
    assert {text for _, text in holding(database_url, *PERSON)} == set(PERSON)
    assert await erase(service, f"people/{NAME}") == []
    assert holding(database_url, *PERSON) == set()
    assert {text for _, text in holding(database_url, *TEXTS)} == set(TEXTS), "the texts are still there"
    seen = await told(service, caplog)
    assert not any(text in seen for text in PERSON)
    assert "erased-" in seen


async def test_of_a_deleted_run_nothing_is_left(service: Running, database_url: str) -> None:
    await answered(service)
    (await service.admin.put("/v1/runs/run", json={"state": "closed"})).raise_for_status()
    (await service.admin.delete("/v1/runs/run")).raise_for_status()
    assert holding(database_url, *TEXTS, COMMENT) == set()


async def test_of_the_texts_of_a_run_nothing_is_left(
    service: Running, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sea_agent")
    await answered(service)
    assert await erase(service, "runs/run") == []
    assert holding(database_url, *TEXTS) == set()
    assert {text for _, text in holding(database_url, *PERSON)} == set(PERSON), "who answered is still there"
    seen = await told(service, caplog)
    assert not any(text in seen for text in TEXTS)


async def test_of_the_texts_of_a_duel_nothing_is_left(service: Running, database_url: str) -> None:
    ids = await answered(service)
    assert await erase(service, f"queries/{ids[17]}") == []
    assert holding(database_url, f"{PROMPT} 17") == set()
    assert {text for _, text in holding(database_url, f"{PROMPT} 16", f"{PROMPT} 18")} != set()


# --- the controls: what each part of the purge is for ----------------------------------------------------------------


async def test_without_the_purge_it_is_found(
    service: Running, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answered(service)
    monkeypatch.setattr(purge, "purge", lambda connection: [])
    await erase(service, "runs/run")
    await erase(service, f"people/{NAME}")
    assert {text for _, text in holding(database_url, *TEXTS, *PERSON)} == {*TEXTS, *PERSON}


async def test_writing_the_tables_anew_without_the_log_is_not_enough(
    service: Running, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answered(service)
    sqlite_is_used = database_url.startswith("sqlite")

    def tables_only(connection: Connection) -> list[str]:
        tables = "" if sqlite_is_used else " (FULL, ANALYZE)"
        connection.exec_driver_sql(f"VACUUM{tables}")
        return []

    monkeypatch.setattr(purge, "purge", tables_only)
    await erase(service, f"people/{NAME}")
    left = {place for place, text in holding(database_url, *PERSON)}
    assert left == ({folder_of(database_url).name} if sqlite_is_used else {"pg_wal"} | left)


async def test_a_checkpoint_alone_leaves_old_segments_that_are_kept_to_be_used_again(
    postgresql_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgresql_service.state.settings.url
    await answered(postgresql_service)

    def checkpoint_only(connection: Connection) -> list[str]:
        connection.exec_driver_sql("SELECT pg_switch_wal()")
        connection.exec_driver_sql("CHECKPOINT")
        return []

    monkeypatch.setattr(purge, "_overwrite_segments", checkpoint_only)
    await erase(postgresql_service, f"people/{NAME}")
    assert {place for place, _ in holding(url, *PERSON)} == {"pg_wal"}


async def test_the_planner_remembers_frequent_names(
    postgresql_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgresql_service.state.settings.url
    await answered(postgresql_service)
    monkeypatch.setattr(purge, "_rewrite_statistics", lambda connection: [])
    await erase(postgresql_service, f"people/{NAME}")
    assert {text for _, text in holding(url, *PERSON)} != set()


# --- who still reads -------------------------------------------------------------------------------------------------


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Somebody else who has begun to read the database as it is now, and goes on."""
    if url.startswith("sqlite"):
        with closing(sqlite.connect(make_url(url).database)) as connection:
            connection.isolation_level = None
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM runs").fetchone()
            yield
    else:
        with psycopg.connect(url) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.execute("SELECT count(*) FROM pg_class")
            yield


async def impatient(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing wait for a reader."""
    monkeypatch.setattr(erasing, "_TRIES", 1)
    monkeypatch.setattr(erasing, "_PATIENCE", 0.0)
    if service.state.settings.url.startswith("sqlite"):
        await service.state.database.maintain(lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout = 50"))


async def test_what_somebody_still_reads_is_told_and_removed_later(
    service: Running, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answered(service)
    await impatient(service, monkeypatch)
    with reading(database_url):
        (left,) = await erase(service, f"people/{NAME}")
        assert "somebody else has been reading" in left
        assert {text for _, text in holding(database_url, *PERSON)} == set(PERSON)
        assert await service.state.database.read(purge.due)
    await erasing._erase_past(service.state)  # as it does every hour
    assert holding(database_url, *PERSON) == set()
    assert not await service.state.database.read(purge.due)


async def test_files_that_cannot_be_written_anew_are_told_and_written_later(
    sqlite_service: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = sqlite_service.state.settings.url
    await answered(sqlite_service)

    def full(connection: Connection) -> list[str]:
        raise OperationalError("VACUUM", {}, Exception("database or disk is full"))

    with monkeypatch.context() as broken:
        broken.setattr(purge, "purge", full)
        (left,) = await erase(sqlite_service, f"people/{NAME}")
    assert "could not be written anew" in left
    assert "disk is full" in caplog.text
    assert holding(url, *PERSON) != set()
    await erasing._erase_past(sqlite_service.state)
    assert holding(url, *PERSON) == set()


async def test_rows_that_somebody_still_reads_would_be_written_into_the_new_tables(
    postgresql_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgresql_service.state.settings.url
    await answered(postgresql_service)
    monkeypatch.setattr(purge, "_require_no_older_reader", lambda connection: None)
    with reading(url):
        assert await erase(postgresql_service, f"people/{NAME}") == []
        assert holding(url, *PERSON) != set()


async def test_a_role_without_rights_says_what_is_left(postgres_url: str) -> None:
    for url in fresh_postgresql(postgres_url):
        plain = make_url(url).set(username="plain")
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            admin.execute("DROP ROLE IF EXISTS plain")
            admin.execute("CREATE ROLE plain LOGIN")
            admin.execute(f"GRANT CREATE ON DATABASE {plain.database} TO plain")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("GRANT CREATE ON SCHEMA public TO plain")
        async with AsyncExitStack() as stack:
            service = await start(stack, plain.render_as_string())
            await answered(service)
            statistics, log = await erase(service, f"people/{NAME}")
            assert "pg_statistic" in statistics
            assert "grant it pg_checkpoint" in log
            with psycopg.connect(postgres_url, autocommit=True) as admin:
                admin.execute(f"ALTER DATABASE {plain.database} OWNER TO plain")
                admin.execute("GRANT pg_checkpoint, pg_monitor TO plain")
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO plain")
            await answered(service, "somebody else")
            assert await erase(service, "people/somebody%20else") == []
            assert holding(url, *PERSON) == set()
