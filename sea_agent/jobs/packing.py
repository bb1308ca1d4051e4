"""The working directory of a job: which of its files Ray sends, and how large they are.

Ray packs it. Before that its size is found, since Ray reads and copies a whole directory before a server refuses it,
and it follows links to directories, in circles too.
"""

import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sea_agent.errors import UserError

LIMIT = 95 * 2**20
"""Bytes that may be sent: Ray's job server takes 100 MiB, and an archive adds some 150 bytes for each file."""
EXCLUDES = (
    ".git",
    "/.venv",
    "/venv",
    "/runs",
    "/sea-agent-data",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "*.egg-info",
    "node_modules",
    ".env",
)
"""What is never sent, as lines of a .gitignore: history, environments, results, caches, secrets."""

_NAMED = 3


@dataclass(frozen=True)
class Packing:
    """The files of a working directory that are sent."""

    root: Path
    sizes: dict[str, int]
    """Bytes of each file, by its path below ``root``."""
    links: tuple[str, ...]
    """Links to directories, which are not sent."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())

    @property
    def excludes(self) -> list[str]:
        """What Ray has to leave out beside what the ignore files name, as lines of a .gitignore."""
        return [*EXCLUDES, *("/" + re.sub(r"([][\\*? ])", r"\\\1", link) for link in self.links)]

    def describe(self) -> str:
        """What is sent, in one line."""
        without = f", without the linked directories {', '.join(self.links)}" if self.links else ""
        return f"working directory {self.root}: {len(self.sizes)} files, {_megabytes(self.size)}{without}"


def pack(root: Path, limit: int = LIMIT) -> Packing:
    """Find what is sent of ``root``: all that ``EXCLUDES`` and the .gitignore and .rayignore files in it leave.

    An ignore file counts for its directory and those below, and none takes back what another one ignores.

    Raises:
        UserError: when it is no directory, cannot be read, or exceeds ``limit`` bytes; names its largest entries.
    """
    # Its own walk, so that what is measured is what it sends.
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    if not root.is_dir():
        raise UserError(f"--working-dir {root}: no such directory")
    root = root.resolve()
    sizes: dict[str, int] = {}
    links: list[str] = []

    def is_link(path: Path) -> bool:
        if linked := path.is_symlink() and path.is_dir():
            links.append(path.relative_to(root).as_posix())
        return linked

    def measure(path: Path) -> None:
        if path.is_file():  # neither a socket nor a link into nothing
            sizes[path.relative_to(root).as_posix()] = path.stat().st_size

    logging.getLogger("ray._private.runtime_env").setLevel(logging.CRITICAL)
    try:
        _dir_travel(root, [_get_excludes(root, [*EXCLUDES]), is_link], measure, include_gitignore=True)
    except OSError as error:
        raise UserError(f"--working-dir {root}: cannot be read ({error})") from None
    packing = Packing(root, sizes, tuple(sorted(links)))
    if packing.size > limit:
        raise UserError(
            f"--working-dir {root}: {len(sizes)} files of {_megabytes(packing.size)} would be sent, more than "
            f"{_megabytes(limit)}; the largest are {_largest(packing)}. Name in .rayignore what the run does not need, "
            "and put models and data on a disk that the nodes see"
        )
    return packing


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _largest(packing: Packing) -> str:
    """The largest files and directories directly below the root."""
    entries = Counter[str]()
    for path, size in packing.sizes.items():
        top, slash, _ = path.partition("/")
        entries[top + slash] += size
    return ", ".join(f"{entry} ({_megabytes(size)})" for entry, size in entries.most_common(_NAMED))
