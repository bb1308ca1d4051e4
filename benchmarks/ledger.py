"""What a ledger with many labels costs: to go on with its run, and to show it on the dashboard.

    python -m benchmarks.ledger [--labels 50000]

Prompts have 512 tokens, responses 53, a round asks for 128 labels, and the checkpoint is 20 rounds old. Seconds and
memory are those of a fresh process; the file is in the disk's cache. The dashboard counts all labels at its first look
and the new ones later, and shows the newest page of duels.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sea_agent.dashboard.ledgers import Filter, GrowingCounts, count, open_ledger, page
from sea_agent.persistence.ledger import Ledger
from sea_agent.types import Duel, LabelSource, Outcome, Prompt, Response, Verdict

ROUND, BEHIND = 128, 20
PROMPT, RESPONSE = 512, 53


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=50_000)
    parser.add_argument("--go-on", type=Path, help="the ledger to go on with, in this process")
    arguments = parser.parse_args()
    if arguments.go_on is not None:
        go_on(arguments.go_on, arguments.labels // ROUND - BEHIND)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        make(path, arguments.labels)
        print(f"{arguments.labels:,} labels, {path.stat().st_size / 2**20:.0f} MiB")
        command = [sys.executable, "-m", "benchmarks.ledger", "--labels", str(arguments.labels), "--go-on", str(path)]
        subprocess.run(command, check=True)
        show(path, arguments.labels // ROUND)


def make(path: Path, labels: int, begin: int = 0) -> None:
    """So many answers in a ledger, from round ``begin`` on."""
    generator = np.random.default_rng(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(generator.integers(0, 50_000, count).tolist())

    def response(name: str, number: int) -> Response:
        return Response(name, "p", "word " * RESPONSE, tokens(RESPONSE), tuple(generator.random(RESPONSE)), number)

    def duel(number: int, place: int) -> Duel:
        name = f"{number:06}-{place:03}"
        prompt = Prompt(f"p{name}", "word " * PROMPT, tokens(PROMPT))
        sides = response(f"a{name}", number), response(f"b{name}", number)
        return Duel(name, number, prompt, *sides, "sea_ee", number, number, LabelSource.ORACLE, 0.5, 0.1, 0.1)

    with Ledger(path) as ledger:
        for number in range(begin, begin + labels // ROUND):
            duels = ledger.add_duels([duel(number, place) for place in range(ROUND)], number, f"{number:032}")
            verdicts = [Verdict(one.id, Outcome.FIRST, "oracle", float(number), 1.0) for one in duels]
            ledger.add_verdicts(duels, verdicts, number)


def go_on(path: Path, number: int) -> None:
    """Print what opening and going back to round ``number`` cost."""
    before, began, cpu = peak(), time.perf_counter(), time.process_time()
    with Ledger(path) as ledger:
        ledger.rewind(number)
        seconds, spent = time.perf_counter() - began, time.process_time() - cpu
    print(
        f"{seconds:.2f} s, {spent:.2f} CPU s, {(peak() - before) / 2**20:.0f} MiB more ({os.getloadavg()[0]:.1f} load)"
    )


def show(path: Path, number: int) -> None:
    """Print what the dashboard's looks cost, before and after round ``number``."""
    counts = GrowingCounts()
    for look in ("first look", "after a round"):
        began = time.perf_counter()
        with open_ledger(path.parent, path.parent) as ledger:
            counts.read(ledger)
            counted = time.perf_counter()
            count(ledger, Filter())
            total = time.perf_counter()
            page(ledger, Filter(), "newest", 0, 50)
        print(
            f"{look}: counts {counted - began:.3f} s, number of duels {total - counted:.3f} s, newest page "
            f"{time.perf_counter() - total:.3f} s"
        )
        if look == "first look":
            make(path, ROUND, number)


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
