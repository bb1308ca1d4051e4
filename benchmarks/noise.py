"""Features that know nothing: random numbers by the text, for runs that must then do no harm."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sea_agent.seeding import generator_for

Texts = Sequence[tuple[str, str]]
"""Prompt and response."""
WIDTH = 32


def features(texts: Texts) -> NDArray[np.float64]:
    """features_N_D, independent standard normals."""
    return np.array([generator_for("noise", *text).normal(size=WIDTH) for text in texts])


def score(texts: Texts) -> list[float]:
    """A standard normal for each response."""
    return [float(generator_for("noise score", *text).normal()) for text in texts]
