"""Reading files that somebody else writes: plain files inside the root only, up to a size, while they grow."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from sea_agent.errors import UserError

Stamp = tuple[int, int]
"""Time of the last change in nanoseconds, and size in bytes."""

_MARK_BYTES = 64


def real_place(root: Path, path: Path) -> Path:
    """Where ``path`` leads, links resolved.

    Raises:
        UserError: when that is outside of ``root``, or nowhere.
    """
    try:
        place = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path.name}: leads nowhere ({_reason(error)})") from None
    if not place.is_relative_to(root):
        raise UserError(f"{path.name}: a link that leads out of the directory that is shown; it is not followed")
    return place


def open_plain(root: Path, path: Path) -> BinaryIO:
    """Open a plain file for reading; a pipe or device, which may never end, is refused.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    try:
        descriptor = os.open(real_place(root, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"{path.name}: cannot be read ({_reason(error)})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path.name}: not a plain file")
    return os.fdopen(descriptor, "rb")


def require_small(root: Path, path: Path, largest: int) -> None:
    """Refuse what is not a plain file inside ``root`` of at most ``largest`` bytes.

    Raises:
        UserError: naming the file.
    """
    with open_plain(root, path) as file:
        _require_size(path, os.fstat(file.fileno()).st_size, largest)


def _require_size(path: Path, size: int, largest: int) -> None:
    if size > largest:
        raise UserError(f"{path.name}: {size:,} bytes, more than the {largest:,} that are read here")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class Tail:
    """The lines of a file that grows.

    Only what is new is read. A last line without an end stays in ``rest`` until it is whole.
    """

    def __init__(self, root: Path, path: Path, largest: int) -> None:
        self._root, self._path, self._largest = root, path, largest
        self._offset, self._mark = 0, b""
        self.rest = b""

    def new_lines(self) -> list[bytes] | None:
        """The whole lines since the last call; None when the file was cut or replaced: what was read of it is void.

        Raises:
            UserError: when the file cannot be read or is too large.
        """
        with open_plain(self._root, self._path) as file:
            size = os.fstat(file.fileno()).st_size
            _require_size(self._path, size, self._largest)
            file.seek(self._offset - len(self._mark))
            if file.read(len(self._mark)) != self._mark:
                return None
            data = file.read(size - self._offset)
        whole = data[: data.rfind(b"\n") + 1]
        self.rest = data[len(whole) :]
        self._offset += len(whole)
        self._mark = (self._mark + whole[-_MARK_BYTES:])[-_MARK_BYTES:]
        return whole.split(b"\n")[:-1]
