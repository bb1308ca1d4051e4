"""Wall seconds of a round with and without sampling ahead of the learner, on Ray.

    python -m benchmarks.pipelining [--rounds 30] [--repeats 3] [--set KEY=VALUE ...]

Each measurement is a run of its own on a local Ray instance, with one sampler and one learner of one thread each. The
runs with and without take turns, so the ratio holds when the machine's speed drifts. Sampling goes on beside everything
else, so a round takes at best as long as the slower of the two.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from actors.runtime import make_runtime
from sea_agent.config import RunConfig
from sea_agent.config.files import load_config
from sea_agent.persistence.ledger import Ledger
from sea_agent.run.assembly import assemble
from sea_agent.run.preflight import check

Seconds = dict[str, float]
STAGES = ("sample", "select", "learn", "publish", "update")
FIXED = ("runtime=ray", "mixing.oracle_share=1.0", "imagination.rounds=0", "budget.oracle_queries=1000000")


def measure(config: RunConfig, rounds: int) -> Seconds:
    """Wall seconds per round, in all and by stage."""
    inputs = check(config)
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger(Path(folder) / "ledger.sqlite") as ledger,
        make_runtime(config.runtime, inputs.compute, inputs.needs) as runtime,
    ):
        agent = assemble(config, inputs, runtime, ledger)
        for _ in range(3):
            agent.round()
        agent.stopwatch.take()
        began = time.perf_counter()
        for _ in range(rounds):
            agent.round()
        spent = {"round": (time.perf_counter() - began) / rounds}
        return spent | {name: seconds.wall / rounds for name, seconds in agent.stopwatch.take().items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    configs = [
        load_config("sea", [*FIXED, f"sampler.ahead={ahead}", f"learner.max_staleness={ahead}", *arguments.set])
        for ahead in (0, 1)
    ]
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    runs = [[measure(config, arguments.rounds) for config in configs] for _ in range(arguments.repeats)]
    print(f"wall seconds per round of {configs[0].batch_size} duels, medians of {arguments.repeats} runs")
    print(f"{'':>10} {'ahead=0':>10} {'ahead=1':>10}")
    for name in ("round", *STAGES):
        print(
            f"{name:>10} "
            + " ".join(f"{statistics.median(pair[side][name] for pair in runs):>10.4f}" for side in (0, 1))
        )
    ratios = sorted(plain["round"] / ahead["round"] for plain, ahead in runs)
    print(f"rounds go {statistics.median(ratios):.2f} times faster (from {ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
