"""Files that are whole at any time, and locks between processes."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

LOCK = ".lock"
"""The file whose lock a process holds while it works in a directory."""


def take_lock(file: IO[Any]) -> bool:
    """Take the lock of an open file, unless another process holds it; whether it is ours until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which is there as a whole or, after any death and on a full disk, as it was before.

    Raises:
        OSError: when there is no room for it.
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


def to_disk(path: Path) -> None:
    """Bring a file or a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Write a text as ``whole_file`` does."""
    with whole_file(path) as file:
        file.write(text.encode())
