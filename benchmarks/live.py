"""Live mode with simulated users: what they are shown, and how many answers that takes.

    python -m benchmarks.live [--part PART …] [--seeds N] [--markdown]

Users write to a built-in world at random times. Now and then one is shown two responses; a share of the users picks
one, sooner or later, with the noise of the Bradley-Terry model on the world's hidden reward, and the posterior learns
every 50 requests. Who is asked is decided by the rules of the gateway (``sea_agent/service/chat/asking.py``), which
duel by the decider's (``sea_agent/loop/deciding.py``). The regret of a request is the hidden reward of the best of 8
responses of the initial policy, less the mean of those shown; *late* means the last sixth of the requests.

The parts differ in what learning changes:

- ``lexicon``, ``kitchen``, ``reviews``: the policy stays as it is, and who is not asked is shown the best of 8 samples
  under the posterior's mean (``live.answer: best``).
- ``scored``: `reviews` where the posterior starts from a cheap score (``posterior.prior``).
- ``spam``: the same on `lexicon` with 10,000 requests, where nobody lies, or a tenth of the users do and write four
  times as much.
- ``trained``: one sample is shown (``live.answer: first``), the second response of a duel comes beside it, and the
  run's own learner trains the policy. On `lexicon`.

Each run is kept in ``benchmarks/results/live.json`` as it ends, and is not done again.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.live_figures import markdown
from benchmarks.live_users import Arm, Record, simulate
from sea_agent.lab.records import four_digits
from sea_agent.persistence.files import write_whole
from sea_agent.pretrained import use_threads

RESULTS = Path(__file__).parent / "results" / "live.json"
SEEDS = 5

METHOD = Arm("top 10 %", ask_share=0.1, considered_share=0.4)
ALWAYS = Arm("always", ask_share=1.0, considered_share=1.0)
ARMS = (
    METHOD,
    Arm("top 5 %", ask_share=0.05, considered_share=0.2),
    ALWAYS,
    Arm("never", ask_share=0.0, considered_share=0.0),
    Arm("random 10 %", ask_share=0.1, considered_share=0.1),
    replace(METHOD, name="frozen", learns=False),
    replace(METHOD, name="shuffled picks", shuffled=True),
)
_LONG = 10_000
SPAM = (
    replace(METHOD, name="nobody lies", requests=_LONG),
    replace(ALWAYS, name="nobody lies, always", requests=_LONG),
    replace(METHOD, name="liars, no quotas", requests=_LONG, liars=0.1),
    replace(METHOD, name="liars, equal quotas", requests=_LONG, liars=0.1, quotas=True),
)
CONTROLLED = tuple(arm for arm in ARMS if arm.name in ("top 10 %", "always", "random 10 %", "frozen", "shuffled picks"))
SCORED = tuple(replace(arm, prior=("world://reviews/prior",)) for arm in CONTROLLED)
TRAINED = tuple(replace(arm, trains=True) for arm in CONTROLLED)


@dataclass(frozen=True)
class Part:
    """Runs that are shown in one table."""

    world: str
    arms: Sequence[Arm]


PARTS = {
    **{world: Part(world, ARMS) for world in ("lexicon", "kitchen")},
    "spam": Part("lexicon", SPAM),
    "reviews": Part("reviews", ARMS),
    "scored": Part("reviews", SCORED),
    "trained": Part("lexicon", TRAINED),
}


def read() -> dict[str, dict[str, Any]]:
    """The runs that are done, by part, arm and seed."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def row(record: Record) -> dict[str, Any]:
    """What is kept of a run."""
    return {
        "regret": [four_digits(value) for value in record.regret_6],
        "asked": list(record.asked_6),
        "answers": record.answers,
        "lies": record.lies,
        "trust": four_digits(record.trust),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, nargs="*", default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--markdown", action="store_true", help="print the tables of the runs that are done")
    given = parser.parse_args()
    if given.markdown:
        print(markdown(read(), {name: [arm.name for arm in part.arms] for name, part in PARTS.items()}))
        return
    use_threads(1)
    done = read()
    for seed in range(given.seeds):
        for name in given.part:
            for arm in PARTS[name].arms:
                key = f"{name}/{arm.name}/{seed}"
                if key in done:
                    continue
                done = read() | {key: row(simulate(PARTS[name].world, arm, seed))}
                write_whole(RESULTS, json.dumps(dict(sorted(done.items())), indent=1) + "\n")
                print(key, done[key], f"{os.times().user:.0f} s", flush=True)


if __name__ == "__main__":
    main()
