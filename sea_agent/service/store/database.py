"""The database: readers in a small pool, and one thread that writes.

The writer takes everything that is queued, runs each function, commits once and only then answers: what was
acknowledged is on disk, and the cost of a commit is shared. When a function refuses, all are run again, each in its own
savepoint: so it undoes its own work only, and savepoints, which cost as much as the work, are made only then.
"""

import asyncio
import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any, Self, TypeVar

import pysqlite3.dbapi2 as sqlite
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, InternalError, OperationalError, SQLAlchemyError

from sea_agent.errors import UserError
from sea_agent.service.store.schema import migrate
from sea_agent.web.signals import Signals, Topic

T = TypeVar("T")

OLDEST_SQLITE = (3, 51, 3)
"""Versions before have a fault in the write-ahead log that can damage a database."""
SYNCHRONOUS = "FULL"
"""A commit is on disk when it returns, whatever happens to the power."""
BUSY_MS = 5_000
READERS = 4
LARGEST_BATCH = 256
LONGEST_QUEUE = 10_000
ADVISORY_LOCK = 0x5EA_A6E27
STATEMENT_MS = 30_000
NOTHING_SAVED = "The store cannot write now. Nothing was saved; try again."
COMMIT_FAILED = "The store failed while it saved this. Send the same again: it tells whether it is there."
"""A commit whose answer is lost, or whose last write failed, may have happened all the same."""

_FAULTS = (OperationalError, InterfaceError, InternalError)
"""What the database itself does wrong, not the caller."""

logger = logging.getLogger(__name__)


def _nothing(_: object) -> Sequence[Topic]:
    return ()


def _unobserved(batch: int, seconds: float) -> None:
    pass


class StoreUnavailable(Exception):
    """The store cannot answer now; nothing of the request was written unless the message says otherwise."""


@dataclass(frozen=True, slots=True)
class _Job:
    function: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    wake: Callable[[Any], Sequence[Topic]]


@dataclass(frozen=True, slots=True)
class _Outcome:
    job: _Job
    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """Connections, and the statement that begins a transaction where the driver does not.

    It is sent here: a listener for it would make the engine look for listeners at each statement.
    """

    engine: Engine
    begin: str | None = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection in a transaction, which is rolled back unless it was committed."""
        with self.engine.connect() as connection:
            self.start(connection)
            yield connection

    def start(self, connection: Connection) -> None:
        """Begin a transaction on a connection that has none."""
        if self.begin is not None:
            connection.exec_driver_sql(self.begin)


class Database:
    """An open database, bound to the event loop that opened it.

    ``committed`` is told of each batch, by the writer's thread: how many requests it had, and how long its commit took.

    Raises:
        UserError: when the URL is none of SQLite or PostgreSQL, when SQLite is too old, when the database cannot be
            opened, or when another service writes to it.
    """

    def __init__(
        self, url: str, deadline_seconds: float, committed: Callable[[int, float], None] = _unobserved
    ) -> None:
        self.signals = Signals()
        self._committed = committed
        self._deadline = deadline_seconds
        self._lock_file: IO[str] | None = None
        parsed = _parse(url)
        if parsed.get_backend_name() == "sqlite":
            self._lock_file = _lock_beside(Path(parsed.database or ""))
            self._writer, self._reader = _sqlite_pools(parsed)
        else:
            self._writer, self._reader = _postgresql_pools(parsed)
        try:
            with self._writer.transaction() as connection:
                migrate(connection)
                connection.commit()
        except OperationalError as error:
            self._release()
            raise UserError(f"database {parsed.render_as_string()}: {_reason(error)}") from None
        except UserError:
            self._release()
            raise
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._thread = threading.Thread(target=self._write_until_closed, name="store-writer", daemon=True)
        self._thread.start()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the waits, write what is queued, and let go of the database."""
        self.signals.close()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, self._deadline)
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._release()

    @property
    def queued(self) -> int:
        """How many functions wait for the writer."""
        return self._queue.qsize()

    async def write(self, function: Callable[[Connection], T], wake: Callable[[T], Sequence[Topic]] = _nothing) -> T:
        """Run a function in the writer's next transaction; return when that is committed.

        An exception of the function undoes what it wrote, nothing else, and comes out here. The function may run
        twice, the first time undone, so it must do nothing but read and write here. ``wake`` tells from its result
        which topics are to be woken after the commit.

        Raises:
            StoreUnavailable: when the commit fails or the deadline passes.
        """
        if self.queued >= LONGEST_QUEUE:
            raise StoreUnavailable("The store has too much to write. Nothing was saved; try again.")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Job(function, future, wake))
        try:
            async with asyncio.timeout(self._deadline):
                return await future
        except TimeoutError:
            raise StoreUnavailable(
                "The store did not answer in time. Ask again to see whether it saved this."
            ) from None

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Run a function that only reads.

        Raises:
            StoreUnavailable: when the database fails or the deadline passes.
        """

        def call() -> T:
            with self._reader.transaction() as connection:
                return function(connection)

        try:
            async with asyncio.timeout(self._deadline):
                return await self._loop.run_in_executor(self._readers, call)
        except TimeoutError:
            raise StoreUnavailable("The store did not answer in time.") from None
        except _FAULTS as error:
            logger.error("the store cannot be read: %s", _reason(error))
            raise StoreUnavailable("The store cannot be read now.") from None

    def _write_until_closed(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._write(batch)

    def _next_batch(self) -> list[_Job] | None:
        job = self._queue.get()
        if job is None:
            return None
        batch = [job]
        while len(batch) < LARGEST_BATCH:
            try:
                job = self._queue.get_nowait()
            except Empty:
                break
            if job is None:
                self._queue.put(None)
                break
            batch.append(job)
        return batch

    def _write(self, batch: Sequence[_Job]) -> None:
        outcomes: list[_Outcome] = []
        try:
            with self._writer.transaction() as connection:
                outcomes = self._run(connection, batch)
                self._commit_then_acknowledge(connection, outcomes)
        except (SQLAlchemyError, UserError, OSError) as error:
            logger.error("a batch of %d could not be written: %s", len(batch), _reason(error))
            message = COMMIT_FAILED if outcomes else NOTHING_SAVED
            self._acknowledge([_Outcome(job, error=StoreUnavailable(message)) for job in batch])

    def _run(self, connection: Connection, batch: Sequence[_Job]) -> list[_Outcome]:
        """Run every function. A fault of the database itself goes up: it concerns the whole batch."""
        try:
            return [_Outcome(job, job.function(connection)) for job in batch]
        except _FAULTS:
            raise
        except Exception:  # the caller's, whoever that is
            connection.rollback()
            self._writer.start(connection)
            return [_attempt(connection, job) for job in batch]

    def _commit_then_acknowledge(self, connection: Connection, outcomes: Sequence[_Outcome]) -> None:
        started = time.perf_counter()
        connection.commit()
        self._committed(len(outcomes), time.perf_counter() - started)
        self._acknowledge(outcomes)

    def _acknowledge(self, outcomes: Sequence[_Outcome]) -> None:
        self._loop.call_soon_threadsafe(self._settle, outcomes)

    def _settle(self, outcomes: Sequence[_Outcome]) -> None:
        for outcome in outcomes:
            if not outcome.job.future.done():
                if outcome.error is None:
                    outcome.job.future.set_result(outcome.value)
                else:
                    outcome.job.future.set_exception(outcome.error)
        for topic in {
            topic for outcome in outcomes if outcome.error is None for topic in outcome.job.wake(outcome.value)
        }:
            self.signals.wake(topic)

    def _release(self) -> None:
        self._writer.engine.dispose()
        self._reader.engine.dispose()
        if self._lock_file is not None:
            self._lock_file.close()


def _attempt(connection: Connection, job: _Job) -> _Outcome:
    """Run one function in a savepoint."""
    try:
        with connection.begin_nested():
            return _Outcome(job, job.function(connection))
    except _FAULTS:
        raise
    except Exception as error:
        return _Outcome(job, error=error)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UserError(f"--database {url!r} is not a URL; give sqlite:///FILE or postgresql://…") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite+pysqlite")
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise UserError(f"--database {parsed.render_as_string()}: give sqlite:///FILE or postgresql://…")


def _lock_beside(path: Path) -> IO[str]:
    """Hold the file's lock for as long as this process lives."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(f"{path}.lock", "w")  # noqa: SIM115 closed when the database is
    except OSError as error:
        raise UserError(f"database {path}: cannot be written ({error.strerror})") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(f"database {path}: another service writes to it; stop that one first") from None
    return file


