"""Every run is found with what became of it; what cannot be read or leads elsewhere is named and left alone."""

import os
from pathlib import Path

import pytest
from dashboard.runs import held, make_experiment, make_run

from sea_agent.dashboard import scan as scanning
from sea_agent.dashboard.scan import RunState, scan


def trouble_of(root: Path) -> dict[str, str]:
    return dict(scan(root).trouble)


def test_runs_are_found_by_their_path_with_the_experiment_or_directory_they_are_in(tmp_path: Path) -> None:
    make_experiment(tmp_path / "lab" / "main", ("passive",), seeds=2, rounds=1)
    make_run(tmp_path / "demo" / "sea", rounds=1)
    make_run(tmp_path / "alone", rounds=1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("x")
    found = scan(tmp_path)
    assert {id_: place.collection for id_, place in found.places.items()} == {
        "alone": ".",
        "demo/sea": "demo",
        "lab/main/lexicon/passive/seed-0": "lab/main",
        "lab/main/lexicon/passive/seed-1": "lab/main",
    }
    assert found.experiments == {"lab/main"}
    assert found.trouble == []


def test_the_directory_of_one_run_can_be_shown_itself(tmp_path: Path) -> None:
    assert list(scan(make_run(tmp_path / "run", rounds=1)).places) == ["."]


def test_what_is_below_a_run_is_part_of_it(tmp_path: Path) -> None:
    make_run(tmp_path / "run", rounds=1)
    (tmp_path / "run" / "policy").mkdir()
    (tmp_path / "run" / "policy" / "config.yaml").write_text("x: 1\n")
    assert list(scan(tmp_path).places) == ["run"]


def test_a_run_is_running_while_its_lock_is_held_and_dead_afterwards(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rounds=1, finished=False)

    def state() -> RunState:
        return scan(tmp_path).places["run"].state

    assert state() is RunState.UNKNOWN, "it has no lock"
    with held(run):
        assert state() is RunState.RUNNING
        assert state() is RunState.RUNNING, "looking did not take the lock away"
    assert state() is RunState.DEAD
    (run / "summary.json").write_text("{}")
    assert state() is RunState.FINISHED
    (run / "error.txt").write_text("no\n")
    assert state() is RunState.FAILED


def test_looking_leaves_the_lock_free(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rounds=1, finished=False)
    with held(run):
        pass
    assert scan(tmp_path).places["run"].state is RunState.DEAD
    with held(run):
        assert scan(tmp_path).places["run"].state is RunState.RUNNING


def test_links_are_not_followed_out_of_the_directory(tmp_path: Path) -> None:
    outside = make_run(tmp_path / "outside", rounds=1)
    root = tmp_path / "root"
    inside = make_run(root / "inside", rounds=1)
    (root / "link").symlink_to(outside, target_is_directory=True)
    (root / "again").symlink_to(inside, target_is_directory=True)
    (root / "loop").symlink_to(root, target_is_directory=True)
    half = make_run(root / "half", rounds=1)
    for name in ("metrics.jsonl", "ledger.sqlite"):
        (half / name).unlink()
        (half / name).symlink_to(outside / name)
    found = scan(root)
    assert set(found.places) == {"inside", "half"}
    assert {place for place, _ in found.trouble} == {"link", "again", "loop"}
    assert set(found.places["half"].files) == {"config.yaml", "summary.json"}
    assert all("leads out of the directory" in one for one in found.places["half"].trouble)
    assert len(found.places["half"].trouble) == 2


def test_a_link_to_a_file_inside_is_followed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rounds=1)
    (run / "summary.json").rename(tmp_path / "kept.json")
    (run / "summary.json").symlink_to(tmp_path / "kept.json")
    place = scan(tmp_path).places["run"]
    assert place.state is RunState.FINISHED
    assert place.trouble == ()


def test_links_that_lead_nowhere_and_names_that_are_no_text_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rounds=1)
    (run / "error.txt").symlink_to(run / "error.txt")
    os.mkdir(os.fsencode(tmp_path) + b"/\xff\xfe")
    found = scan(tmp_path)
    assert "error.txt: leads nowhere" in found.places["run"].trouble[0]
    assert found.trouble == [(".", r"holds a name that is not text: '\udcff\udcfe'")]


def test_a_directory_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the tests run as root, who may list everything."""
    make_run(tmp_path / "good", rounds=1)
    (tmp_path / "locked").mkdir()
    listing = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = scan(tmp_path)
    assert list(found.places) == ["good"]
    assert found.trouble == [("locked", "cannot be read (Permission denied)")]


@pytest.mark.parametrize(("limit", "value"), [("MOST_RUNS", 2), ("MOST_DIRECTORIES", 3), ("DEEPEST", 0)])
def test_what_is_beyond_a_limit_is_left_out_and_said(
    limit: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "config.yaml").write_text("")
    assert len(scan(tmp_path).places) == 4
    monkeypatch.setattr(scanning, limit, value)
    assert len(scan(tmp_path).places) <= 2
    assert "not everything in it is shown" in trouble_of(tmp_path)["."]
