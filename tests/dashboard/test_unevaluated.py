"""Runs whose oracle does not evaluate: what their ledgers tell is shown, and it is said whose win rates they are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dashboard.conftest import Served, Viewer
from dashboard.runs import make_run, row
from rich.console import Console

from sea_agent.dashboard.board import Board
from sea_agent.dashboard.chosen import Selection, choose
from sea_agent.dashboard.comparing import comparison_view, labels_view
from sea_agent.lab.comparison import compare
from sea_agent.lab.reading import load_records
from sea_agent.lab.tables import terminal_tables
from sea_agent.persistence.ledger import Ledger

PEOPLE = "oracle={kind: feedback_service, url: http://127.0.0.1:8400, run: mine}"
UNJUDGED = (PEOPLE, "evaluation={}")
JUDGED = (PEOPLE, "evaluation.judge={kind: world, scorer: judge}")
NO_WIN_RATE = "No run here has a win rate yet."


def unevaluated(directory: Path, method: str = "sea", seed: int = 0, **options: Any) -> Path:
    """A run answered by people, that nothing evaluates."""
    run = make_run(directory, method, seed, settings=UNJUDGED, **options)
    write_metrics(run, [row(number, 8 * number, None) for number in range(21)])
    return run


def judged(directory: Path, seed: int = 0) -> Path:
    """A run answered by people, that a judge evaluates."""
    run = make_run(directory, "sea", seed, settings=JUDGED)
    rows = [row(number, 8 * number, 0.5 + number / 100) for number in range(21)]
    write_metrics(run, [{name: one for name, one in each.items() if not name.startswith("win_rate")} for each in rows])
    return run


def write_metrics(run: Path, rows: list[dict[str, Any]]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))


def chosen(root: Path) -> Selection:
    return choose(Board(root).select(()), None)


def counted(view: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Runs and answers of each method."""
    return {one["method"]: (one["runs"], one["answers"]) for one in view["methods"]}


def test_ledgers_of_runs_without_a_win_rate_are_counted(tmp_path: Path) -> None:
    run = unevaluated(tmp_path / "run")
    selection = chosen(tmp_path)
    assert comparison_view(selection, 0.8, None)["unmeasured"] == ["sea_ee"]
    view = labels_view(selection)
    with Ledger(run / "ledger.sqlite") as ledger:
        answers = sum(verdict is not None for _, verdict in ledger.rows())
    assert counted(view) == {"sea_ee": (1, answers)}
    [sea] = view["methods"]
    assert sea["per_minute"] == pytest.approx(60 * (answers - 1) / (6 * 19), rel=0.01)
    assert 0.3 < sea["first_share"] < 0.7
    assert sum(one["n"] for one in sea["calibration"]) == answers


def test_a_method_counts_its_finished_runs_and_others_only_without_those(tmp_path: Path) -> None:
    unevaluated(tmp_path / "old")
    unevaluated(tmp_path / "running", seed=1, finished=False)
    unevaluated(tmp_path / "passive", "passive", finished=False)
    assert counted(labels_view(chosen(tmp_path))) == {"sea_ee": (1, 159), "passive": (1, 159)}


def test_runs_with_and_without_a_win_rate_are_counted_together(tmp_path: Path) -> None:
    judged(tmp_path / "judged")
    unevaluated(tmp_path / "unjudged", seed=1)
    selection = chosen(tmp_path)
    view = comparison_view(selection, 0.8, None)
    assert [one["seeds"] for one in view["methods"]] == [(0,)]
    assert counted(labels_view(selection)) == {"sea_ee": (2, 318)}


def test_a_failed_run_is_not_counted(tmp_path: Path) -> None:
    unevaluated(tmp_path / "run", finished=False).joinpath("error.txt").write_text("no\n")
    assert labels_view(chosen(tmp_path)) == {"methods": []}


def test_the_terminal_says_whose_win_rates_they_are(tmp_path: Path) -> None:
    judged(tmp_path / "people" / "run")
    make_run(tmp_path / "world" / "run", "sea")
    told = {}
    for who in ("people", "world"):
        console = Console(width=200)
        with console.capture() as captured:
            for table in terminal_tables(compare(load_records([tmp_path / who]).records)):
                console.print(table)
        told[who] = " ".join(captured.get().split())
    for words in ("a win rate of 0.8 by the judge", "win rates by the judge, because the oracle does not evaluate"):
        assert words in told["people"]
        assert words not in told["world"], "the control"


def test_the_page_shows_the_ledger_of_a_run_without_a_win_rate_and_says_so_once(
    tmp_path: Path, serve: Callable[..., Served], view: Callable[..., Viewer]
) -> None:
    unevaluated(tmp_path / "run")
    served, viewer = serve(tmp_path), view()
    viewer.open(served.url)
    assert viewer.text("main").count(NO_WIN_RATE) == 1
    assert viewer.text("#tile-accepted .figure") == "159"
    assert float(viewer.text("#tile-speed .figure")) > 0
    assert viewer.text("#tile-first .figure").endswith("%")
    assert "n = 159 answers." in viewer.text("#calibration")
    assert not viewer.page.locator("#win-rate").is_visible()
    write_metrics(tmp_path / "run", [row(number, 8 * number, 0.6) for number in range(22)])
    viewer.until("!document.querySelector('#win-rate').hidden")
    viewer.until("document.querySelector('#tile-win-rate .figure').innerText === '0.600'")
    assert NO_WIN_RATE not in viewer.text("main")


def test_the_page_says_that_the_win_rate_is_the_judges(
    tmp_path: Path, serve: Callable[..., Served], view: Callable[..., Viewer]
) -> None:
    judged(tmp_path / "people" / "run")
    make_run(tmp_path / "world" / "run", "sea")
    served, viewer = serve(tmp_path), view()
    said = {}
    for who in ("people", "world"):
        viewer.open(served.url, runs=who)
        viewer.page.reload()
        viewer.loaded()
        said[who] = viewer.text("#optimisation")
    words = "The win rate above is the judge's: the oracle does not evaluate."
    assert (words in said["people"], words in said["world"]) == (True, False)
