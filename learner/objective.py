"""From preferences to the loss of a micro-batch, and what is measured beside it.

Dimensions: P preference pairs; 2P sequences, the chosen responses before the rejected ones; L scored positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from learner.losses import Pairs, implicit_margin, loss_options, pair_loss
from learner.sequences import Batch, collate, token_logprobs
from sea_agent.config import LearnerConfig
from sea_agent.errors import RunFailure
from sea_agent.types import Preference, Response

Tensor = torch.Tensor


@dataclass(frozen=True)
class MicroBatch:
    """P pairs as tensors.

    ``reference_2P`` are the summed log-probabilities under the reference, None for losses without one.
    ``sampled_2P_L`` are what the sampler reported and ``compared_2P_L`` marks where that can be compared: responses of
    the present version.
    """

    batch: Batch
    weights_P: Tensor
    sampled_2P_L: Tensor
    compared_2P_L: Tensor
    reference_2P: Tensor | None = None


def shard(rows: Sequence[Preference], rank: int, ranks: int, size: int) -> list[list[Preference]]:
    """This rank's rows in parts of at most ``size``; every rank gets equally many rows, filled up with weight 0."""
    filler = [replace(rows[0], weight=0.0)] * (-len(rows) % ranks)
    mine = [*rows, *filler][rank::ranks]
    return [mine[start : start + size] for start in range(0, len(mine), size)]


def micro_batch(rows: Sequence[Preference], version: int, pad_id: int, device: str) -> MicroBatch:
    """The rows as tensors, without a reference.

    Raises:
        RunFailure: when a response of the present version does not report one log-probability for each token.
    """
    sides = [(row, row.chosen) for row in rows] + [(row, row.rejected) for row in rows]
    batch = collate([(row.prompt.token_ids, response.token_ids) for row, response in sides], pad_id, device)
    mask = batch.response_mask_N_L
    sampled = torch.zeros(mask.shape, device=device)
    compared = torch.zeros_like(mask)
    for index, (row, response) in enumerate(sides):
        if row.weight > 0 and response.policy_version == version:
            sampled[index, mask[index]] = torch.tensor(_reported(response), device=device)
            compared[index] = mask[index]
    weights = torch.tensor([row.weight for row in rows], dtype=torch.float64, device=device)
    return MicroBatch(batch, weights, sampled, compared)


def _reported(response: Response) -> tuple[float, ...]:
    if len(response.logprobs) != len(response.token_ids):
        raise RunFailure(
            f"response {response.id} reports {len(response.logprobs)} log-probabilities "
            f"for {len(response.token_ids)} tokens"
        )
    return response.logprobs


def evaluate(model: Any, micro: MicroBatch, config: LearnerConfig, total_weight: float) -> tuple[Tensor, Tensor]:
    """This micro-batch's share of the loss Σ wᵢlᵢ / Σ wᵢ, and what is measured, to be summed like it.

    The second, float64 of shape (5,), holds loss, accuracy and margin, each weighted and divided by the total weight,
    the summed absolute difference of sampler and learner, and over how many tokens.
    """
    logprobs_2P_L = token_logprobs(model, micro.batch)
    pairs = _pairs(logprobs_2P_L.sum(1), micro)
    options = loss_options(config)
    loss_P = pair_loss(config.loss, pairs, beta=config.beta, **options)
    shares_P = micro.weights_P / total_weight
    loss = (shares_P.to(loss_P.dtype) * loss_P).sum()
    with torch.no_grad():
        average = options.get("length_average", False)
        margin_P = implicit_margin(config.loss, pairs, beta=config.beta, length_average=average)
        gap_2P_L = (logprobs_2P_L - micro.sampled_2P_L).abs()[micro.compared_2P_L]
        addends = [loss, (shares_P * (margin_P > 0)).sum(), (shares_P * margin_P).sum(), gap_2P_L.sum()]
        sums = torch.tensor([*(float(value) for value in addends), gap_2P_L.numel()], dtype=torch.float64)
    return loss, sums


def _pairs(policy_2P: Tensor, micro: MicroBatch) -> Pairs:
    policy = policy_2P.chunk(2)
    reference = (None, None) if micro.reference_2P is None else micro.reference_2P.chunk(2)
    return Pairs(*policy, *reference, *micro.batch.lengths_N.chunk(2))
