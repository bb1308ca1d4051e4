"""The directory that a run leaves behind: who works in it, its growing file of metrics, and files that are whole."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from sea_agent.errors import UnfitState, UserError

LOCK = ".lock"
_ATTEMPTS = 20
_PAUSE_SECONDS = 0.02


class RunDirectory:
    """Holds a run's directory against other processes for as long as it is open.

    Raises:
        UserError: when it cannot be written, or another process works in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / LOCK).open("a+")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None
        if not self._take():
            self._lock.seek(0)
            holder = self._lock.read().strip()
            self._lock.close()
            raise UserError(f"{path}: process {holder} works in it; stop that first, or name another") from None
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def _take(self) -> bool:
        """Whether the lock is ours now. A dashboard holds it for a moment to see whether a run does; that passes."""
        for _ in range(_ATTEMPTS):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_PAUSE_SECONDS)
            else:
                return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.close()


class Metrics:
    """``metrics.jsonl``, one row for each round; ``cut`` says where the rows begin that this life writes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    @property
    def length(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def cut(self, length: int) -> None:
        """Forget all rows after the first ``length`` bytes.

        Raises:
            UnfitState: when there are fewer.
        """
        if not 0 <= length <= self.length:
            raise UnfitState(f"metrics.jsonl holds {self.length} bytes and the checkpoint speaks of {length}")
        self._file.truncate(length)
        self._file.seek(length)

    def add(self, row: dict[str, Any]) -> None:
        """Append a row; readers see it whole."""
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which replaces ``path`` only when it is complete: a crash or a full disk leaves the old one.

    Raises:
        OSError: the file cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file completely or not at all; see ``whole_file``."""
    with whole_file(path) as file:
        file.write(text.encode())
