"""The database: a small pool of readers, and one thread that writes in groups.

The writer runs every function that is queued, commits once, and only then answers: an acknowledged write is on disk,
and the requests share the cost of the commit. If a function raises, the transaction is rolled back and all functions
run again, each in a savepoint, so that the failed one undoes only its own work. Savepoints cost as much as the work
itself, which is why they are not used from the start.

Messages of errors hold no parameters of statements: texts and names stay out of the log.
"""

import asyncio
import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any, Self, TypeVar

import pysqlite3.dbapi2 as sqlite
from psycopg.errors import LockNotAvailable
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
LOCK_MS = 5_000
"""Longest wait for PostgreSQL to let go of the lock of a service that has ended."""
NOTHING_SAVED = "The store cannot write now. Nothing was saved; try again."
COMMIT_FAILED = "The store failed during the commit. Send the same request again to learn whether this was saved."
"""A commit whose answer is lost, or whose last write failed, may have happened all the same."""

_FAULTS = (OperationalError, InterfaceError, InternalError)
"""Faults of the database itself, not of the caller."""

logger = logging.getLogger(__name__)


def _nothing(_: object) -> Sequence[Topic]:
    return ()


def _unobserved(batch: int, seconds: float) -> None:
    pass


class StoreUnavailable(Exception):
    """The store cannot answer now; nothing of the request was written unless the message says otherwise."""


@dataclass(slots=True)
class _Job:
    """A function to run, who waits for it, and how it ended."""

    function: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    wake: Callable[[Any], Sequence[Topic]]
    apart: bool = False
    value: Any = None
    error: Exception | None = None

    def settle(self) -> Sequence[Topic]:
        """Answer the caller if it still waits; returns the topics to wake."""
        if self.error is not None:
            if not self.future.done():
                self.future.set_exception(self.error)
            return ()
        if not self.future.done():
            self.future.set_result(self.value)
        return self.wake(self.value)


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

    @contextmanager
    def apart(self) -> Iterator[Connection]:
        """A connection without a transaction: each statement commits by itself."""
        with self.engine.connect() as connection:
            driver_begins = self.begin is None
            yield connection.execution_options(isolation_level="AUTOCOMMIT") if driver_begins else connection

    def start(self, connection: Connection) -> None:
        """Begin a transaction on a connection that has none."""
        if self.begin is not None:
            connection.exec_driver_sql(self.begin)


class Database:
    """An open database, bound to the event loop that opened it.

    The writer's thread calls ``committed`` after each commit, with the number of requests in it and its seconds.

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

        An exception of the function rolls back its own writes only, and is raised here. The function may run
        twice, the first time rolled back, so it must have no other effect than on the database. ``wake`` returns the
        topics to wake after the commit, given the function's result.

        Raises:
            StoreUnavailable: when the commit fails or the deadline passes.
        """
        try:
            async with asyncio.timeout(self._deadline):
                return await self._queued(_Job(function, self._loop.create_future(), wake))
        except TimeoutError:
            raise StoreUnavailable(
                "The store did not answer in time. Ask again to see whether it saved this."
            ) from None

    async def maintain(self, function: Callable[[Connection], T]) -> T:
        """Run a function on the writer's connection outside of transactions, for what no transaction can hold.

        It begins after the commit of everything that was queued before. Nothing is written meanwhile, however long it
        takes, so nothing else can come between its statements.

        Raises:
            StoreUnavailable: when the database fails.
        """
        return await self._queued(_Job(function, self._loop.create_future(), _nothing, apart=True))

    async def _queued(self, job: _Job) -> Any:
        if self.queued >= LONGEST_QUEUE:
            raise StoreUnavailable("The store has too much to write. Nothing was saved; try again.")
        self._queue.put(job)
        return await job.future

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
        closing = False
        while not closing:
            queued = [self._queue.get()]
            with suppress(Empty):
                while len(queued) < LARGEST_BATCH:
                    queued.append(self._queue.get_nowait())
            jobs = [job for job in queued if job is not None]
            closing = len(jobs) < len(queued)
            if batch := [job for job in jobs if not job.apart]:
                self._write(batch)
            for job in jobs:
                if job.apart:
                    self._maintain(job)

    def _write(self, batch: Sequence[_Job]) -> None:
        message = NOTHING_SAVED
        try:
            with self._writer.transaction() as connection:
                self._run(connection, batch)
                message = COMMIT_FAILED
                self._commit_then_acknowledge(connection, batch)
        except (SQLAlchemyError, UserError, OSError) as error:
            logger.error("a batch of %d could not be written: %s", len(batch), _reason(error))
            for job in batch:
                job.error = StoreUnavailable(message)
            self._acknowledge(batch)

    def _run(self, connection: Connection, batch: Sequence[_Job]) -> None:
        """Run every function. A fault of the database itself is raised: it concerns the whole batch."""
        try:
            for job in batch:
                job.value = job.function(connection)
            return
        except _FAULTS:
            raise
        except Exception:  # of one function, found below
            connection.rollback()
            self._writer.start(connection)
        for job in batch:
            try:
                with connection.begin_nested():
                    job.value = job.function(connection)
            except _FAULTS:
                raise
            except Exception as error:
                job.error = error

    def _maintain(self, job: _Job) -> None:
        try:
            with self._writer.apart() as connection:
                job.value = job.function(connection)
        except (*_FAULTS, UserError, OSError) as error:
            logger.error("maintenance of the store failed: %s", _reason(error))
            job.error = StoreUnavailable("The store cannot do this now; try again.")
        except Exception as error:
            job.error = error
        self._acknowledge([job])

    def _commit_then_acknowledge(self, connection: Connection, batch: Sequence[_Job]) -> None:
        started = time.perf_counter()
        connection.commit()
        self._committed(len(batch), time.perf_counter() - started)
        self._acknowledge(batch)

    def _acknowledge(self, batch: Sequence[_Job]) -> None:
        # Copies: the loop answers later, and by what was known now.
        self._loop.call_soon_threadsafe(self._settle, [replace(job) for job in batch])

    def _settle(self, batch: Sequence[_Job]) -> None:
        for topic in {topic for job in batch for topic in job.settle()}:
            self.signals.wake(topic)

    def _release(self) -> None:
        self._writer.engine.dispose()
        self._reader.engine.dispose()
        if self._lock_file is not None:
            self._lock_file.close()


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
    engine = create_engine(url, module=sqlite, pool_size=connections, max_overflow=0, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin where the pool says, not where Python guesses
        connection.create_function("lower", 1, str.lower, deterministic=True)  # SQLite's own knows ASCII only
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
        pool: dict[str, Any] = {"pool_size": connections, "max_overflow": 0, "pool_pre_ping": True, "pool_timeout": 10}
        return create_engine(url, connect_args=arguments, hide_parameters=True, **pool)

    writer = engine("", connections=1)

    @event.listens_for(writer, "connect")
    def lock(connection: Any, _: object) -> None:
        """The lock lives as long as the connection that writes, so a writer that lost it cannot write. The server may
        let go of that of a service which has just ended a moment later."""
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {LOCK_MS}")
            try:
                cursor.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
            except LockNotAvailable:
                connection.close()
                raise UserError(
                    f"database {url.render_as_string()}: another service writes to it; stop that one first"
                ) from None
        connection.commit()

    return Pool(writer), Pool(engine("-c default_transaction_read_only=on", connections=READERS))


def _reason(error: Exception) -> str:
    """The database's own words, without the statement and its parameters."""
    return str(getattr(error, "orig", None) or error).strip()
