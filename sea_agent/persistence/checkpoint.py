"""Checkpoints: the whole state of a run in one directory, there as a whole or not at all.

    checkpoints/round-000120/manifest.json        format, round, win rate, settings, and the SHA-256 of the other files
    checkpoints/round-000120/state.json           plain values; a tensor is a reference into the next file
    checkpoints/round-000120/tensors.safetensors

A checkpoint is written under another name, brought to disk, and renamed. Nothing in it is executed when it is read.
"""

import hashlib
import json
import shutil
from collections.abc import Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sea_agent import __version__
from sea_agent.config import CheckpointConfig
from sea_agent.config.files import differences
from sea_agent.errors import RunFailure, UserError
from sea_agent.persistence.files import to_disk as _to_disk

FORMAT = 3
_MANIFEST, _STATE, _TENSORS = "manifest.json", "state.json", "tensors.safetensors"
_PART = ".part"

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and is whole."""

    name: str
    state: dict[str, Any]


class Checkpoints:
    """Writes checkpoints of one run beside the rounds, and keeps the newest and the best.

    Writing goes on in a thread: ``save`` returns when the state is taken and the one before is on disk. ``settings``
    are those, by dotted key, that the run keeps for as long as it goes on.
    """

    def __init__(self, directory: Path, config: CheckpointConfig, settings: Settings) -> None:
        self._directory = directory
        self._config = config
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._thread.shutdown()

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint on disk. Raises: UserError when it is damaged."""
        return read_checkpoint(self._directory, self._settings)

    def refusal(self, name: str, error: UserError) -> UserError:
        """What is wrong with the state in a checkpoint that could be read, with what to do about it."""
        path = self._directory / name
        told = f"{path}: does not fit this run ({error}); it is damaged, or a model that the run reads was changed"
        return _with_remedy(path, UserError(told), self._settings)

    def is_due(self, round_: int) -> bool:
        """Whether a checkpoint is written at the end of this round."""
        return round_ % self._config.every == 0

    def save(self, round_: int, state: dict[str, Any], win_rate: float | None) -> None:
        """Write the state at the end of a round.

        Raises:
            RunFailure: when the one before could not be written.
        """
        self.finish()
        self._writing = self._thread.submit(self._write_or_leave_nothing, round_, state, win_rate)

    def finish(self) -> None:
        """Wait until what was saved is on disk.

        Raises:
            RunFailure: when it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except (OSError, SafetensorError) as error:
            raise RunFailure(
                f"{self._directory}: a checkpoint could not be written ({error}). What was saved before is whole: "
                f"make room, then go on with `sea-agent resume {self._directory.parent}`."
            ) from error

    def forget_others(self) -> None:
        """Remove all but the newest, when what was saved is on disk. Raises: RunFailure as ``finish`` does."""
        self.finish()
        for old in _newest_first(self._directory)[1:]:
            shutil.rmtree(old)

    def _write_or_leave_nothing(self, round_: int, state: dict[str, Any], win_rate: float | None) -> None:
        try:
            self._write(round_, state, win_rate)
        except (OSError, SafetensorError):
            for part in self._directory.glob(f"round-*{_PART}"):  # it would take room that a resumed run needs
                shutil.rmtree(part)
            raise

    def _write(self, round_: int, state: dict[str, Any], win_rate: float | None) -> None:
        target = self._directory / f"round-{round_:06d}"
        part = target.with_name(target.name + _PART)
        for left in (part, target):  # of a run that was interrupted, or resumed from an earlier checkpoint
            if left.exists():
                shutil.rmtree(left)
        part.mkdir(parents=True)
        tensors: dict[str, torch.Tensor] = {}
        (part / _STATE).write_text(json.dumps(_packed(state, tensors)))
        save_file(tensors, part / _TENSORS)
        files = {name: _digest(part / name) for name in (_STATE, _TENSORS)}
        manifest = {
            "format": FORMAT,
            "sea_agent": __version__,
            "round": round_,
            "win_rate": win_rate,
            "settings": dict(self._settings),
            "files": files,
        }
        (part / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        for name in (*files, _MANIFEST):
            _to_disk(part / name)
        _to_disk(part)
        part.rename(target)
        _to_disk(self._directory)
        self._forget_old()

    def _forget_old(self) -> None:
        there = _newest_first(self._directory)
        best = max(there, key=_win_rate, default=None) if self._config.keep_best else None
        for old in there[self._config.keep :]:
            if old != best:
                shutil.rmtree(old)


def read_checkpoint(directory: Path, settings: Settings, name: str | None = None) -> Checkpoint | None:
    """The newest checkpoint below ``directory``, or the one called ``name``; None where there is none.

    Raises:
        UserError: when it is damaged, no checkpoint, of a newer version, or of a run whose ``settings`` are others;
            names the one before it, if that is whole.
    """
    there = _newest_first(directory)
    if name is None:
        if not there:
            return None
        chosen = there[0]
    else:
        chosen = directory / name
        if chosen not in there:
            names = ", ".join(path.name for path in there) or "none"
            raise UserError(f"{directory}: there is no checkpoint {name}; there is {names}")
    try:
        return Checkpoint(chosen.name, read_state(chosen, settings))
    except UserError as error:
        raise _with_remedy(chosen, error, settings) from None


def _with_remedy(chosen: Path, error: UserError, settings: Settings) -> UserError:
    earlier = (path for path in _newest_first(chosen.parent) if path.name < chosen.name)
    before = next((path for path in earlier if _is_whole(path, settings)), None)
    remedy = (
        f"The one before is whole: add --checkpoint {before.name}"
        if before
        else "No earlier one is whole: start a new run"
    )
    return UserError(f"{error}. {remedy}.")


def read_state(path: Path, settings: Settings) -> dict[str, Any]:
    """The state in the checkpoint at ``path``.

    Raises:
        UserError: as ``read_checkpoint``, without a word about other checkpoints.
    """
    manifest = _manifest(path)
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{path}: is of format {manifest.get('format')}, written by sea-agent {manifest.get('sea_agent')}; this is "
            f"{__version__}, which reads format {FORMAT}. Use that version"
        )
    for name in (_STATE, _TENSORS):
        if not (path / name).is_file():
            raise UserError(f"{path}: {name} is missing")
        if _digest(path / name) != manifest["files"].get(name):
            raise UserError(f"{path}: {name} is damaged (its checksum is another one than the manifest's)")
    theirs = manifest["settings"]
    common = theirs.keys() & settings.keys()
    differ = differences({key: theirs[key] for key in common}, {key: settings[key] for key in common})
    if differ:
        raise UserError(
            f"{path}: is of a run with other settings ({'; '.join(differ)}); if config.yaml was changed, restore it"
        )
    try:
        tensors = load_file(path / _TENSORS)
        state = _unpacked(json.loads((path / _STATE).read_text()), tensors)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if tensors:
        raise UserError(f"{path}: {_TENSORS} holds {len(tensors)} tensors that {_STATE} does not speak of")
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds no state of a run")
    return state


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {_MANIFEST} cannot be read ({error})") from None
    parts = [manifest.get(part) for part in ("files", "settings")] if isinstance(manifest, dict) else [None]
    if not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{path}: {_MANIFEST} is not a checkpoint's")
    return manifest


def _is_whole(path: Path, settings: Settings) -> bool:
    try:
        read_state(path, settings)
    except UserError:
        return False
    return True


def _newest_first(directory: Path) -> list[Path]:
    found = directory.glob("round-*") if directory.is_dir() else ()
    return sorted((path for path in found if path.suffix != _PART), reverse=True)


def _win_rate(path: Path) -> float:
    try:
        rate = _manifest(path).get("win_rate")
    except UserError:
        return -1.0
    return rate if isinstance(rate, float) else -1.0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- a state as JSON and tensors -------------------------------------------------------------------------------------
# What JSON does not have is written as a list that begins with one of these marks; a list itself begins with "list".


def _packed(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return ["tensor", name]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _packed(item, tensors) for key, item in value.items()}
        return ["items", *([_packed(key, tensors), _packed(item, tensors)] for key, item in value.items())]
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, *(_packed(item, tensors) for item in value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint holds tensors and plain values, not {type(value).__name__}")


def _unpacked(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The value that was packed; takes its tensors out of ``tensors``. Raises: ValueError when it is no such thing."""
    match value:
        case dict():
            return {key: _unpacked(item, tensors) for key, item in value.items()}
        case ["tensor", str(name)] if name in tensors:
            return tensors.pop(name)
        case ["items", *pairs] if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            found = [(_unpacked(key, tensors), _unpacked(item, tensors)) for key, item in pairs]
            if all(isinstance(key, Hashable) for key, _ in found):
                return dict(found)
        case ["list", *items]:
            return [_unpacked(item, tensors) for item in items]
        case ["tuple", *items]:
            return tuple(_unpacked(item, tensors) for item in items)
        case None | bool() | int() | float() | str():
            return value
    raise ValueError(f"{_STATE} has {str(value)[:80]} in it, which no run saves")
