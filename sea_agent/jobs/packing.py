"""The working directory of a job: which of its files go along, how large they are, and the archive that holds them."""

import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from sea_agent.errors import UserError

LIMIT = 100 * 2**20
"""Bytes that may be sent: the head of a cluster keeps them in memory, and every node unpacks them."""
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
"""What never goes along, as lines of a .gitignore: history, environments, results, caches, secrets."""

_ALWAYS = GitIgnoreSpec.from_lines(EXCLUDES)
_IGNORE_FILES = (".gitignore", ".rayignore")
_NAMED = 3
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Packing:
    """The files of a working directory that go along."""

    root: Path
    sizes: dict[str, int]
    """Bytes of each file, by its path below ``root``."""
    links: tuple[str, ...]
    """Links to directories, which stay behind."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())

    def describe(self) -> str:
        """What is sent, in one line."""
        without = f", without the linked directories {', '.join(self.links)}" if self.links else ""
        return f"working directory {self.root}: {len(self.sizes)} files, {megabytes(self.size)}{without}"


def megabytes(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**20:.1f} MiB"


def pack(root: Path, limit: int = LIMIT) -> Packing:
    """Find what goes along of ``root``: all that ``EXCLUDES`` and the .gitignore and .rayignore files in it leave.

    An ignore file counts for its directory and those below, and none takes back what another one ignores, as Ray
    reads them.

    Raises:
        UserError: when it is no directory, or larger than ``limit`` bytes; names its largest entries.
    """
    if not root.is_dir():
        raise UserError(f"--working-dir {root}: no such directory")
    root = root.resolve()
    sizes: dict[str, int] = {}
    links: list[str] = []
    for path in _walk(root):
        if (root / path).is_dir():
            links.append(path)
        elif (root / path).is_file():  # neither a socket nor a link into nothing
            sizes[path] = (root / path).stat().st_size
    packing = Packing(root, dict(sorted(sizes.items())), tuple(sorted(links)))
    if packing.size > limit:
        raise UserError(
            f"--working-dir {root}: {len(sizes)} files of {megabytes(packing.size)} would be sent, more than "
            f"{megabytes(limit)}; the largest are {_largest(packing)}. Name in .rayignore what the run does not need, "
            "and put models and data on a disk that the nodes see"
        )
    return packing


def write_archive(packing: Packing, target: Path) -> None:
    """Write the files into a zip file. Equal files give equal bytes, so that a cluster that has them is not sent them
    again.

    Raises:
        UserError: when a file cannot be read.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in packing.sizes:
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            try:
                entry.external_attr = stat.S_IMODE((packing.root / path).stat().st_mode) << 16
                archive.writestr(entry, (packing.root / path).read_bytes())
            except OSError as error:
                raise UserError(f"{packing.root / path}: cannot be read ({error.strerror})") from None


@dataclass(frozen=True)
class _Rules:
    """An ignore file, or ``EXCLUDES``, and the directory it counts for."""

    folder: str
    spec: GitIgnoreSpec

    def ignore(self, path: str) -> bool:
        return self.spec.match_file(path.removeprefix(self.folder))


def _walk(root: Path, folder: str = "", above: Sequence[_Rules] = (_Rules("", _ALWAYS),)) -> Iterator[str]:
    """Paths of the files, and of links to directories, below ``folder`` that no rule ignores.

    All are relative to ``root``; a directory ends in a slash, as ignore files know it by that.
    """
    rules = [*above, *(_Rules(folder, spec) for spec in _ignore_files(root / folder))]
    for entry in os.scandir(root / folder):
        path = folder + entry.name
        if any(rule.ignore(f"{path}/" if entry.is_dir() else path) for rule in rules):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, f"{path}/", rules)
        else:
            yield path


def _ignore_files(folder: Path) -> Iterator[GitIgnoreSpec]:
    for name in _IGNORE_FILES:
        if (folder / name).is_file():
            yield GitIgnoreSpec.from_lines((folder / name).read_text().splitlines())


def _largest(packing: Packing) -> str:
    """The largest files and directories directly below the root."""
    entries = Counter[str]()
    for path, size in packing.sizes.items():
        top, slash, _ = path.partition("/")
        entries[top + slash] += size
    return ", ".join(f"{entry} ({megabytes(size)})" for entry, size in entries.most_common(_NAMED))
