"""What is believed without any draw: the mean reward, which best-of-N inference goes by, and the chance of an answer,
which trust goes by. Both are those of the draws that selection goes by."""

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


@pytest.mark.parametrize("family", ["ensemble", "laplace"])
def test_the_chance_of_an_answer_is_the_mean_over_the_draws(family: str) -> None:
    """Of all heads exactly; of a Gaussian to the error of its approximation, which is that of a mean of no draws."""
    posterior = trained(family, 7 if family == "ensemble" else 4000)
    first_N_D, second_N_D = candidates(3).flatten(0, 1), 3 * candidates(4).flatten(0, 1)
    draws_S_N_2 = posterior.draw(torch.stack([first_N_D, second_N_D], 1), np.random.default_rng(2))
    expected_N = (draws_S_N_2[..., 0] - draws_S_N_2[..., 1]).sigmoid().mean(0)
    chance_N = posterior.chance(first_N_D, second_N_D)
    assert torch.allclose(chance_N, expected_N, atol=1e-6 if family == "ensemble" else 0.04)
    assert torch.allclose(posterior.chance(second_N_D, first_N_D), 1 - chance_N, atol=1e-6)
    mean_N = (posterior.mean(first_N_D[None]) - posterior.mean(second_N_D[None]))[0]
    assert not torch.allclose(chance_N, mean_N.sigmoid(), atol=0.04), "the best guess alone is too sure"


def test_a_posterior_that_has_learnt_nothing_gives_every_answer_one_half() -> None:
    posterior = make_posterior(PosteriorConfig(family="laplace"), (DIMENSION,), 0)
    chance_N = posterior.chance(candidates(3).flatten(0, 1), candidates(4).flatten(0, 1))
    assert torch.equal(chance_N, torch.full_like(chance_N, 0.5))
