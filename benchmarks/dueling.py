"""Selection rules without a language model: contextual dueling bandits whose reward is known.

For each label a bandit gets a context of M candidates, a rule of ``sea_agent.bandit.selection`` picks two of them, the
label falls by the Bradley–Terry model, and the posterior learns it. Many independent bandits are played at once, as
the prompts of one call. All rules meet the same teachers and contexts, so their differences are paired.

- ``linear``: the reward is linear in the inputs, and the posterior's prior is the one that the teacher is drawn from.
- ``neural``: the reward is a random network with one hidden layer of ReLUs. The posterior is linear in other random
  ReLU features of the same inputs (neural-linear), so it comes close to the teacher and never contains it.

Dimension legend: S draws, P bandits, B contexts of a round, M candidates, D inputs, F features, H hidden units,
K picked rows, C checkpoints.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from benchmarks.recursive import RecursiveLaplace
from sea_agent.bandit.selection import diverse_duels, select_pairs
from sea_agent.config import SelectionConfig
from sea_agent.seeding import generator_for

Keep = Literal["first", "informative", "diverse"]

# Draws that a rule sees for each context, the default number of members of the product's posteriors.
_DRAWS = 20
# Draws that tell the covariance of a whole pool of duels.
_POOL_DRAWS = 100
_HELD_OUT = 32
_RESAMPLES = 999


@dataclass(frozen=True)
class Problem:
    """What the bandits are like."""

    reward: Literal["linear", "neural"] = "linear"
    dimension: int = 12
    """Inputs of a candidate (D), independent standard normal."""
    candidates: int = 16
    """Candidates of a context (M)."""
    deviation: float = 2.0
    """Standard deviation of the reward over candidates, in logits of a preference."""
    fixed_arms: bool = False
    """The context never changes; its candidates come in a new order each time, as samples do."""
    features: int = 128
    """Random features of the posterior (F); ``neural`` only."""
    hidden: int = 32
    """Hidden units of the teacher (H); ``neural`` only."""


@dataclass(frozen=True)
class Trace:
    """What happened to each bandit, at C checkpoints, four to a doubling of the labels."""

    labels_C: np.ndarray
    """Labels so far; the last entry is all of them."""
    regret_P_C: np.ndarray
    """Cumulative regret Σ r(best) − (r(first) + r(second)) / 2 over the labelled duels."""
    avoidable_P_C: np.ndarray
    """The part of it that knowledge could avoid: a duel needs two different candidates, so the best duel is that of the
    best and the second best, and (r(best) − r(second best)) / 2 is paid by a bandit that knows all."""
    simple_P_C: np.ndarray
    """Simple regret r(best) − r(recommended) of the candidate with the highest posterior mean, mean over held-out
    contexts. With fixed arms the held-out context is the one there is."""


def play(
    problem: Problem,
    selection: SelectionConfig,
    labels: int,
    bandits: int,
    seed: int = 0,
    batch: int = 1,
    pool: int = 1,
    keep: Keep = "first",
) -> Trace:
    """Play every bandit for ``labels`` labels, a multiple of ``batch``.

    Args:
        batch: labels that arrive together; the posterior does not change within a batch.
        pool: contexts that are offered for each label; the rule proposes a duel in each.
        keep: which of the proposed duels are labelled: the ``first`` ones; the most ``informative`` ones, each by
            itself; or those that ``diverse_duels`` chooses.

    Raises:
        ValueError: when ``labels`` is not a multiple of ``batch``.
    """
    if labels % batch:
        raise ValueError(f"{labels} labels do not come in whole batches of {batch}")
    world = _World(problem, bandits, seed)
    posterior = RecursiveLaplace(bandits, world.features, problem.deviation / world.features**0.5)
    held_out_P_B_M_D = world.held_out()
    checkpoints = _checkpoints(labels, batch)
    regret_P, avoidable_P = torch.zeros(2, bandits, dtype=torch.float64)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for done in range(0, labels, batch):
        keyed = partial(generator_for, seed, "bench", done)
        inputs_P_B_M_D = world.contexts(done, batch * pool)
        features_P_B_M_F = world.embed(inputs_P_B_M_D)
        rewards_S_P_B_M = posterior.draw(features_P_B_M_F, _DRAWS, keyed("draw"))
        valid_P_M = torch.ones(bandits * batch * pool, problem.candidates, dtype=torch.bool)
        pairs_P_2 = select_pairs(
            selection.rule,
            rewards_S_P_B_M.flatten(1, 2),
            valid_P_M,
            keyed("rule"),
            variance=selection.variance,
        )
        pairs_P_B_2 = pairs_P_2.unflatten(0, (bandits, -1))
        duelled_P_B_2_F = _pick(features_P_B_M_F, pairs_P_B_2)
        difference_P_B_F = duelled_P_B_2_F[:, :, 0] - duelled_P_B_2_F[:, :, 1]
        truth_P_B_M = world.reward(inputs_P_B_M_D)
        if pool > 1:
            kept_P_B = _kept(posterior, difference_P_B_F, batch, keep, keyed("keep"))
            bandit_P_1 = torch.arange(bandits)[:, None]
            pairs_P_B_2, truth_P_B_M, difference_P_B_F = (
                values[bandit_P_1, kept_P_B] for values in (pairs_P_B_2, truth_P_B_M, difference_P_B_F)
            )
        reward_P_B_2 = truth_P_B_M.gather(2, pairs_P_B_2)
        best_P_B_2 = truth_P_B_M.topk(2, dim=2).values
        regret_P += (best_P_B_2[..., 0] - reward_P_B_2.mean(2)).sum(1)
        avoidable_P += (best_P_B_2 - reward_P_B_2).mean(2).sum(1)
        luck_P_B = torch.from_numpy(keyed("label").random((bandits, batch)))
        wins_P_B = (luck_P_B < torch.sigmoid(reward_P_B_2[..., 0] - reward_P_B_2[..., 1])).to(torch.float64)
        for index in range(batch):
            posterior.add(difference_P_B_F[:, index], wins_P_B[:, index])
        if done + batch in checkpoints:
            mean_P_B_M = posterior.mean(world.embed(held_out_P_B_M_D))
            simple_P = _simple_regret(mean_P_B_M, world.reward(held_out_P_B_M_D))
            rows.append((regret_P.clone(), avoidable_P.clone(), simple_P))
    regret_P_C, avoidable_P_C, simple_P_C = (torch.stack(column, 1).numpy() for column in zip(*rows, strict=True))
    return Trace(np.array(checkpoints), regret_P_C, avoidable_P_C, simple_P_C)


def growth(labels_C: np.ndarray, regret_P_C: np.ndarray) -> float:
    """The exponent of the mean cumulative regret over the last half of the labels: 1 is linear, less is sub-linear.

    It is the slope of log regret against log labels, by least squares.
    """
    last_C = labels_C >= labels_C[-1] / 2
    return float(np.polyfit(np.log(labels_C[last_C]), np.log(regret_P_C.mean(0)[last_C]), 1)[0])


def labels_to(level: float, labels_C: np.ndarray, simple_P_C: np.ndarray) -> float:
    """Labels from which on the mean simple regret stays at ``level`` or below; infinite when it ends above.

    Between checkpoints both are taken to move evenly in their logarithms.
    """
    simple_C = simple_P_C.mean(0)
    above_C = simple_C > level
    if above_C[-1]:
        return np.inf
    if not above_C.any():
        return float(labels_C[0])
    last = int(np.flatnonzero(above_C)[-1])
    # A recommendation may end without any regret; its logarithm is not needed more exactly than this.
    start, end, goal = np.log(np.maximum([simple_C[last], simple_C[last + 1], level], 1e-12))
    share = (start - goal) / (start - end)
    return float(labels_C[last] * (labels_C[last + 1] / labels_C[last]) ** share)


def interval(statistic: Callable[..., float], *samples_P: np.ndarray) -> tuple[float, float, float]:
    """A statistic of arrays whose rows are bandits, and its 95 % percentile bootstrap interval over the bandits."""
    everyone_P = np.arange(len(samples_P[0]))

    def of(chosen_P: np.ndarray) -> float:
        return statistic(*(sample_P[chosen_P] for sample_P in samples_P))

    found = stats.bootstrap(
        (everyone_P,), of, vectorized=False, n_resamples=_RESAMPLES, method="percentile", rng=generator_for("interval")
    )
    return of(everyone_P), float(found.confidence_interval.low), float(found.confidence_interval.high)


class _World:
    """Teachers, contexts and features of P bandits, keyed by the seed and by what they are for."""

    def __init__(self, problem: Problem, bandits: int, seed: int) -> None:
        self._problem, self._bandits, self._seed = problem, bandits, seed
        self.embed: Callable[[Tensor], Tensor]
        self._hidden: Callable[[Tensor], Tensor]
        if problem.reward == "linear":
            self.features, hidden = problem.dimension, problem.dimension
            self.embed = self._hidden = _identity
        else:
            self.features, hidden = problem.features, problem.hidden
            self.embed, self._hidden = self._layer("features", self.features), self._layer("teacher", hidden)
        self._output_P_H = self._normal("output", bandits, hidden) * problem.deviation / hidden**0.5
        self._arms_P_1_M_D = self._inputs("arms", 0, 1) if problem.fixed_arms else None

    def contexts(self, number: int, count: int) -> Tensor:
        """inputs_P_B_M_D of ``count`` contexts, a function of ``number``."""
        if self._arms_P_1_M_D is None:
            return self._inputs("context", number, count)
        keys_P_B_M = self._generator("order", number).random((self._bandits, count, self._problem.candidates))
        return _pick(self._arms_P_1_M_D.expand(-1, count, -1, -1), torch.from_numpy(keys_P_B_M).argsort(2))

    def held_out(self) -> Tensor:
        """inputs_P_B_M_D of the contexts on which recommendations are judged."""
        return self._inputs("held-out", 0, _HELD_OUT) if self._arms_P_1_M_D is None else self._arms_P_1_M_D

    def reward(self, inputs_P_B_M_D: Tensor) -> Tensor:
        """The true reward_P_B_M."""
        return (self._hidden(inputs_P_B_M_D) @ self._output_P_H[:, None, :, None])[..., 0]

    def _layer(self, purpose: str, width: int) -> Callable[[Tensor], Tensor]:
        """A random ReLU layer for each bandit, whose outputs have mean 0 and variance 1 over the inputs."""
        weight_P_1_D_H = self._normal(f"{purpose}-weight", self._bandits, 1, self._problem.dimension, width)
        weight_P_1_D_H /= weight_P_1_D_H.norm(dim=2, keepdim=True)
        bias_P_1_1_H = self._normal(f"{purpose}-bias", self._bandits, 1, 1, width)
        # Moments of max(0, u + bias) for a standard normal u.
        chance, density = torch.special.ndtr(bias_P_1_1_H), torch.exp(-(bias_P_1_1_H**2) / 2) / (2 * torch.pi) ** 0.5
        mean = bias_P_1_1_H * chance + density
        deviation = ((1 + bias_P_1_1_H**2) * chance + bias_P_1_1_H * density - mean**2).sqrt()
        return lambda inputs: ((inputs @ weight_P_1_D_H + bias_P_1_1_H).relu() - mean) / deviation

    def _inputs(self, purpose: str, number: int, count: int) -> Tensor:
        shape = self._bandits, count, self._problem.candidates, self._problem.dimension
        return torch.from_numpy(self._generator(purpose, number).standard_normal(shape))

    def _normal(self, purpose: str, *shape: int) -> Tensor:
        return torch.from_numpy(self._generator(purpose, 0).standard_normal(shape))

    def _generator(self, purpose: str, number: int) -> np.random.Generator:
        return generator_for(self._seed, "bench", number, purpose)


def _identity(inputs_P_B_M_D: Tensor) -> Tensor:
    return inputs_P_B_M_D


def _pick(values_P_B_M_F: Tensor, index_P_B_K: Tensor) -> Tensor:
    """values_P_B_K_F: of each context, the candidates with these indices."""
    return values_P_B_M_F.gather(2, index_P_B_K[..., None].expand(-1, -1, -1, values_P_B_M_F.shape[3]))


def _kept(
    posterior: RecursiveLaplace, difference_P_B_F: Tensor, count: int, keep: Keep, generator: np.random.Generator
) -> Tensor:
    """kept_P_K: which of the proposed duels are labelled."""
    if keep == "first":
        return torch.arange(count).expand(len(difference_P_B_F), -1)
    # All duels as the candidates of one context: one draw is then one reward function for the whole pool.
    margins_S_P_B = posterior.draw(difference_P_B_F[:, None], _POOL_DRAWS, generator)[:, :, 0]
    if keep == "diverse":
        return torch.vmap(partial(diverse_duels, count=count), in_dims=1)(margins_S_P_B)
    chance_S_P_B = torch.sigmoid(margins_S_P_B)
    gain_P_B = (chance_S_P_B * (1 - chance_S_P_B)).mean(0) * margins_S_P_B.var(0)
    return gain_P_B.topk(count).indices


def _simple_regret(mean_P_B_M: Tensor, reward_P_B_M: Tensor) -> Tensor:
    """simple_P: what the recommended candidates fall short of the best ones, mean over contexts."""
    recommended_P_B_1 = mean_P_B_M.argmax(2, keepdim=True)
    return (reward_P_B_M.amax(2) - reward_P_B_M.gather(2, recommended_P_B_1)[..., 0]).mean(1)


def _checkpoints(labels: int, batch: int) -> list[int]:
    """Multiples of ``batch`` up to ``labels``, evenly spaced in their logarithms, four to a doubling."""
    batches = labels // batch
    steps = range(int(4 * np.log2(batches)) + 1)
    return sorted({round(batches * 2 ** (-step / 4)) * batch for step in steps})
