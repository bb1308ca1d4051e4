"""The schema that migrations make is the one that the code expects, on both databases."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, Integer, MetaData, create_engine, inspect, text

from sea_agent.errors import UserError
from sea_agent.service.store import labels, leases, runs
from sea_agent.service.store.database import Database
from sea_agent.service.store.leases import Claim
from sea_agent.service.store.live_tables import metadata
from sea_agent.service.store.schema import migrate

pytestmark = pytest.mark.anyio


def differences(connection: Connection, wanted: MetaData) -> list:
    return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), wanted)


async def test_a_migrated_database_has_the_tables_of_the_code(database_url: str) -> None:
    async with Database(database_url, 20) as database:
        assert await database.read(lambda connection: differences(connection, metadata)) == []


async def test_a_column_that_no_migration_makes_is_seen(database_url: str) -> None:
    wanted = MetaData()
    for table in metadata.tables.values():
        table.to_metadata(wanted)
    wanted.tables["labels"].append_column(Column("mood", Integer))
    async with Database(database_url, 20) as database:
        ((kind, _, table_name, column),) = await database.read(lambda connection: differences(connection, wanted))
    assert (kind, table_name, column.name) == ("add_column", "labels", "mood")


async def test_opening_again_keeps_what_is_there(database_url: str) -> None:
    async with Database(database_url, 20) as database:
        await database.write(lambda connection: runs.put(connection, "run", {}, now=0.0))
    async with Database(database_url, 20) as database:
        assert await database.read(lambda connection: runs.exists(connection, "run"))


def first_version(connection: Connection) -> None:
    """A database as the first version left it: a run with an answered duel, a leased one and one that waits."""
    migrate(connection, "0001")
    insert_into(connection, "runs", id="run", name="Run", instructions="Be kind.", votes_needed=1, repeat_share=0.0)
    for number, (state, places) in enumerate([("answered", 0), ("open", 0), ("open", 1)]):
        insert_into(
            connection, "queries", id=f"query-{number}", run="run", client_key=f"k{number}", body_digest="d",
            votes_needed=1, priority=0, state=state, votes=1 - places if state == "answered" else 0, places=places,
            prompt="p", first=f"a{number}", second="b",
        )  # fmt: skip
    for number, state in enumerate(["labelled", "live"]):
        insert_into(
            connection, "leases", id=f"lease-{number}", query_id=f"query-{number}", run="run", annotator="ann",
            number=number, kind="vote", swapped=False, state=state, expires_at=1e10,
        )  # fmt: skip
    insert_into(
        connection, "labels", run="run", seq=1, id="label-0", query_id="query-0", lease_id="lease-0", annotator="ann",
        entered_by="ann", kind="vote", outcome="first", swapped=False, late=False, comment="fine", body_digest="d",
        at=1.0,
    )  # fmt: skip
    connection.execute(text("UPDATE runs SET last_seq = 1"))
    connection.commit()


def insert_into(connection: Connection, table: str, **values: object) -> None:
    """A row of the first version's table; what is not given is 0 where it must be something."""
    needed = {"runs": ("gold_share", "created_at", "last_seq"), "queries": ("created_at",), "leases": ("created_at",)}
    values = dict.fromkeys(needed.get(table, ()), 0) | values
    names = ", ".join(f'"{name}"' for name in values)
    connection.execute(
        text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in values)})"), values
    )


async def test_a_database_of_the_version_before_goes_on_with_what_it_has(database_url: str) -> None:
    engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        first_version(connection)
    engine.dispose()
    async with Database(database_url, 20) as database:
        assert await database.read(lambda connection: differences(connection, metadata)) == []
        run = await database.read(lambda connection: runs.get(connection, "run"))
        assert (run.instructions, run.labels, run.answered, run.state, run.examples) == ("Be kind.", 1, 1, "open", "[]")
        (label,) = await database.read(lambda connection: labels.page(connection, "run", 0, 10))
        assert (label.annotator, label.outcome, label.comment) == ("ann", "first", "fine")
        ann, bob = (Claim("run", name, 300.0, seed=0) for name in ("ann", "bob"))
        held = await database.write(lambda connection: leases.claim(connection, ann, now=2.0))
        taken = await database.write(lambda connection: leases.claim(connection, bob, now=2.0))
        assert held is not None
        assert taken is not None
        assert (held["lease_id"], taken["query_id"]) == ("lease-1", "query-2")


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(database_url: str) -> None:
    async with Database(database_url, 20) as database:
        await database.write(
            lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")).rowcount
        )
    with pytest.raises(UserError, match=r"9999.*Update sea-agent"):
        Database(database_url, 20)


async def test_a_failed_migration_leaves_nothing(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE half_done (id INTEGER)"))
        raise UserError("no more")

    monkeypatch.setattr("sea_agent.service.store.database.migrate", fail)
    with pytest.raises(UserError, match="no more"):
        Database(database_url, 20)
    monkeypatch.undo()
    async with Database(database_url, 20) as database:
        assert "half_done" not in await database.read(lambda connection: inspect(connection).get_table_names())
