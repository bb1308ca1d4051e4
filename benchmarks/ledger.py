"""What it costs to go on with a run that has many labels: opening its ledger, and going back to the last checkpoint.

    python -m benchmarks.ledger [--labels 50000]

Prompts have 512 tokens, responses 53, a round asks for 128 labels, and the checkpoint is 20 rounds old. Wall and CPU
seconds and memory are those of a fresh process; the file is in the disk's cache.
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


def make(path: Path, labels: int) -> None:
    """A ledger of so many answers."""
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
        for number in range(labels // ROUND):
            duels = ledger.add_duels([duel(number, place) for place in range(ROUND)], number, f"{number:032}")
            verdicts = [Verdict(one.id, Outcome.FIRST, "oracle", 0.0, 1.0) for one in duels]
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


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
