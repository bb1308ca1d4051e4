"""The mean reward, which best-of-N inference goes by, is the mean of the draws that selection goes by."""

import numpy as np
import pytest
import torch

from sea_agent.bandit.posterior import Posterior, make_posterior
from sea_agent.config import PosteriorConfig

DIMENSION = 6


def trained(family: str, members: int) -> Posterior:
    """A posterior that has seen forty labels of a linear reward."""
    settings = {"family": family, "members": members, "ensemble": {"hidden": 8, "learning_rate": 0.01}}
    # A whole block of features, given as a number or as one block, whichever the posterior counts in.
    posterior = make_posterior(PosteriorConfig.model_validate(settings), (DIMENSION,), 0)
    generator = np.random.default_rng(0)
    first, second = torch.from_numpy(generator.standard_normal((2, 40, DIMENSION)).astype(np.float32))
    posterior.add(first, second, ((first - second)[:, 0] > 0).float(), [f"d{index}" for index in range(40)])
    for _ in range(10):
        posterior.update(generator)
    return posterior


def candidates(seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((3, 5, DIMENSION)).astype(np.float32))


def test_the_ensembles_mean_is_the_mean_over_all_heads() -> None:
    posterior = trained("ensemble", 7)
    draws_S_P_M = posterior.draw(candidates(), np.random.default_rng(2))
    assert torch.allclose(posterior.mean(candidates()), draws_S_P_M.mean(0), atol=1e-6)
    assert not torch.allclose(posterior.mean(candidates()), draws_S_P_M[0], atol=1e-3)


def test_laplace_draws_scatter_around_the_mean() -> None:
    posterior = trained("laplace", 4000)
    draws_S_P_M = posterior.draw(candidates(), np.random.default_rng(2))
    errors = (draws_S_P_M.mean(0) - posterior.mean(candidates())) / (draws_S_P_M.std(0) / 4000**0.5)
    assert errors.abs().max() < 4.0
    prior = make_posterior(PosteriorConfig(family="laplace"), (DIMENSION,), 0)
    errors = (draws_S_P_M.mean(0) - prior.mean(candidates())) / (draws_S_P_M.std(0) / 4000**0.5)
    assert errors.abs().max() > 10.0


@pytest.mark.parametrize("family", ["ensemble", "laplace"])
def test_the_mean_leaves_nothing_to_chance_and_ranks_by_what_was_learnt(family: str) -> None:
    posterior = trained(family, 20)
    rewards_P_M = posterior.mean(candidates())
    assert torch.equal(rewards_P_M, posterior.mean(candidates()))
    assert rewards_P_M.dtype == torch.float32
    learnt = torch.corrcoef(torch.stack([rewards_P_M.flatten(), candidates()[..., 0].flatten()]))[0, 1]
    assert learnt > 0.7
