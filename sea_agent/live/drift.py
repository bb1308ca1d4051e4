"""Whether people ask for other things than before: what a posterior and a policy have learnt is of earlier prompts."""

from collections.abc import Sequence

import numpy as np

from sea_agent.types import Prompt

_LEAST = 8
"""Prompts on each side below which nothing is said."""


def drift(recent: Sequence[Prompt], earlier: Sequence[Prompt]) -> float | None:
    """How far recent prompts are from earlier ones: 0 as if drawn from the same, 1 without anything in common; None for
    too few, or prompts that are all different.

    1 less the mean cosine between the sides, as a multiple of that within them, of token counts times the logarithm of
    the inverse share of prompts that have the token: what all have, such as a chat template, weighs nothing. Means
    within a side leave out pairs of a prompt with itself, so that few prompts are not far apart by chance.
    """
    if min(len(recent), len(earlier)) < _LEAST:
        return None
    rows = [prompt.token_ids for prompt in (*recent, *earlier)]
    columns = {token: place for place, token in enumerate(sorted({token for row in rows for token in row}))}
    counts = np.zeros((len(rows), len(columns)))
    for place, row in enumerate(rows):
        np.add.at(counts[place], [columns[token] for token in row], 1.0)
    weighted = counts * np.log(len(rows) / (counts > 0).sum(axis=0))
    lengths = np.linalg.norm(weighted, axis=1, keepdims=True)
    unit = np.divide(weighted, lengths, out=np.zeros_like(weighted), where=lengths > 0)
    cosines = unit @ unit.T
    here, there = slice(len(recent)), slice(len(recent), None)
    within = _between_others(cosines[here, here]) * _between_others(cosines[there, there])
    if within <= 0.0:
        return None
    return float(np.clip(1.0 - cosines[here, there].mean() / np.sqrt(within), 0.0, 1.0))


def _between_others(cosines: np.ndarray) -> float:
    """The mean without the diagonal."""
    n = len(cosines)
    return float((cosines.sum() - np.trace(cosines)) / (n * (n - 1)))
