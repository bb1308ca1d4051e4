"""Who works in the directory of a run is found out without getting in anybody's way."""

import fcntl
from pathlib import Path
from typing import Any

import pytest

from sea_agent.errors import UserError
from sea_agent.persistence import directory as run_directory
from sea_agent.persistence.directory import RunDirectory
from sea_agent.persistence.files import LOCK


def test_a_look_at_the_lock_does_not_keep_a_run_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dashboard holds it just when the run tries first, and has let go when it tries again."""
    pauses: list[float] = []
    with (tmp_path / LOCK).open("w") as look:
        fcntl.flock(look, fcntl.LOCK_SH | fcntl.LOCK_NB)

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            fcntl.flock(look, fcntl.LOCK_UN)

        monkeypatch.setattr(run_directory.time, "sleep", pause)
        with RunDirectory(tmp_path):
            assert len(pauses) == 1


def test_a_lock_that_is_not_let_go_is_another_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pause(seconds: Any) -> None:
        pass

    with RunDirectory(tmp_path):
        monkeypatch.setattr(run_directory.time, "sleep", no_pause)
        with pytest.raises(UserError, match=r"process \d+ works in it"):
            RunDirectory(tmp_path)
