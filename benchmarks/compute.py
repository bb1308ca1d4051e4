"""The tables of docs/sample-efficiency.md on answers saved against compute spent."""

from benchmarks.tables import COLUMNS, Cell, Runs, cells, markdown, number, worlds

COMPUTE = {"sea-prior": (8, 1), "sea": (24, 1), "rounds-8": (8, 1), "rounds-8-steps-3": (8, 3), "rounds-4": (4, 1)}
COMPUTE |= {"rounds-4-steps-2": (4, 2), "rounds-4-steps-4": (4, 4), "rounds-2-steps-4": (2, 4)}
COMPUTE |= {"rounds-2-steps-8": (2, 8), "rounds-1-steps-8": (1, 8)}
"""Imagined rounds after each round that asks, and optimiser steps of each."""
CANDIDATES = 16


def compute_table(runs: Runs, others: Runs, whole: str) -> str:
    """What fewer imagined rounds, or several steps on the samples of each, save of the compute and cost in answers;
    ``others`` has the runs of the method ``whole``, of which those of the same seeds are compared with."""
    shown = "seeds; answers to it; never; times fewer; samples; CPU seconds"
    names = ("imagined rounds", "steps of each", *shown.split("; "), "passive batches")
    several = len({run.world for run in runs}) > 1
    rows = (
        [
            *([world] if several else []),
            *map(str, COMPUTE[cell.row.method]),
            *(COLUMNS[name](cell) for name in shown.split("; ")),
            number(passive_batches(COMPUTE[cell.row.method][0], CANDIDATES), 0),
        ]
        for world, found in compared(runs, others, whole).items()
        for cell in found
    )
    return markdown((*(["world"] if several else []), *names), rows)


def compared(runs: Runs, others: Runs, whole: str) -> dict[str, list[Cell]]:
    """The settings of each world against those of ``whole`` with the same seeds."""
    found = {}
    for world, here in worlds(runs).items():
        seeds = {run.seed for run in here}
        same = [run for run in worlds(others)[world] if run.method == whole and run.seed in seeds]
        found[world] = cells([*same, *here], whole, list(COMPUTE))
    return found


def passive_batches(imagined: int, candidates: int) -> float:
    """Arithmetic of an answered batch and its imagined rounds, in units of a batch of passive online DPO.

    Forward passes of the policy or one as large, over prompt and response: one to sample a response, one for its
    features, and to learn from it four: forwards and backwards, and the reference.
    """
    sampled, seen, learnt = 1, 1, 4
    passive = 2 * (sampled + learnt)
    asked = candidates * (sampled + seen) + 2 * learnt
    return (asked + imagined * candidates * (sampled + seen + learnt)) / passive
