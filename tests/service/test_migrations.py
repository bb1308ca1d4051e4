"""The schema that migrations make is the one that the code expects, on both databases."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, Integer, MetaData, inspect, text

from sea_agent.errors import UserError
from sea_agent.service.store import runs
from sea_agent.service.store.database import Database
from sea_agent.service.store.tables import metadata

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
