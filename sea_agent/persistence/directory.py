"""The directory that a run leaves behind: who works in it, and its growing file of metrics."""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from sea_agent.errors import UnfitState, UserError
from sea_agent.persistence.files import LOCK, take_lock
from sea_agent.persistence.rounds import RoundMetrics

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
            if take_lock(self._lock):
                return True
            time.sleep(_PAUSE_SECONDS)
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.close()


class MetricsFile:
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

    def add(self, row: RoundMetrics) -> None:
        """Append a row; readers see it whole."""
        self._file.write(json.dumps(row.flat()).encode() + b"\n")
        self._file.flush()
