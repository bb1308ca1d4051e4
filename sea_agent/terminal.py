"""What the terminal shows: the progress of a run, its summary, and what its policy says."""

import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from sea_agent.errors import Stopped

if TYPE_CHECKING:
    from sea_agent.persistence.rounds import RoundMetrics
    from sea_agent.run.session import Watch

console = Console(emoji=False)  # `judge.py:star` is a function
complaints = Console(stderr=True, emoji=False)


def announce(line: str) -> None:
    """A line for the user, as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def complain(message: object, style: str = "red") -> None:
    """A line on standard error."""
    complaints.print(f"sea-agent: {message}", style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def watched(out: Path, label: str, budget: int) -> Iterator["Watch"]:
    """Show progress; without a terminal, a line for each round that asks. The first Ctrl-C or SIGTERM stops the run
    after its round, the second one immediately."""
    from sea_agent.run.session import Watch

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("oracle queries"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    stopping = Event()

    def stop(number: int, frame: object) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        complaints.print("sea-agent: stopping after this round; interrupt again to stop at once")

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=budget, figures="starting")
        figures: dict[str, float] = {}
        said = ""

        def on_round(row: "RoundMetrics") -> None:
            rates = row.evaluation
            new = {"win rate": rates.win_rate, "judge": rates.judge_win_rate, "loss": row.loss}
            figures.update({name: value for name, value in new.items() if value is not None})
            text = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
            progress.update(task, completed=row.oracle_queries, figures=text)
            if not console.is_terminal and not row.is_imagined:
                announce(f"round {row.round}  {row.oracle_queries}/{budget} oracle queries  {text}")

        def tell(line: str) -> None:
            nonlocal said
            progress.update(task, figures=line)
            if not console.is_terminal and line != said:
                announce(line)
            said = line

        try:
            yield Watch(on_round, tell, stopping.is_set)
        except Stopped:
            complaints.print(f"sea-agent: stopped. To continue: sea-agent resume {out}")
            raise typer.Exit(130) from None
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def closing_table(summary: Mapping[str, Any]) -> Table:
    """The metrics of one run, from its summary."""
    table = Table(show_header=False, title="Run finished", title_justify="left")
    rows = {
        "oracle queries": summary["oracle_queries"],
        "posterior labels and imagined pairs (free)": f"{summary['posterior_labels']} and {summary['imagined_pairs']}",
        "evaluation queries (counted separately)": summary["evaluation_queries"],
        "rounds": summary["rounds"],
        "win rate by oracle": _rate(summary["win_rate"], summary["win_rate_ci"]),
        "win rate by independent judge": _rate(summary["judge_win_rate"], summary["judge_win_rate_ci"]),
        "distinct responses": _rate(summary["distinct_share"], None),
        "wall / CPU seconds": f"{summary['wall_seconds']:.0f} / {summary['cpu_seconds']:.0f}",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def samples_table(rows: Iterable[Mapping[str, str]]) -> Table:
    """Prompts with a response before and after training."""
    parts = ("prompt", "before", "after")
    table = Table(*parts, show_lines=True)
    for row in rows:
        # Text() keeps rich from reading brackets in model output as markup.
        table.add_row(*(Text(row[part]) for part in parts))
    return table


def _rate(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return "not evaluated"
    return f"{value:.3f}" if interval is None else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
