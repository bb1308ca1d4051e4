"""What ``sea-agent demo`` compares: three methods on real English, by the labels that each of them needs."""

from typing import NamedTuple

from sea_agent.lab.records import Record

LEVEL = 0.8
"""The win rate to which labels are counted."""

WORLD = (
    "policy.path=world://reviews/policy",
    "prompts.path=world://reviews/prompts.jsonl",
    "sampler.max_new_tokens=20",
    "oracle.world=reviews",
    "evaluation.prompts_path=world://reviews/heldout.jsonl",
    "evaluation.prompts=128",
    "evaluation.every=16",
    "evaluation.judge.world=reviews",
)
_IMAGINED = ("imagination.rounds=8", "imagination.start=0", "imagination.max_kl=5")


def needed(record: Record) -> str:
    """The labels that a run needed to the level, in words."""
    queries = record.curve.queries_to(LEVEL)
    return f"more than {record.budget}" if queries is None else f"{queries:.0f}"


class Arm(NamedTuple):
    """A method of the demo: the name of its directory, what it is called, its preset, and settings upon that."""

    name: str
    title: str
    preset: str
    settings: tuple[str, ...]


ARMS = (
    Arm("passive", "passive online DPO", "passive", ("budget.oracle_queries=256",)),
    Arm("sea", "SEA", "sea", (*_IMAGINED, "budget.oracle_queries=112")),
    Arm(
        "sea-prior",
        "SEA that begins with a cheap score",
        "sea",
        (
            *_IMAGINED,
            "posterior.prior=[world://reviews/prior]",
            "budget.oracle_queries=64",
        ),
    ),
)
