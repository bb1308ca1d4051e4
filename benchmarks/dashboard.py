"""How fast the dashboard answers and tells news: 20 runs of 2,000 evaluations each, 50 viewers at once.

    python -m benchmarks.dashboard [--runs 20] [--points 2000] [--viewers 50] [--changes 20]

Runs are made up in a temporary directory and shown by a `sea-agent dashboard` process of their own. The comparison view
is what the page asks for first: the figures of every method and the curves of the win rate. Writes
``benchmarks/results/dashboard.json``; the load of the machine is in it.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from sea_agent.config.files import load_config, to_yaml

RESULTS = Path(__file__).parent / "results" / "dashboard.json"
SEEDS = 5
BATCH = 8
REPEATS = 20
SECONDS = 60.0  # for any one answer
READ_SECONDS = 5.0  # between the start of the server, which then reads ahead, and the first view


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("runs", 20), ("points", 2000), ("viewers", 50), ("changes", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        directories = [make_run(root, number, arguments.points) for number in range(arguments.runs)]
        measured: dict[str, Any] = {
            "settings": vars(arguments),
            "cores": os.cpu_count(),
            "load_before": os.getloadavg(),
        }
        with dashboard(root) as url:
            measured["comparison_ms"] = comparison(url, directories)
            measured["news_s"] = asyncio.run(news(url, root, directories[0], arguments))
        measured["load_after"] = os.getloadavg()
    show(measured)
    RESULTS.write_text(json.dumps(measured, indent=1) + "\n")


def make_run(root: Path, number: int, points: int) -> Path:
    """A finished run of one of four methods that was evaluated after every round."""
    method, seed = f"method-{number // SEEDS}", number % SEEDS
    directory = root / "made-up" / method / f"seed-{seed}"
    directory.mkdir(parents=True)
    (root / "made-up" / "experiment.yaml").write_text("name: made-up\n")
    config = load_config("sea", [f"seed={seed}", f"budget.oracle_queries={BATCH * points}"])
    (directory / "config.yaml").write_text(to_yaml(config))
    cell = {"world": "lexicon", "loss": "dpo", "method": method, "seed": seed, "model": 0}
    (directory / "cell.json").write_text(json.dumps(cell))
    generator = np.random.default_rng(number)
    rates = 0.5 + 0.4 * (1 - np.exp(-np.arange(points) / 300)) + generator.normal(0, 0.01, points)
    with (directory / "metrics.jsonl").open("w") as metrics:
        for place, rate in enumerate(rates):
            metrics.write(json.dumps(row(place, float(rate))) + "\n")
    (directory / "summary.json").write_text(json.dumps({"oracle_queries": BATCH * (points - 1)}))
    return directory


def row(number: int, rate: float) -> dict[str, Any]:
    """A row with about as many numbers as the agent writes."""
    noise = dict.fromkeys(("loss", "accuracy", "margin", "grad_norm", "logprob_gap"), 0.123456789012345)
    stages = ("sample", "select", "ask", "learn", "publish", "update", "evaluate")
    return {
        "round": number,
        "oracle_queries": BATCH * number,
        "posterior_labels": 0,
        "imagined_pairs": 0,
        "policy_samples": 160 * number,
        "gradient_steps": number,
        **noise,
        "disagreement": 0.2,
        "foresight_accuracy": 0.7,
        "win_rate": rate,
        "win_rate_ci": [rate - 0.03, rate + 0.03],
        "judge_win_rate": rate - 0.1,
        "judge_win_rate_ci": [rate - 0.13, rate - 0.07],
        "kl_to_reference": 0.001 * number,
        "distinct_share": 0.9,
        "response_tokens": 7.5,
        "evaluation_queries": 512 * number,
        "seconds": {stage: {"wall": 0.123456789, "cpu": 0.0987654321} for stage in stages},
    }


@contextmanager
def dashboard(root: Path) -> Iterator[str]:
    """A dashboard over ``root``; its address."""
    command = [sys.executable, "-m", "sea_agent", "dashboard", str(root), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            (url,) = re.findall(r"^Ready: (\S+)", process.stdout.readline())
            yield url
        finally:
            process.terminate()


# --- the comparison view ---------------------------------------------------------------------------------------------


def comparison(url: str, directories: list[Path]) -> dict[str, float]:
    """Milliseconds of the view: the first ever, the same again, another question, and after every run grew."""
    with httpx.Client(base_url=f"{url}api/", timeout=SECONDS) as client:
        client.get("runs").raise_for_status()
        time.sleep(READ_SECONDS)

        def view(level: float, tags: dict[str, str] | None = None) -> tuple[float, dict[str, str]]:
            began, found = time.perf_counter(), {}
            for path, more in (("comparison", {"level": level}), ("curves", {"column": "win_rate"})):
                headers = {} if tags is None else {"If-None-Match": tags[path]}
                answer = client.get(path, params={"runs": "made-up", **more}, headers=headers)
                assert answer.status_code == (200 if tags is None else 304), answer.text
                found[path] = answer.headers["etag"]
            return 1000 * (time.perf_counter() - began), found

        cold, tags = view(0.8)
        warm = [view(0.8)[0] for _ in range(REPEATS)]
        unchanged = [view(0.8, tags)[0] for _ in range(REPEATS)]
        others = [view(0.7 + 0.001 * number)[0] for number in range(REPEATS)]
        grown = []
        for number in range(REPEATS):
            for directory in directories:
                grow(directory, number)
            time.sleep(1.1)  # requests look for changes once a second
            grown.append(view(0.8)[0])
    return {
        "first": cold,
        "same again, median": statistics.median(warm),
        "same again, unchanged (304), median": statistics.median(unchanged),
        "another target, median": statistics.median(others),
        "after every run grew, median": statistics.median(grown),
        "after every run grew, slowest": max(grown),
    }


def grow(directory: Path, number: int) -> None:
    """A run's next row."""
    with (directory / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps(row(10_000 + number, 0.9)) + "\n")


