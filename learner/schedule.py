"""The learning-rate schedule, shared by all engines."""

import math
from typing import Literal


def learning_rate_multiplier(
    step: int, *, warmup_steps: int, total_steps: int, schedule: Literal["constant", "cosine"]
) -> float:
    """The fraction of the peak learning rate at optimiser step ``step`` (from 0).

    It rises linearly over ``warmup_steps`` steps, never from 0, and reaches 1 at step ``warmup_steps``. After that
    ``constant`` stays at 1, and ``cosine`` falls to 0 at step ``total_steps`` and stays there.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
