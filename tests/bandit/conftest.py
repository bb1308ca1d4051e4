"""A synthetic bandit whose rewards are linear, so that the truth is known."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearBandit:
    """Rewards φ·w of standard normal features; duels are Bradley–Terry."""

    weights_D: np.ndarray
    generator: np.random.Generator

    def duels(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """first_N_D, second_N_D and the true probability that first wins."""
        first_N_D, second_N_D = self.generator.standard_normal((2, count, len(self.weights_D)))
        chance_N = 1 / (1 + np.exp(-(first_N_D - second_N_D) @ self.weights_D))
        return _float(first_N_D), _float(second_N_D), _float(chance_N)

    def labels(self, chance_N: Tensor) -> Tensor:
        return _float(self.generator.random(len(chance_N)) < chance_N.numpy())


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


@pytest.fixture
def linear_bandit() -> Callable[..., LinearBandit]:
    """A bandit of D features whose rewards have a standard deviation of ``scale``."""

    def make(dimension: int, scale: float, seed: int) -> LinearBandit:
        generator = np.random.default_rng(seed)
        return LinearBandit(generator.standard_normal(dimension) * scale / np.sqrt(dimension), generator)

    return make


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
