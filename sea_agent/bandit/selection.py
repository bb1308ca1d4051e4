"""Selection rules: which two candidates of each prompt are duelled (arXiv 2411.01493, section 4.3 and algorithm 1).

Every rule maps (rewards_S_P_M, valid_P_M, generator) to pairs_P_2 and never pairs a candidate with
itself or with one that is not valid. The draws come in an order of its own for each prompt
(``Posterior.draw``), so "draw 0" below is a fresh Thompson draw for every prompt. A reward may be anything,
even NaN, where a candidate is not valid.

Dimension legend: S posterior draws, P prompts, M candidates of a prompt.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sea_agent.config import SelectionConfig
from sea_agent.errors import RunFailure


def select_pairs(
    config: SelectionConfig, rewards_S_P_M: Tensor | None, valid_P_M: Tensor, generator: np.random.Generator
) -> Tensor:
    """The duel of each prompt, pairs_P_2 (int64): indices of the first and the second response.

    Args:
        rewards_S_P_M: posterior draws; None will do for ``passive`` and ``uniform``.
        valid_P_M: which candidates exist, bool.
        generator: decides what a rule leaves to chance; only ``uniform`` draws from it.

    Raises:
        ValueError: when a prompt has fewer than two valid candidates, or a rule lacks the rewards it needs.
        RunFailure: when the reward of a valid candidate is not finite.
    """
    if (valid_P_M.sum(1) < 2).any():
        raise ValueError("a duel needs two different candidates: leave out prompts that have fewer than two")
    if config.rule not in ("passive", "uniform"):
        if rewards_S_P_M is None:
            raise ValueError(f"selection.rule={config.rule} needs posterior draws of the rewards")
        if not (rewards_S_P_M.isfinite() | ~valid_P_M).all():
            raise RunFailure("the posterior gave rewards that are not finite: check its settings and features")
    options = {"variance": config.bai_variance} if config.rule == "sea_bai" else {}
    return RULES[config.rule](rewards_S_P_M, valid_P_M, generator, **options)


def belief(rewards_S_P_M: Tensor, pairs_P_2: Tensor) -> tuple[Tensor, Tensor]:
    """What the posterior thinks of each duel before it is labelled.

    Returns:
        mean_P and deviation_P, over the draws, of the probability that the first response is preferred.
    """
    draws, prompts, _ = rewards_S_P_M.shape
    rewards_S_P_2 = rewards_S_P_M.gather(2, pairs_P_2.expand(draws, prompts, 2))
    chance_S_P = torch.sigmoid(rewards_S_P_2[..., 0] - rewards_S_P_2[..., 1])
    return chance_S_P.mean(0), chance_S_P.std(0, correction=0)


def passive(_rewards: Tensor | None, valid_P_M: Tensor, _generator: np.random.Generator) -> Tensor:
    """The first two distinct samples, as online DPO takes them."""
    return valid_P_M.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :2]


def uniform(_rewards: Tensor | None, valid_P_M: Tensor, generator: np.random.Generator) -> Tensor:
    """Two different candidates at random, in random order."""
    keys_P_M = torch.from_numpy(generator.random(valid_P_M.shape)).masked_fill(~valid_P_M, -1.0)
    return keys_P_M.topk(2, dim=1).indices


def sea_ee(rewards_S_P_M: Tensor, valid_P_M: Tensor, _generator: np.random.Generator) -> Tensor:
    """Explore and exploit: the best of draw 0 against the best of the first draw that names another candidate.

    When every draw names the same candidate, its opponent is the best of the others under the last draw.
    """
    best_S_P = _best(rewards_S_P_M, valid_P_M)
    first_P = best_S_P[0]
    differs_S_P = best_S_P != first_P
    earliest_1_P = differs_S_P.to(torch.int8).argmax(0, keepdim=True)
    runner_up_P = _best(rewards_S_P_M[-1], valid_P_M & _other_than(first_P, valid_P_M))
    second_P = torch.where(differs_S_P.any(0), best_S_P.gather(0, earliest_1_P)[0], runner_up_P)
    return torch.stack([first_P, second_P], 1)


def sea_bai(
    rewards_S_P_M: Tensor,
    valid_P_M: Tensor,
    _generator: np.random.Generator,
    variance: Literal["probability", "difference"] = "probability",
) -> Tensor:
    """Best-arm identification: the best of draw 0 against the opponent whose duel with it is least predictable.

    ``variance`` names what has the posterior variance: the preference ``probability`` σ(r(y) − r(first)), as the
    paper writes it, or the reward ``difference`` r(y) − r(first).
    """
    first_P = _best(rewards_S_P_M[0], valid_P_M)
    first_S_P_1 = first_P[:, None].expand(len(rewards_S_P_M), -1, 1)
    gap_S_P_M = rewards_S_P_M - rewards_S_P_M.gather(2, first_S_P_1)
    doubtful_S_P_M = torch.sigmoid(gap_S_P_M) if variance == "probability" else gap_S_P_M
    second_P = _best(doubtful_S_P_M.var(0, correction=0), valid_P_M & _other_than(first_P, valid_P_M))
    return torch.stack([first_P, second_P], 1)


def uncertainty(rewards_S_P_M: Tensor, valid_P_M: Tensor, _generator: np.random.Generator) -> Tensor:
    """The pair whose reward difference has the largest posterior variance."""
    candidates = valid_P_M.shape[1]
    centred_S_P_M = rewards_S_P_M - rewards_S_P_M.mean(0)
    covariance_P_M_M = torch.einsum("spm,spn->pmn", centred_S_P_M, centred_S_P_M) / len(rewards_S_P_M)
    variance_P_M = covariance_P_M_M.diagonal(dim1=1, dim2=2)
    spread_P_M_M = variance_P_M[:, :, None] + variance_P_M[:, None, :] - 2 * covariance_P_M_M
    allowed_P_M_M = (valid_P_M[:, :, None] & valid_P_M[:, None, :]).triu(diagonal=1)
    flat_P = _best(spread_P_M_M.flatten(1), allowed_P_M_M.flatten(1))
    return torch.stack([flat_P // candidates, flat_P % candidates], 1)


def best_worst(rewards_S_P_M: Tensor, valid_P_M: Tensor, _generator: np.random.Generator) -> Tensor:
    """The top and the bottom candidate under draw 0."""
    best_P = _best(rewards_S_P_M[0], valid_P_M)
    worst_P = _best(-rewards_S_P_M[0], valid_P_M & _other_than(best_P, valid_P_M))
    return torch.stack([best_P, worst_P], 1)


RULES: dict[str, Callable[..., Tensor]] = {
    "passive": passive,
    "uniform": uniform,
    "sea_ee": sea_ee,
    "sea_bai": sea_bai,
    "uncertainty": uncertainty,
    "best_worst": best_worst,
}


def _best(values_M: Tensor, allowed_M: Tensor) -> Tensor:
    """Index of the largest allowed value along the last dimension, the lowest index among equals."""
    return values_M.masked_fill(~allowed_M, -torch.inf).argmax(-1)


def _other_than(index_P: Tensor, like_P_M: Tensor) -> Tensor:
    """others_P_M: everything but one index of each row."""
    return torch.arange(like_P_M.shape[1], device=index_P.device) != index_P[:, None]
