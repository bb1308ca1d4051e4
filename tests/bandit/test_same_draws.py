"""The posterior's draws are a continuous function of values: neither rounding nor memory layout changes them much.

A run that is resumed computes with values that went through a file, and may round otherwise than the run before it.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from sea_agent.bandit import Laplace, laplace
from sea_agent.config import CheckpointConfig
from sea_agent.persistence.checkpoint import Checkpoints, read_checkpoint

PROMPTS, CANDIDATES, FEATURES, LABELS = 6, 8, 40, 24


def rows(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def fitted() -> Laplace:
    posterior = Laplace(FEATURES, blocks=(10, 30))
    posterior.add(rows(0, LABELS, FEATURES), rows(1, LABELS, FEATURES), (rows(2, LABELS) > 0).float())
    posterior.update()
    return posterior


def through_a_file(posterior: Laplace, folder: Path) -> Laplace:
    """A new posterior from what a checkpoint keeps of this one."""
    with Checkpoints(folder, CheckpointConfig(), {}) as checkpoints:
        checkpoints.save(1, posterior.state(), None)
    found = read_checkpoint(folder, {})
    assert found is not None
    loaded = Laplace(FEATURES, blocks=(10, 30))
    loaded.load_state(found.state)
    return loaded


def drawn(posterior: Laplace, features_P_M_D: torch.Tensor) -> torch.Tensor:
    return posterior.draw(features_P_M_D, np.random.default_rng(3))


def moved_by_rounding() -> float:
    """Largest change of a draw when rounding moves the features of candidates that are as uncertain as each other."""
    features_P_M_D = torch.eye(FEATURES)[:CANDIDATES].expand(PROMPTS, CANDIDATES, FEATURES)
    rounded_P_M_D = features_P_M_D + 1e-7 * rows(5, *features_P_M_D.shape)
    posterior = Laplace(FEATURES, blocks=(10, 30))
    return float((drawn(posterior, features_P_M_D) - drawn(posterior, rounded_P_M_D)).abs().max())


def test_rounding_of_the_features_moves_a_draw_by_rounding() -> None:
    assert moved_by_rounding() < 1e-3


def test_a_root_made_of_eigenvectors_is_seen_to_flip(monkeypatch: pytest.MonkeyPatch) -> None:
    def flipping(covariance_P_M_M: torch.Tensor) -> torch.Tensor:
        values_P_M, vectors_P_M_M = torch.linalg.eigh(covariance_P_M_M)
        return vectors_P_M_M * values_P_M.clamp_min(0.0).sqrt()[:, None, :]

    monkeypatch.setattr(laplace, "_symmetric_root", flipping)
    assert moved_by_rounding() > 0.1


def test_the_root_is_one_of_the_covariance() -> None:
    half_P_M_M = rows(6, PROMPTS, CANDIDATES, CANDIDATES).double()
    root_P_M_M = laplace._symmetric_root(half_P_M_M @ half_P_M_M.mT)
    assert torch.allclose(root_P_M_M @ root_P_M_M.mT, half_P_M_M @ half_P_M_M.mT)
    assert torch.allclose(root_P_M_M, root_P_M_M.mT)


def test_draws_after_a_file_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    posterior, features_P_M_D = fitted(), rows(4, PROMPTS, CANDIDATES, FEATURES)
    assert torch.equal(drawn(posterior, features_P_M_D), drawn(through_a_file(posterior, tmp_path), features_P_M_D))


def layouts(posterior: Laplace) -> list[tuple[int, ...]]:
    state = posterior.state()
    return [state[name].stride() for name in ("covariance", "dual", "root", "factor")]


def test_a_state_has_the_layout_that_a_file_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = fitted()
    assert layouts(posterior) == layouts(through_a_file(posterior, tmp_path / "sound"))
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "contiguous", lambda tensor: tensor)
        control = fitted()
    assert layouts(control) != layouts(through_a_file(control, tmp_path / "unsound"))
