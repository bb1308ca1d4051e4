"""A run is read as it grows, only what is new, and gives the very record that a comparison makes of it."""

import json
import math
import os
from pathlib import Path

import pytest
from dashboard.runs import append, finish, make_run, row, rows
from hypothesis import given
from hypothesis import strategies as st

from sea_agent.dashboard.files import Tail, open_plain
from sea_agent.dashboard.run import Run
from sea_agent.dashboard.scan import scan
from sea_agent.errors import UserError
from sea_agent.lab.reading import read_run


class Growing:
    """A run that is looked at anew with each ``run``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._run = Run(directory, scan(directory).places["."])

    @property
    def run(self) -> Run:
        self._run.place = scan(self.directory).places["."]
        return self._run


@pytest.fixture
def growing(tmp_path: Path) -> Growing:
    return Growing(make_run(tmp_path / "run", "sea", 3, rounds=2, finished=False))


def test_a_finished_run_gives_the_record_of_the_comparison(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", "sea", 3, cell={"world": "w", "loss": "l", "method": "m", "model": 1})
    assert Growing(directory).run.record() == read_run(directory)


def test_a_run_that_grew_step_by_step_gives_the_record_of_one_that_was_read_at_once(growing: Growing) -> None:
    text = b"".join(json.dumps(one).encode() + b"\n" for one in rows("sea", 3, 40)[3:])
    with (growing.directory / "metrics.jsonl").open("ab", buffering=0) as metrics:
        for start in range(0, len(text), 777):
            metrics.write(text[start : start + 777])
            growing.run.record()
    finish(growing.directory, 320)
    assert growing.run.record() == read_run(growing.directory)
    assert growing.run.rounds() == Growing(growing.directory).run.rounds()


def test_an_unfinished_run_counts_with_what_it_has_asked(growing: Growing) -> None:
    assert (growing.run.record().budget, growing.run.record().curve.queries) == (16, (0, 8, 16))
    append(growing.directory, row(3, 24, 0.6))
    assert (growing.run.record().budget, growing.run.record().curve.queries) == (24, (0, 8, 16, 24))


def test_a_half_written_line_waits_for_its_end_and_is_then_read_once(growing: Growing) -> None:
    line = json.dumps(row(3, 24, 0.6)) + "\n"
    with (growing.directory / "metrics.jsonl").open("a") as metrics:
        metrics.write(line[:50])
        metrics.flush()
        assert growing.run.record().curve.queries == (0, 8, 16)
        metrics.write(line[50:])
    assert growing.run.record().curve.queries == (0, 8, 16, 24)
    assert growing.run.rounds()["round"] == [0, 1, 2, 3]


def test_a_run_that_goes_back_to_a_checkpoint_is_read_from_its_start_again(growing: Growing) -> None:
    """Its metrics are cut and grow beyond the old length before anybody looks."""
    growing.run.record()
    metrics = growing.directory / "metrics.jsonl"
    metrics.write_text(
        "".join(json.dumps(one) + "\n" for one in [*rows("sea", 4, 1), row(2, 16, 0.7), row(3, 24, 0.8)])
    )
    assert growing.run.record().curve.win_rate[2:] == (0.7, 0.8)
    metrics.write_text("".join(json.dumps(one) + "\n" for one in rows("sea", 4, 1)))
    assert growing.run.record().curve.queries == (0, 8)
    assert growing.run.rounds()["round"] == [0, 1]


def test_a_last_line_without_an_end_counts_when_the_run_is_finished(growing: Growing) -> None:
    metrics = growing.directory / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + json.dumps(row(3, 24, 0.6)))
    assert growing.run.record().curve.queries == (0, 8, 16)
    finish(growing.directory, 24)
    assert growing.run.record() == read_run(growing.directory)
    assert growing.run.record().curve.queries == (0, 8, 16, 24)
    metrics.write_text(metrics.read_text() + "\n" + json.dumps(row(4, 32, 0.7)) + "\n")
    assert growing.run.record().curve.queries == (0, 8, 16, 24, 32), "and is not read twice"


def test_a_cut_last_line_of_a_finished_run_is_refused_as_in_the_comparison(growing: Growing) -> None:
    metrics = growing.directory / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"round": 3, "ora')
    finish(growing.directory, 24)
    for read in (growing.run.record, lambda: read_run(growing.directory)):
        with pytest.raises(UserError, match="not the metrics of a run"):
            read()
    assert growing.run.facts()["seed"] == 3, "the rest is still read"


def test_only_what_is_new_is_read(growing: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    load = json.loads
    growing.run.record()
    monkeypatch.setattr(json, "loads", lambda text: parsed.append(text) or load(text))
    append(growing.directory, row(3, 24, 0.6), row(4, 32, None))
    growing.run.record()
    growing.run.rounds()
    assert len(parsed) == 2


def test_numbers_that_are_none_are_left_out(growing: Growing) -> None:
    append(growing.directory, row(3, 24, None, loss=math.nan, grad_norm=math.inf, note="x"))
    rounds = growing.run.rounds()
    assert rounds["loss"][-1] is None
    assert rounds.keys().isdisjoint({"grad_norm", "note"})


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("metrics.jsonl", "x\n", "not the metrics of a run"),
        ("metrics.jsonl", "[1]\n", "not the metrics of a run"),
        ("metrics.jsonl", '{"round": 1}\n', "not the metrics of a run"),
        ("config.yaml", "x: [", "not valid YAML"),
        ("config.yaml", "seed: 1\n", "not the configuration of a run"),
        ("config.yaml", "{a: " * 3000, "nested too deeply"),
        ("summary.json", "{", "not readable as JSON"),
        ("cell.json", "[]", "expected a JSON object"),
    ],
)
def test_a_broken_file_is_named(name: str, text: str, words: str, tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", rounds=1)
    (directory / name).write_text(text)
    with pytest.raises(UserError, match=words):
        Growing(directory).run.record()


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml", "summary.json"])
def test_a_pipe_in_place_of_a_file_is_refused_and_does_not_block(name: str, tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", rounds=1)
    (directory / name).unlink()
    os.mkfifo(directory / name)
    with pytest.raises(UserError, match=rf"{name}: not a plain file"):
        Growing(directory).run.record()


def test_a_directory_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", rounds=1)
    (directory / "metrics.jsonl").unlink()
    (directory / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl: not a plain file"):
        Growing(directory).run.record()


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sea_agent.dashboard.run.LARGEST_METRICS", 1000)
    with pytest.raises(UserError, match="more than the 1,000 that are read here"):
        Growing(make_run(tmp_path / "run", rounds=20)).run.record()


def test_a_file_that_became_a_link_after_the_look_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "root"
    directory = make_run(root / "run", rounds=1)
    run = Run(root, scan(root).places["run"])
    (directory / "config.yaml").unlink()
    (directory / "config.yaml").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="leads out of the directory"):
        run.config()
    with pytest.raises(UserError, match="leads out of the directory"):
        open_plain(root, directory / ".." / ".." / "secret")


@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
def test_a_tail_gives_every_whole_line_once_however_the_file_grows(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "tail"
    path.write_bytes(b"")
    tail, seen = Tail(folder, path, 10**6), []
    for chunk in chunks:
        with path.open("ab") as file:
            file.write(chunk)
        if data.draw(st.booleans()):
            seen += tail.new_lines() or []
    seen += tail.new_lines() or []
    *lines, rest = path.read_bytes().split(b"\n")
    assert seen == lines
    assert tail.rest == rest
