"""The batched ensemble against K separately trained networks, and what its prior and bootstrap do."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sea_agent.bandit.ensemble import Ensemble
from sea_agent.config import EnsembleConfig
from sea_agent.errors import RunFailure

D = 8


def data(labels: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Duels that differ in the first half of the features only; the first feature decides."""
    generator = np.random.default_rng(seed)
    first_N_D, second_N_D = generator.normal(size=(2, labels, D))
    first_N_D[:, D // 2 :] = second_N_D[:, D // 2 :] = 0
    chance_N = 1 / (1 + np.exp(-2 * (first_N_D - second_N_D)[:, 0]))
    wins_N = generator.random(labels) < chance_N
    ids = [f"duel-{seed}-{row}" for row in range(labels)]
    return _float(first_N_D), _float(second_N_D), _float(wins_N), ids


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def head_alone(part: dict[str, Tensor], k: int) -> nn.Sequential:
    """Head k as an ordinary network."""
    hidden = part["weight_1"].shape[2]
    network = nn.Sequential(
        nn.Linear(D, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1, bias=False)
    )
    names = ["weight_1", "bias_1", "weight_2", "bias_2", "weight_3"]
    for parameter, name in zip(network.parameters(), names, strict=True):
        parameter.data = part[name][k].T.clone().reshape(parameter.shape)
    return network


def train_alone(
    config: EnsembleConfig, before: dict[str, Any], k: int, duels: tuple[Tensor, Tensor, Tensor, list[str]]
) -> nn.Sequential:
    """Train head k by itself, from the definition of the loss; one update with generator 5."""
    first_N_D, second_N_D, wins_N, _ = duels
    network, anchor, prior = (head_alone(before[part], k) for part in ("members", "anchors", "priors"))
    deviations = [math.sqrt(2 / D)] * 2 + [math.sqrt(2 / config.hidden)] * 2 + [math.sqrt(1 / config.hidden)]
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    generator = np.random.default_rng(5)
    for _ in range(config.minibatches):
        rows = generator.choice(len(wins_N), min(config.minibatch, len(wins_N)), replace=False)

        def reward(row_D: Tensor) -> Tensor:
            return network(row_D)[0] + config.prior_scale * prior(row_D)[0].detach()

        loss = torch.tensor(0.0)
        for row in rows:
            winner, loser = (first_N_D, second_N_D) if wins_N[row] else (second_N_D, first_N_D)
            margin = reward(winner[row]) - reward(loser[row])
            loss = loss - before["counts"][row, k] * torch.log(torch.sigmoid(margin)) / len(rows)
        for parameter, centre, deviation in zip(network.parameters(), anchor.parameters(), deviations, strict=True):
            pull = ((parameter - centre.detach()) / deviation).square().sum() / 2
            loss = loss + config.anchor / len(wins_N) * pull
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network


@pytest.mark.parametrize("minibatch", [4, 100])
@pytest.mark.parametrize("extras", [{}, {"bootstrap": True, "prior_scale": 0.7}])
def test_the_batched_heads_equal_heads_trained_one_by_one(minibatch: int, extras: dict[str, Any]) -> None:
    config = EnsembleConfig(
        hidden=6, anchor=0.5, minibatch=minibatch, minibatches=7, learning_rate=1e-2, weight_decay=0.01, **extras
    )
    ensemble, duels = Ensemble(D, config, members=3, seed=1), data(9)
    ensemble.add(*duels)
    # Anchors away from the start: at the start itself a unit that is always active has a gradient of pure rounding
    # error, which Adam would blow up to a full step.
    started = ensemble.state()
    ensemble.load_state({**started, "anchors": {name: 0.5 * tensor for name, tensor in started["anchors"].items()}})
    before = ensemble.state()
    ensemble.update(np.random.default_rng(5))
    after = ensemble.state()["members"]
    moved = (after["weight_2"] - before["members"]["weight_2"]).abs().mean()
    assert moved > 1e-2  # far more than the tolerance below
    for k in range(3):
        expected = dict(zip(after, train_alone(config, before, k, duels).parameters(), strict=True))
        for name, parameter in expected.items():
            torch.testing.assert_close(
                after[name][k].T.reshape(parameter.shape), parameter.detach(), rtol=0, atol=1e-5, msg=name
            )


def disagreement(ensemble: Ensemble, first_N_D: Tensor, second_N_D: Tensor) -> float:
    """Standard deviation over the heads of the reward difference, averaged over duels."""
    rewards_K_N_2 = ensemble.draw(torch.stack([first_N_D, second_N_D], 1), np.random.default_rng(0))
    return float((rewards_K_N_2[..., 0] - rewards_K_N_2[..., 1]).std(0).mean())


def disagreements(anchor: float) -> tuple[float, float, float]:
    """Disagreement on the data before training, on it after training, and off it after training."""
    config = EnsembleConfig(hidden=16, anchor=anchor, minibatches=20, learning_rate=3e-3)
    ensemble, (first_N_D, second_N_D, wins_N, ids) = Ensemble(D, config), data(128)
    before = disagreement(ensemble, first_N_D, second_N_D)
    ensemble.add(first_N_D, second_N_D, wins_N, ids)
    for round_ in range(50):
        ensemble.update(np.random.default_rng(round_))
    # Flipped features: what varies here never varied in a labelled duel.
    off = disagreement(ensemble, first_N_D.flip(1), second_N_D.flip(1))
    return before, disagreement(ensemble, first_N_D, second_N_D), off


def test_members_agree_on_the_data_and_disagree_off_it() -> None:
    before, on, off = disagreements(anchor=1.0)
    assert on < 0.75 * before
    assert off > before
    assert off > 2 * on


def test_an_anchor_averaged_over_parameters_does_not_make_members_agree_on_the_data() -> None:
    anchors = Ensemble(D, EnsembleConfig(hidden=16)).state()["anchors"]
    parameters_per_head = sum(tensor[0].numel() for tensor in anchors.values())
    before, on, _ = disagreements(anchor=1.0 / parameters_per_head)
    assert on > before


def test_the_anchor_alone_pulls_every_head_back_to_its_own_start() -> None:
    config = EnsembleConfig(hidden=8, anchor=1.0, minibatches=300, weight_decay=0.0, learning_rate=1e-2)
    ensemble = Ensemble(D, config, members=4, seed=2)
    state = ensemble.state()
    away = {name: tensor + 0.3 for name, tensor in state["members"].items()}
    ensemble.load_state({**state, "members": away})
    same_N_D = torch.ones(1, D)
    ensemble.add(same_N_D, same_N_D, torch.tensor([1.0]), ["no information"])
    ensemble.update(np.random.default_rng(0))
    for name, tensor in ensemble.state()["members"].items():
        torch.testing.assert_close(tensor, state["anchors"][name], rtol=0, atol=1e-2, msg=name)


def test_a_head_whose_bootstrap_leaves_a_label_out_is_not_moved_by_it() -> None:
    first_N_D, second_N_D, wins_N, ids = data(6)
    flipped_N = wins_N.clone()
    flipped_N[2] = 1 - flipped_N[2]
    states = []
    for labels_N in (wins_N, flipped_N):
        ensemble = Ensemble(D, EnsembleConfig(hidden=8, bootstrap=True), members=12, seed=3)
        ensemble.add(first_N_D, second_N_D, labels_N, ids)
        ensemble.update(np.random.default_rng(0))
        states.append(ensemble.state())
    left_out_K = states[0]["counts"][2] == 0
    assert left_out_K.any()
    assert not left_out_K.all()
    same_K = (states[0]["members"]["weight_2"] == states[1]["members"]["weight_2"]).flatten(1).all(1)
    assert torch.equal(same_K, left_out_K)


def test_without_bootstrap_every_label_moves_every_head() -> None:
    ensemble = Ensemble(D, members=5, seed=3)
    ensemble.add(*data(6))
    assert torch.equal(ensemble.state()["counts"], torch.ones(6, 5))


def test_bootstrap_counts_are_poisson_and_belong_to_the_label_not_to_its_place() -> None:
    first_N_D, second_N_D, wins_N, ids = data(400)
    forward, backward = (Ensemble(D, EnsembleConfig(hidden=4, bootstrap=True), seed=4) for _ in range(2))
    forward.add(first_N_D, second_N_D, wins_N, ids)
    for row in reversed(range(400)):
        backward.add(first_N_D[[row]], second_N_D[[row]], wins_N[[row]], [ids[row]])
    counts_N_K = forward.state()["counts"]
    assert torch.equal(counts_N_K, backward.state()["counts"].flip(0))
    # Mean 1 and variance 1, within five standard errors over 8,000 counts.
    assert abs(counts_N_K.mean() - 1) < 5 / math.sqrt(8000)
    assert abs(counts_N_K.var() - 1) < 5 * math.sqrt(3 / 8000)


def test_randomised_priors_widen_the_disagreement_before_any_label() -> None:
    first_N_D, second_N_D, _, _ = data(64)
    plain, widened = (Ensemble(D, EnsembleConfig(prior_scale=scale)) for scale in (0.0, 2.0))
    assert disagreement(widened, first_N_D, second_N_D) > 1.5 * disagreement(plain, first_N_D, second_N_D)


def test_heads_start_with_rewards_of_deviation_near_one() -> None:
    ensemble = Ensemble(64, members=200)
    features_P_M_D = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 1, 64)).astype(np.float32))
    rewards_K_P_M = ensemble.draw(features_P_M_D, np.random.default_rng(0))
    assert 0.8 < float(rewards_K_P_M.std(0).mean()) < 1.25


def test_a_fit_that_diverges_is_reported() -> None:
    ensemble = Ensemble(D, EnsembleConfig(learning_rate=1e20), members=3)
    ensemble.add(*data(6))
    with pytest.raises(RunFailure, match="learning_rate"):
        ensemble.update(np.random.default_rng(0))
