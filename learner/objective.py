"""From preferences to the loss of a micro-batch, and what is measured beside it.

Dimensions: P preference pairs; N sequences: the P chosen responses, the P rejected ones and, with optimism, the P
explored ones; L scored positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from learner.losses import Pairs, PreferenceLoss, optimism
from learner.sequences import Batch, collate, token_logprobs
from sea_agent.config import LearnerConfig
from sea_agent.errors import RunFailure
from sea_agent.types import REFERENCE_VERSION, Preference, Response

Tensor = torch.Tensor


@dataclass(frozen=True)
class MicroBatch:
    """P pairs as tensors.

    ``reference_N`` are the summed log-probabilities under the reference, None for losses without one.
    ``own_N`` marks the responses that the policy sampled, of any version. ``sampled_N_L`` are what the sampler reported
    and ``compared_N_L`` marks where that can be compared: responses of the present version. ``explores_P`` marks the
    pairs with an explored response; None without optimism.
    """

    batch: Batch
    weights_P: Tensor
    confidence_P: Tensor
    sampled_N_L: Tensor
    compared_N_L: Tensor
    own_N: Tensor
    explores_P: Tensor | None = None
    reference_N: Tensor | None = None


def shard(rows: Sequence[Preference], rank: int, ranks: int, size: int) -> list[list[Preference]]:
    """This rank's rows in parts of at most ``size``; every rank gets equally many rows, filled up with weight 0."""
    filler = [replace(rows[0], weight=0.0)] * (-len(rows) % ranks)
    mine = [*rows, *filler][rank::ranks]
    return [mine[start : start + size] for start in range(0, len(mine), size)]


def micro_batch(rows: Sequence[Preference], version: int, device: str, *, explores: bool = False) -> MicroBatch:
    """The rows as tensors, without a reference; ``explores`` adds the explored responses.

    Raises:
        RunFailure: when a response of the present version does not report one log-probability for each token.
    """
    sides = [(row, row.chosen) for row in rows] + [(row, row.rejected) for row in rows]
    explores_P = None
    if explores:
        # Every pair takes a place, so that ranks run the same shapes; what fills an empty one is left out of the loss.
        sides += [(row, row.explored or row.chosen) for row in rows]
        explores_P = torch.tensor([row.explored is not None for row in rows], device=device)
    batch = collate([(row.prompt.token_ids, response.token_ids) for row, response in sides], device)
    mask = batch.response_mask_N_L
    sampled = torch.zeros(mask.shape, device=device)
    compared = torch.zeros_like(mask)
    for index, (row, response) in enumerate(sides):
        if row.weight > 0 and response.policy_version == version:
            sampled[index, mask[index]] = torch.tensor(_reported(response), device=device)
            compared[index] = mask[index]
    # Not the explored responses, which may be greedy ones.
    counted = [row.weight > 0 and one.policy_version != REFERENCE_VERSION for row, one in sides[: 2 * len(rows)]]
    own = torch.tensor(counted + [False] * (len(sides) - len(counted)), device=device)
    weights = torch.tensor([row.weight for row in rows], dtype=torch.float64, device=device)
    confidence = torch.tensor([row.confidence for row in rows], device=device)
    return MicroBatch(batch, weights, confidence, sampled, compared, own, explores_P)


def _reported(response: Response) -> tuple[float, ...]:
    if len(response.logprobs) != len(response.token_ids):
        raise RunFailure(
            f"response {response.id} reports {len(response.logprobs)} log-probabilities "
            f"for {len(response.token_ids)} tokens"
        )
    return response.logprobs


def evaluate(
    model: Any, micro: MicroBatch, config: LearnerConfig, preference_loss: PreferenceLoss, total_weight: float
) -> tuple[Tensor, Tensor]:
    """This micro-batch's share of the loss Σ wᵢlᵢ / Σ wᵢ, and what is measured, to be summed like it.

    The second, float64 of shape (7,), holds loss, accuracy and margin, each weighted and divided by the total weight,
    the summed absolute difference of sampler and learner, and over how many tokens; and the summed log-ratio of policy
    and reference, and over how many responses.
    """
    logprobs_N_L = token_logprobs(model, micro.batch)
    pairs = _pairs(logprobs_N_L.sum(1), micro)
    loss_P = preference_loss(pairs)
    if (micro.confidence_P < 1).any():
        # The expected loss under the label's own probability; DPO then ends at βh = its log-odds instead of rising on.
        swapped_P = preference_loss(pairs.swap())
        loss_P = micro.confidence_P * loss_P + (1 - micro.confidence_P) * swapped_P
    if micro.explores_P is not None:
        loss_P = loss_P + micro.explores_P * _optimism(logprobs_N_L.sum(1), micro, config)
    shares_P = micro.weights_P / total_weight
    loss = (shares_P.to(loss_P.dtype) * loss_P).sum()
    with torch.no_grad():
        margin_P = preference_loss.margin(pairs)
        gap_N_L = (logprobs_N_L - micro.sampled_N_L).abs()[micro.compared_N_L]
        addends = [loss, (shares_P * (margin_P > 0)).sum(), (shares_P * margin_P).sum(), gap_N_L.sum()]
        ratios = [0.0, 0.0]
        if micro.reference_N is not None:
            ratio_N = (logprobs_N_L.sum(1) - micro.reference_N)[micro.own_N]
            ratios = [float(ratio_N.sum()), ratio_N.numel()]
        sums = torch.tensor([*(float(value) for value in addends), gap_N_L.numel(), *ratios], dtype=torch.float64)
    return loss, sums


def _pairs(policy_N: Tensor, micro: MicroBatch) -> Pairs:
    size = len(micro.weights_P)
    reference = (None, None) if micro.reference_N is None else micro.reference_N.split(size)[:2]
    return Pairs(*policy_N.split(size)[:2], *reference, *micro.batch.lengths_N.split(size)[:2])


def _optimism(policy_N: Tensor, micro: MicroBatch, config: LearnerConfig) -> Tensor:
    first = 2 * len(micro.weights_P)
    reference_P = None if micro.reference_N is None else micro.reference_N[first:]
    return optimism(config.optimism, policy_N[first:], reference_P, beta=config.beta, weight=config.optimism_weight)
