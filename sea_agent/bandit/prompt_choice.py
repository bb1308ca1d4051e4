"""Which prompts are worth asking about, before any pair is chosen.

Dimension legend: P prompts, M samples of a prompt.
"""

import torch
from torch import Tensor


def most_uncertain(logprobs_P_M: Tensor, count: int) -> list[int]:
    """The ``count`` prompts of highest predictive entropy, in their own order; the earlier ones among equals.

    The entropy of the policy's response to a prompt is estimated by the mean of −log π(y|x) over its samples
    (predictive entropy in arXiv 2402.08114).

    Args:
        logprobs_P_M: log π(y|x) of each sampled response, in nats, duplicates included.
    """
    entropy_P = -logprobs_P_M.mean(1)
    return sorted(torch.argsort(entropy_P, descending=True, stable=True)[:count].tolist())
