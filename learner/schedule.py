"""The learning-rate schedule, one pure function for every engine."""

import math
from typing import Literal


def learning_rate_multiplier(
    step: int, *, warmup_steps: int, total_steps: int, schedule: Literal["constant", "cosine"]
) -> float:
    """The share of the peak learning rate that optimiser step ``step`` (counted from 0) uses.

    It rises linearly over ``warmup_steps`` steps, none of which is zero, and is 1 at step ``warmup_steps``. Then
    ``constant`` stays there, and ``cosine`` falls to 0 at step ``total_steps`` and stays at 0.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
