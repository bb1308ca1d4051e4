"""What `sea-agent plan` foretells of runs from short records, beside what the runs then take.

    python -m benchmarks.planning [--repeats 3]
    python -m benchmarks.planning --model

Three kinds of run on CPUs: imagined rounds in one process; sampling ahead of the learner on Ray, foretold from a record
without; and people, who are an oracle here that waits as long as they would. The record is made just before the run, as
the speed of a shared machine drifts. A control takes one stage for another, or counts an annotator too many.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sea_agent.config.files import load_config
from sea_agent.plan.estimate import estimate
from sea_agent.plan.machine import Machine, Shape
from sea_agent.plan.modelled import modelled
from sea_agent.plan.planned import Costs, Planned
from sea_agent.plan.recorded import recorded

SHAPES = {
    "1B": Shape(weights=1.01e9, layers=16, width=2048, vocabulary=50304),
    "2.8B": Shape(weights=2.78e9, layers=32, width=2560, vocabulary=50304),
    "6.9B": Shape(weights=6.86e9, layers=32, width=4096, vocabulary=50432),
}
ON_GPUS = ("device=cuda", "policy.dtype=bfloat16", "runtime=ray", "sampler.backend=vllm")
BATCH = (*ON_GPUS, "batch_size=128", "sampler.max_new_tokens=53", "sampler.chunk=640")
METHODS = {
    "passive online DPO, two candidates": (
        "selection.rule=passive",
        "imagination.rounds=0",
        "sampler.candidates=2",
    ),
    "`own`: two imagined rounds of four steps, eight candidates": (),
    "the same with an encoder's features": ("posterior={features: encoder, encoder_path: any}",),
    "24 imagined rounds, 16 candidates, as in the preset `sea`": (
        "imagination={rounds: 24, batches: 1}",
        "sampler.candidates=16",
    ),
}
PEOPLE = {"annotators": 3, "seconds": 0.5, "spread": 0.6, "hours_a_day": 24}
ORACLE = '''import heapq, random, time
clock = random.Random(7)
def compare(duels):
    """As many annotators as there are answer one duel after the other; the answers come when the last one is done."""
    free = [0.0] * {annotators}
    for _ in duels:
        heapq.heappush(free, heapq.heappop(free) + {seconds} * clock.lognormvariate(0.0, {spread}))
    time.sleep(max(free))
    return [0.7] * len(duels)
'''
AT_ONCE = "def compare(duels):\n    return [0.7] * len(duels)\n"
PRIOR = ("posterior.prior=[world://lexicon/judge]", "imagination.start=0")
NOT_EVALUATED = ("evaluation.prompts_path=null", "evaluation.judge=null")  # people do not evaluate
NO_DREAMS = ("runtime=ray", "imagination.rounds=0", "sampler.chunk=64")


def learning_of_the_other_kind(costs: Costs) -> Costs:
    """Asking rounds learn as long as imagined ones, and the other way round."""
    asked, imagined = costs.asked | {"learn": costs.imagined["learn"]}, costs.imagined | {"learn": costs.asked["learn"]}
    return replace(costs, asked=asked, imagined=imagined)


def publishing_for_sampling(costs: Costs) -> Costs:
    """What is hidden behind sampling is another stage."""
    asked = costs.asked | {"sample": costs.asked["publish"], "publish": costs.asked["sample"]}
    return replace(costs, asked=asked)


@dataclass(frozen=True)
class Case:
    """A record and the run that it foretells, as settings of a preset, and what the control gets wrong."""

    name: str
    preset: str
    record: Sequence[str]
    run: Sequence[str]
    wrong: Callable[[Costs], Costs] = lambda costs: costs
    people: dict[str, float] | None = None
    wrong_people: dict[str, float] | None = None


CASES = (
    Case(
        "imagined rounds",
        "sea",
        (*PRIOR, "budget.oracle_queries=64"),
        (*PRIOR, "budget.oracle_queries=160"),
        learning_of_the_other_kind,
    ),
    Case(
        "sampling ahead",
        "sea",
        (*NO_DREAMS, "budget.oracle_queries=320"),
        (*NO_DREAMS, "budget.oracle_queries=640", "sampler.ahead=1", "learner.max_staleness=1"),
        publishing_for_sampling,
    ),
    Case(
        "people",
        "passive",
        ("oracle={kind: python, target: 'at_once.py:compare'}", *NOT_EVALUATED, "budget.oracle_queries=160"),
        ("oracle={kind: python, target: 'people.py:compare'}", *NOT_EVALUATED, "budget.oracle_queries=320"),
        people=PEOPLE,
        wrong_people=PEOPLE | {"annotators": 4},
    ),
)


def wall_seconds(preset: str, settings: Sequence[str], out: Path) -> float:
    """Of a run, in a process of its own."""
    options = [part for one in settings for part in ("--set", one)]
    command = [sys.executable, "-m", "sea_agent", "run", preset, "--out", out.name, *options]
    subprocess.run(command, cwd=out.parent, check=True, capture_output=True, timeout=900)
    return float(json.loads((out / "summary.json").read_text())["wall_seconds"])


def ratios(case: Case, folder: Path) -> tuple[float, float]:
    """Foretold by measured seconds, and those of the control."""
    wall_seconds(case.preset, case.record, folder / "record")
    measured = wall_seconds(case.preset, case.run, folder / "run")
    config = load_config(case.preset, case.run)
    planned, wrong = (
        Planned(config, Machine.model_validate({"people": people})) for people in (case.people, case.wrong_people)
    )
    costs = recorded(folder / "record", planned)
    foretold, control = (3600 * estimate(*one).hours[0] for one in ((planned, costs), (wrong, case.wrong(costs))))
    print(f"{case.name}: {foretold:.1f} s foretold, {measured:.1f} s measured", flush=True)
    return foretold / measured, control / measured


def asked_batch(settings: Sequence[str], gpu: str, shape: Shape) -> float:
    """Seconds of an asked batch with its imagined rounds, by the model of the machine."""
    config = load_config("own", [*BATCH, *settings])
    costs = modelled(Planned(config, Machine.model_validate({"gpu": gpu, "gpus": 8}), shape))
    return sum(costs.asked.values()) + config.imagination.rounds * sum(costs.imagined.values())


def print_model() -> None:
    """The table of docs/plan.md."""
    columns = [("h100", name) for name in SHAPES] + [("a100-40", "1B")]
    print("| | " + " | ".join(f"{name}, {gpu}" for gpu, name in columns) + " |")
    passive, *_ = METHODS.values()
    for method, settings in METHODS.items():
        cells = []
        for gpu, name in columns:
            seconds = asked_batch(settings, gpu, SHAPES[name])
            shown = f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}"
            cells.append(f"{shown} ({seconds / asked_batch(passive, gpu, SHAPES[name]):.0f} ×)")
        print(f"| {method} | {' | '.join(cells)} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", action="store_true", help="only what imagination costs by the model of GPUs")
    arguments = parser.parse_args()
    if arguments.model:
        return print_model()
    repeats = arguments.repeats
    for case in CASES:
        found = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "people.py").write_text(ORACLE.format(**PEOPLE))
                (Path(folder) / "at_once.py").write_text(AT_ONCE)
                found.append(ratios(case, Path(folder)))
        right, wrong = (sorted(column) for column in zip(*found, strict=True))
        middle, control = statistics.median(right), statistics.median(wrong)
        ends = f"from {right[0]:.3f} to {right[-1]:.3f}"
        print(f"{case.name}: foretold by measured {middle:.3f}, {ends}; the control {control:.3f}")


if __name__ == "__main__":
    main()
