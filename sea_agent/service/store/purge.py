"""Removes what was erased from the files of the database.

A database only marks the place of an old row as free: its bytes stay in the file, in copies that the pages keep when
rows move, and in the write-ahead log. Here every table is written anew, and the log is emptied or overwritten.
"""

from collections.abc import Callable

from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, delete, exists, insert, select
from sqlalchemy.exc import ProgrammingError

from sea_agent.service.store.live_tables import metadata
from sea_agent.service.store.tables import purges

_DUE = select(exists().select_from(purges))

_STATISTICS_KEPT = (
    "Statistics of the planner (pg_statistic) may hold names and beginnings of texts until they are vacuumed: let the "
    "service's role own the database, or run VACUUM FULL pg_catalog.pg_statistic as a superuser."
)
_LOG_KEPT = (
    "The write-ahead log (pg_wal) holds it until PostgreSQL has written over the segments. The service's role may not "
    "make it do so: grant it pg_checkpoint, pg_monitor, and EXECUTE on pg_switch_wal(), and erase once more."
)
_SEGMENTS_KEPT = (
    "Older segments of the write-ahead log hold it until PostgreSQL lets go of them: a replication slot, wal_keep_size "
    "or archiving needs them still."
)


class Held(Exception):
    """Somebody still reads the database as it was before; nothing can be removed until they end."""


def demand(connection: Connection, now: float) -> None:
    """Note, in the transaction that erases, that the files are to be purged: a crash in between loses nothing."""
    connection.execute(insert(purges), {"since": now})


def due(connection: Connection) -> bool:
    """Whether something was erased that the files may still hold."""
    return bool(connection.execute(_DUE).scalar_one())


def purge(connection: Connection) -> list[str]:
    """Remove what was erased, on a connection outside of transactions; what could not be removed, and why.

    Raises:
        Held: when somebody still reads what was there before.
    """
    left = _BY_DIALECT[connection.dialect.name](connection)
    connection.execute(delete(purges))
    return left


def _purge_sqlite(connection: Connection) -> list[str]:
    connection.exec_driver_sql("VACUUM")
    busy, _, _ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    if busy:
        raise Held
    return []


# --- PostgreSQL ------------------------------------------------------------------------------------------------------

_OLDER_READERS = """
    SELECT EXISTS (
        SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND pid != pg_backend_pid() AND age(backend_xmin) > age(%(now)s::xid))
"""
_OWNS_DATABASE = "SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()"
_SEGMENT = "name ~ '^[0-9A-F]{24}$'"
_OLDER = f"SELECT count(*) FROM pg_ls_waldir() WHERE {_SEGMENT} AND name < pg_walfile_name(%(begin)s::pg_lsn)"
_NEWER = f"SELECT count(*) FROM pg_ls_waldir() WHERE {_SEGMENT} AND name > pg_walfile_name(%(begin)s::pg_lsn)"


def _purge_postgresql(connection: Connection) -> list[str]:
    connection.exec_driver_sql("SET statement_timeout = 0")
    try:
        _require_no_older_reader(connection)
        tables = ", ".join(metadata.tables)
        _forget_statistics_of_empty_tables(connection)
        connection.exec_driver_sql(f"VACUUM (FULL, ANALYZE) {tables}")
        return _rewrite_statistics(connection) + _overwrite_log(connection)
    finally:
        connection.exec_driver_sql("RESET statement_timeout")


def _forget_statistics_of_empty_tables(connection: Connection) -> None:
    """ANALYZE keeps the old statistics of a table that has no rows any more. A column that is given a type, be it the
    same, loses its own."""
    for table in metadata.tables.values():
        if not connection.execute(select(exists().select_from(table))).scalar_one():
            for column in table.columns:
                kind = column.type.compile(connection.dialect)
                connection.exec_driver_sql(f'ALTER TABLE {table.name} ALTER COLUMN "{column.name}" TYPE {kind}')


def _require_no_older_reader(connection: Connection) -> None:
    """VACUUM keeps the old rows that a snapshot from before still sees. Raises: Held."""
    now = connection.exec_driver_sql("SELECT pg_current_xact_id()::xid::text").scalar_one()
    if connection.exec_driver_sql(_OLDER_READERS, {"now": now}).scalar_one():
        raise Held


def _rewrite_statistics(connection: Connection) -> list[str]:
    """The planner keeps the most frequent values of each column; ANALYZE has replaced them."""
    if not connection.exec_driver_sql(_OWNS_DATABASE).scalar_one():
        return [_STATISTICS_KEPT]  # VACUUM would only warn
    connection.exec_driver_sql("VACUUM FULL pg_catalog.pg_statistic")
    return []


def _overwrite_log(connection: Connection) -> list[str]:
    """Let go of every segment that is older than now, and write over those that PostgreSQL keeps to use again."""
    try:
        return _overwrite_segments(connection)
    except ProgrammingError as error:
        if isinstance(error.orig, InsufficientPrivilege):
            return [_LOG_KEPT]
        raise


def _overwrite_segments(connection: Connection) -> list[str]:
    begin = _next_segment(connection)
    connection.exec_driver_sql("CHECKPOINT")
    older = connection.exec_driver_sql(_OLDER, {"begin": begin}).scalar_one()
    used_again = connection.exec_driver_sql(_NEWER, {"begin": begin}).scalar_one()
    for _ in range(used_again + 1):
        _next_segment(connection)  # the segment that ends with it is written over to its end
        connection.exec_driver_sql("CHECKPOINT")  # many segments between two would let PostgreSQL keep as many
    return [_SEGMENTS_KEPT] if older else []


def _next_segment(connection: Connection) -> str:
    """Go on in the next segment, the rest of this one being written over with zeros; where the log continues."""
    connection.exec_driver_sql("SELECT pg_switch_wal()")
    message = "SELECT pg_logical_emit_message(false, 'sea-agent', 'purge')"  # there is no switch without something
    return str(connection.exec_driver_sql(message).scalar_one())


_BY_DIALECT: dict[str, Callable[[Connection], list[str]]] = {"sqlite": _purge_sqlite, "postgresql": _purge_postgresql}
