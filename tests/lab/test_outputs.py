"""Table, CSV, JSON and figures tell the same numbers, and figures say how they were measured."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from rich.console import Console

from sea_agent.lab.comparison import Comparison, compare
from sea_agent.lab.figures import draw_comparison, draw_runs
from sea_agent.lab.records import Record, write_records
from sea_agent.lab.tables import definition, terminal_tables, write_csv, write_json

MakeRecord = Callable[..., Record]


@pytest.fixture
def records(make_record: MakeRecord) -> list[Record]:
    """Five seeds of two methods, of a censored one, and two seeds of a last one, in two worlds."""
    needed = {"passive": (1000, 40), "sea": (100, 5), "weak": (3000, 0), "few": (50, 1)}
    return [
        make_record(method, seed, [(0, 0.5), (queries + spread * seed, 0.81), (budget, 0.85)], world=world)
        if queries < budget
        else make_record(method, seed, [(0, 0.5), (budget, 0.7)], world=world)
        for world in ("lexicon", "kitchen")
        for method, (queries, spread) in needed.items()
        for budget in (256 if method in ("sea", "few") else 1500,)
        for seed in range(2 if method == "few" else 5)
    ]


@pytest.fixture
def comparison(records: list[Record]) -> Comparison:
    return compare(records)


def printed(comparison: Comparison) -> list[list[str]]:
    """Cells of the printed tables, one list for each line."""
    console = Console(width=200)
    with console.capture() as captured:
        for table in terminal_tables(comparison):
            console.print(table)
    lines = [re.split(r"\s{2,}", line.strip()) for line in captured.get().splitlines()]
    return [line for line in lines if len(line) > 1]


def test_csv_and_json_hold_the_numbers_of_the_comparison(comparison: Comparison, tmp_path: Path) -> None:
    write_csv(comparison, tmp_path / "c.csv")
    write_json(comparison, tmp_path / "c.json")
    tree = json.loads((tmp_path / "c.json").read_text())
    assert tree == json.loads(json.dumps(comparison.tree()))
    with (tmp_path / "c.csv").open() as file:
        lines = list(csv.DictReader(file))
    rows = [(group, row) for group in tree["groups"] for row in group["methods"]]
    assert len(lines) == len(rows) == 8
    for line, (group, row) in zip(lines, rows, strict=True):
        assert (line["world"], line["method"]) == (group["world"], row["method"])
        expected: dict[str, Any] = {"queries": row["queries"], "area": row["area"], **row["final"]}
        expected |= {f"{name}_at_level": value for name, value in row["at_level"].items()}
        for name, value in expected.items():
            for end, key in (("mean", name), ("low", f"{name}_low"), ("high", f"{name}_high")):
                assert line[key] == ("" if value is None or value[end] is None else str(value[end]))
        factor = row["factor"]
        assert line["factor"] == ("" if factor is None else str(factor["mean"]))
        assert line["factor_bound"] == ("" if factor is None else factor["bound"])
        assert int(line["censored"]) == row["censored"]


def test_the_terminal_shows_the_numbers_of_the_comparison(comparison: Comparison) -> None:
    lines = printed(comparison)
    for group in comparison.groups:
        for row in group.methods:
            runs = str(len(row.seeds))
            (line,) = {tuple(line) for line in lines if line[:2] == [row.method, runs] and line[2:3] != ["–"]}
            queries = f"{row.queries.mean:.0f}"
            if row.queries.low is not None:
                queries += f" [{row.queries.low:.0f}, {row.queries.high:.0f}]"
            assert line[2] == (f">= {queries}" if row.censored else queries)
            if row.factor is not None:
                assert any(f"{row.factor.bound} {row.factor.mean:.2f}".strip() in cell for cell in line)


def test_censored_methods_are_flagged_in_the_terminal(comparison: Comparison) -> None:
    (weak,) = {tuple(line) for line in printed(comparison) if line[:2] == ["weak", "5"]}
    assert weak[2:4] == (">= 1500 [1500, 1500]", "5")
    assert weak[4].startswith("<= ")


def test_few_seeds_are_shown_without_an_interval(comparison: Comparison) -> None:
    (few,) = {tuple(line) for line in printed(comparison) if line[:2] == ["few", "2"]}
    assert "[" not in "".join(few)


def test_each_group_has_its_figures(comparison: Comparison, records: list[Record], tmp_path: Path) -> None:
    files = draw_comparison(comparison, records, tmp_path)
    assert sorted(file.name for file in files) == sorted(
        f"{kind}-{world}-dpo-bernoulli.png"
        for kind in ("win-rate", "labels-saved", "judge")
        for world in ("lexicon", "kitchen")
    )
    assert all(matplotlib.image.imread(file).std() > 0.01 for file in files), "something is drawn"


def test_what_was_not_measured_is_not_drawn(make_record: MakeRecord, tmp_path: Path) -> None:
    alone = [make_record("sea", 0, [(0, 0.5), (256, 0.9)], curve={"judge_win_rate": None})]
    assert [file.name for file in draw_comparison(compare(alone), alone, tmp_path)] == [
        "win-rate-lexicon-dpo-bernoulli.png"
    ]


def test_names_that_are_no_file_names_are_drawn_to_files_of_the_folder(make_record: MakeRecord, tmp_path: Path) -> None:
    alone = [make_record("sea (../x)", 0, [(0, 0.5), (256, 0.9)], world="../a b")]
    assert {file.parent for file in draw_comparison(compare(alone), alone, tmp_path)} == {tmp_path}


def test_the_caption_defines_the_win_rate(records: list[Record]) -> None:
    caption = definition({record.measurement for record in records})
    for word in ("lexicon reward", "lexicon judge", "initial policy", "256 held-out prompts", "0.7", "ties count ½"):
        assert word in caption


def test_the_figure_of_a_run_is_a_picture(records: list[Record], tmp_path: Path) -> None:
    draw_runs(records[:1], tmp_path / "figures" / "win_rate.png")
    assert matplotlib.image.imread(tmp_path / "figures" / "win_rate.png").std() > 0.01


def test_the_command_writes_what_it_shows_and_reads_what_it_wrote(
    records: list[Record], tmp_path: Path, sea_agent: Callable[..., Any]
) -> None:
    write_records(records, tmp_path / "mine.json")
    assert sea_agent("compare", "mine.json", "--out", "one", "--level", "0.78").code == 0
    assert sea_agent("compare", "one/records.json", "--out", "two", "--level", "0.78").code == 0
    for name in ("comparison.csv", "comparison.json", "records.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert json.loads((tmp_path / "one" / "comparison.json").read_text())["level"] == 0.78
    assert len(list((tmp_path / "one" / "figures").glob("*.png"))) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), ["nowhere", "no such directory"]),
        (("mine.json", "--baseline", "pasive"), ["--baseline pasive", "passive"]),
        (("mine.json", "--out", "mine.json"), ["--out mine.json"]),
        (("mine.json", "--level", "1.5"), ["--level"]),
        ((".",), ["nothing to compare", "holds no run"]),
    ],
)
def test_bad_input_is_told(
    arguments: tuple[str, ...], words: list[str], records: list[Record], tmp_path: Path, sea_agent: Callable[..., Any]
) -> None:
    write_records(records, tmp_path / "mine.json")
    done = sea_agent("compare", *arguments)
    assert done.code == 2
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err
