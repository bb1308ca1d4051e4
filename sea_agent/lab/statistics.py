"""Means over seeds with their intervals, and label-saving factors, where runs may be censored.

Array names end in their dimensions: S seeds, P points, R resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import stats

from sea_agent.seeding import generator_for

LEAST_SEEDS = 3  # with fewer there are single values and no interval
CONFIDENCE = 0.95
_ENDS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
_RESAMPLES = 10_000
_BATCH = 256  # points whose resampled means are held in memory at once


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % percentile bootstrap interval over seeds; ``values`` are the seeds' own."""

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class Reach:
    """Oracle queries that one run needed to reach a level. A run that never did is ``censored`` at its budget."""

    queries: float
    censored: bool


@dataclass(frozen=True)
class Factor:
    """How many times the queries of a method its baseline needed: the geometric mean of paired ratios.

    ``low`` and ``high`` bound the 95 % percentile bootstrap interval over pairs, ``t_low`` and ``t_high`` the t
    interval of the log ratios, the more honest of the two for few seeds. ``bound`` is ``>=`` when the baseline never
    reached the level in some pair, so that the factor is at least this; ``<=`` when the method did not; ``?`` when both
    happened.
    """

    mean: float
    low: float | None
    high: float | None
    t_low: float | None
    t_high: float | None
    bound: str
    ratios: tuple[float, ...]


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of one value per seed, with its interval."""
    sample = np.asarray(values, dtype=float)
    low, high = _ends(bootstrap(sample))
    return Estimate(float(sample.mean()), low, high, tuple(sample.tolist()))


def label_saving(pairs: Sequence[tuple[Reach, Reach]]) -> Factor:
    """The factor of (baseline, method) pairs. A level that held before the first answer counts as one query."""
    logs = np.log([max(baseline.queries, 1.0) / max(method.queries, 1.0) for baseline, method in pairs])
    low, high = _ends(bootstrap(logs), np.exp)
    t_low, t_high = _ends(_student(logs), np.exp)
    at_least = any(baseline.censored for baseline, _ in pairs)
    at_most = any(method.censored for _, method in pairs)
    bound = {(True, False): ">=", (False, True): "<=", (True, True): "?"}.get((at_least, at_most), "")
    return Factor(float(np.exp(logs.mean())), low, high, t_low, t_high, bound, tuple(np.exp(logs).tolist()))


def bootstrap(values_S: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Percentile bootstrap interval of the mean over the first axis, the seeds; None for too few of them.

    Every point sees the same resamples of the seeds, so an interval does not depend on which points are asked for.
    """
    seeds = len(values_S)
    if seeds < LEAST_SEEDS:
        return None
    values_P_S = values_S.reshape(seeds, -1).T
    ends = [
        np.quantile(values_P_S[start : start + _BATCH] @ _weights_S_R(seeds), _ENDS, axis=1)
        for start in range(0, len(values_P_S), _BATCH)
    ]
    low, high = np.concatenate(ends, axis=1)
    return low.reshape(values_S.shape[1:]), high.reshape(values_S.shape[1:])


@lru_cache(maxsize=8)
def _weights_S_R(seeds: int) -> np.ndarray:
    """The share of each seed in each resample."""
    picks_R_S = generator_for("bootstrap over seeds").integers(0, seeds, (_RESAMPLES, seeds))
    return np.stack([(picks_R_S == seed).sum(axis=1) for seed in range(seeds)]) / seeds


def _student(values_S: np.ndarray) -> tuple[float, float] | None:
    """Student's t interval of the mean; None for too few seeds."""
    if len(values_S) < LEAST_SEEDS:
        return None
    half = stats.t.ppf(_ENDS[1], len(values_S) - 1) * stats.sem(values_S)
    return values_S.mean() - half, values_S.mean() + half


def _ends(interval: tuple[Any, Any] | None, scale: Callable[[Any], Any] = float) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (float(scale(interval[0])), float(scale(interval[1])))