# --- news ------------------------------------------------------------------------------------------------------------


async def news(url: str, root: Path, directory: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds from a written row to the news of it at each viewer, who then fetches the comparison; and from the first
    row of a new run to its curve."""
    heard: asyncio.Queue[tuple[int, float]] = asyncio.Queue()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=f"{url}api/", timeout=SECONDS, limits=limits) as client:

        async def watch(viewer: int) -> None:
            async for _ in events(client):
                heard.put_nowait((viewer, time.perf_counter()))
                await client.get("comparison", params={"runs": "made-up"})

        async def everybody(since: float) -> list[float]:
            """When each viewer first heard something after ``since``."""
            found: dict[int, float] = {}
            while len(found) < arguments.viewers:
                viewer, at = await asyncio.wait_for(heard.get(), SECONDS)
                if at > since:
                    found.setdefault(viewer, at)
            return [at - since for at in found.values()]

        viewers = [asyncio.create_task(watch(viewer)) for viewer in range(arguments.viewers)]
        await everybody(0.0)
        generator, lags = np.random.default_rng(0), []
        for number in range(arguments.changes):
            await asyncio.sleep(2.0 + float(generator.random()))  # at any moment between two looks
            grow(directory, 20_000 + number)
            lags += await everybody(time.perf_counter())
        for task in viewers:
            task.cancel()
        await asyncio.gather(*viewers, return_exceptions=True)
        appeared = await appears(client, root)
    return {
        "viewers": arguments.viewers,
        "changes": arguments.changes,
        "median": statistics.median(lags),
        "95 %": float(np.quantile(lags, 0.95)),
        "slowest": max(lags),
        "a new run is drawn": appeared,
    }


async def events(client: httpx.AsyncClient) -> AsyncIterator[str]:
    """The data of each event."""
    async with client.stream("GET", "events") as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                yield line


async def appears(client: httpx.AsyncClient, root: Path) -> float:
    """Seconds from the first row of a new run to the answer with its curve, for a viewer who waits for news."""
    stream = events(client)
    await anext(stream)
    directory = root / "new"
    directory.mkdir()
    (directory / "config.yaml").write_text(to_yaml(load_config("sea")))
    began = time.perf_counter()
    (directory / "metrics.jsonl").write_text(json.dumps(row(0, 0.5)) + "\n")
    async for _ in stream:
        answer = await client.get("curves", params={"runs": "new"})
        if answer.status_code == 200 and answer.json()["columns"]["win_rate"]:
            break
    return time.perf_counter() - began


def show(measured: dict[str, Any]) -> None:
    """The figures as a table."""
    table = Table("what", "measured", title=f"Dashboard, load {measured['load_before'][0]:.1f}")
    for name, value in measured["comparison_ms"].items():
        table.add_row(f"comparison view: {name}", f"{value:.0f} ms")
    for name, value in measured["news_s"].items():
        table.add_row(f"news: {name}", f"{value:.2f} s" if isinstance(value, float) else str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