def _sqlite_pools(url: URL) -> tuple[Pool, Pool]:
    if sqlite.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise UserError(
            f"SQLite {sqlite.sqlite_version} can damage databases in WAL mode; {needed} or newer is needed. "
            "Install a newer pysqlite3, or use PostgreSQL."
        )
    writer, reader = _sqlite_engine(url, connections=1), _sqlite_engine(url, connections=READERS, read_only=True)
    return Pool(writer, "BEGIN IMMEDIATE"), Pool(reader, "BEGIN DEFERRED")


def _sqlite_engine(url: URL, connections: int, read_only: bool = False) -> Engine:
    engine = create_engine(url, module=sqlite, pool_size=connections, max_overflow=0)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin where the pool says, not where Python guesses
        for pragma in (
            f"busy_timeout = {BUSY_MS}",
            "journal_mode = WAL",
            f"synchronous = {SYNCHRONOUS}",
            "foreign_keys = ON",
        ):
            connection.execute(f"PRAGMA {pragma}")
        if read_only:
            connection.execute("PRAGMA query_only = ON")

    return engine


def _postgresql_pools(url: URL) -> tuple[Pool, Pool]:
    def engine(options: str, connections: int) -> Engine:
        arguments = {"connect_timeout": 10, "options": f"-c statement_timeout={STATEMENT_MS} {options}"}
        return create_engine(
            url, pool_size=connections, max_overflow=0, pool_pre_ping=True, connect_args=arguments, pool_timeout=10
        )

    writer = engine("", connections=1)

    @event.listens_for(writer, "connect")
    def lock(connection: Any, _: object) -> None:
        """The lock lives as long as the connection that writes, so a writer that lost it cannot write."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (ADVISORY_LOCK,))
            taken = cursor.fetchone()[0]
        connection.commit()
        if not taken:
            connection.close()
            raise UserError(f"database {url.render_as_string()}: another service writes to it; stop that one first")

    return Pool(writer), Pool(engine("-c default_transaction_read_only=on", connections=READERS))


def _reason(error: Exception) -> str:
    """The database's own words, without the statement and its parameters."""
    return str(getattr(error, "orig", None) or error).strip()
