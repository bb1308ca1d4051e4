"""What both families promise."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sea_agent.bandit.posterior import Posterior, make_posterior
from sea_agent.bandit.selection import belief
from sea_agent.config import PosteriorConfig
from sea_agent.errors import UnfitState

FAMILIES = ["ensemble", "laplace"]
D = 8


def make(family: str, seed: int = 0, members: int = 20, dimension: int = D) -> Posterior:
    # As many steps per update as bring a small ensemble close to its optimum.
    tree = {"family": family, "members": members, "ensemble": {"hidden": 32, "minibatches": 40, "prior_scale": 0.3}}
    return make_posterior(PosteriorConfig.model_validate(tree), (dimension,), seed)


def teach(posterior: Posterior, bandit: Any, labels: int, batch: int = 32) -> None:
    for start in range(posterior.labels, labels, batch):
        first_N_D, second_N_D, chance_N = bandit.duels(min(batch, labels - start))
        ids = [f"duel-{start + row}" for row in range(len(chance_N))]
        posterior.add(first_N_D, second_N_D, bandit.labels(chance_N), ids)
        posterior.update(np.random.default_rng(start))


def beliefs(posterior: Posterior, first_P_D: Tensor, second_P_D: Tensor) -> tuple[Tensor, Tensor]:
    rewards_S_P_M = posterior.draw(torch.stack([first_P_D, second_P_D], 1), np.random.default_rng(99))
    return belief(rewards_S_P_M, torch.tensor([[0, 1]]).expand(len(first_P_D), 2))


def draws_are_fresh(rewards_S_P_M: Tensor) -> bool:
    """For identical prompts: whether draw 0 varies over prompts as much as draws vary within a prompt."""
    over_prompts = rewards_S_P_M[0].var(0).mean()
    over_draws = rewards_S_P_M.var(0).mean()
    return bool(over_prompts > over_draws / 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_prompt_gets_its_own_draw(family: str, linear_bandit: Callable[..., Any]) -> None:
    posterior = make(family)
    teach(posterior, linear_bandit(D, 2.0, seed=0), 32)
    one_prompt_M_D = torch.from_numpy(np.random.default_rng(0).normal(size=(5, D))).float()
    rewards_S_P_M = posterior.draw(one_prompt_M_D.expand(300, 5, D), np.random.default_rng(1))
    assert draws_are_fresh(rewards_S_P_M)
    one_draw_for_all = rewards_S_P_M[:, :1].expand_as(rewards_S_P_M)
    assert not draws_are_fresh(one_draw_for_all)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_place_along_the_draws_has_the_same_distribution(family: str) -> None:
    prompts, members = 4000, 5
    features_P_M_D = torch.ones(prompts, 1, D)
    rewards_S_P = make(family, members=members).draw(features_P_M_D, np.random.default_rng(3))[..., 0]
    errors_S = rewards_S_P.std(1) / np.sqrt(prompts)
    # Places are dependent, so differences of their means may have up to twice the error.
    assert float((rewards_S_P.mean(1) - rewards_S_P.mean()).abs().max()) < 5 * float(errors_S.max())
    sorted_S_P = rewards_S_P.sort(0).values
    assert float((sorted_S_P.mean(1) - sorted_S_P.mean()).abs().max()) > 5 * float(errors_S.max())


def test_the_draws_of_an_ensemble_are_its_heads_each_once() -> None:
    features_P_M_D = torch.ones(6, 2, D)
    rewards_K_P_M = make("ensemble").draw(features_P_M_D, np.random.default_rng(0))
    sorted_K_P_M = rewards_K_P_M.sort(0).values
    torch.testing.assert_close(sorted_K_P_M, sorted_K_P_M[:, :1, :1].expand_as(sorted_K_P_M))
    assert len(sorted_K_P_M[:, 0, 0].unique()) == 20


@pytest.mark.parametrize("family", FAMILIES)
def test_one_draw_is_one_reward_function_for_all_candidates(family: str) -> None:
    features_P_M_D = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, D))).float()
    features_P_M_D[:, 2] = features_P_M_D[:, 0]
    rewards_S_P_M = make(family).draw(features_P_M_D, np.random.default_rng(0))
    torch.testing.assert_close(rewards_S_P_M[..., 2], rewards_S_P_M[..., 0])
    assert not torch.allclose(rewards_S_P_M[..., 1], rewards_S_P_M[..., 0])


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_are_a_function_of_the_generator(family: str) -> None:
    posterior, features_P_M_D = make(family), torch.ones(3, 2, D)
    first, again, other = (posterior.draw(features_P_M_D, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_accuracy_grows_and_disagreement_shrinks_with_labels(family: str, linear_bandit: Callable[..., Any]) -> None:
    bandit = linear_bandit(D, 2.0, seed=1)
    first_P_D, second_P_D, chance_P = bandit.duels(1000)
    posterior = make(family)
    accuracies, deviations = [], []
    for labels in (16, 128, 512):
        teach(posterior, bandit, labels)
        mean_P, deviation_P = beliefs(posterior, first_P_D, second_P_D)
        accuracies.append(float(((mean_P > 0.5) == (chance_P > 0.5)).float().mean()))
        deviations.append(float(deviation_P.mean()))
    assert accuracies[0] < accuracies[1] < accuracies[2]
    assert accuracies[2] > 0.9
    assert deviations[0] > deviations[1] > deviations[2]
    assert deviations[2] < 0.75 * deviations[0]


def calibration_error(chance_P: Tensor, mean_P: Tensor) -> float:
    """Mean absolute gap between belief and truth over ten bins of belief, weighted by their size."""
    bins_P = (mean_P * 10).long().clamp(max=9)
    gaps = [
        (chance_P[bins_P == b].mean() - mean_P[bins_P == b].mean()).abs() * (bins_P == b).sum() for b in bins_P.unique()
    ]
    return float(torch.stack(gaps).sum() / len(mean_P))


@pytest.mark.parametrize("family", FAMILIES)
def test_beliefs_are_calibrated(family: str, linear_bandit: Callable[..., Any]) -> None:
    means, sharpened, truths = [], [], []
    for seed in range(3):
        bandit = linear_bandit(D, 1.5, seed)
        posterior = make(family, seed)
        teach(posterior, bandit, 256, batch=64)
        first_P_D, second_P_D, chance_P = bandit.duels(1000)
        mean_P, _ = beliefs(posterior, first_P_D, second_P_D)
        means.append(mean_P)
        sharpened.append((3 * mean_P.logit()).sigmoid())
        truths.append(chance_P)
    assert calibration_error(torch.cat(truths), torch.cat(means)) < 0.05
    assert calibration_error(torch.cat(truths), torch.cat(sharpened)) > 0.1


def reload(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def future(posterior: Posterior, linear_bandit: Callable[..., Any]) -> list[Any]:
    """What a posterior says now and after more labels."""
    bandit = linear_bandit(D, 2.0, seed=7)
    features_P_M_D = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4, D))).float()
    now = posterior.draw(features_P_M_D, np.random.default_rng(0))
    first_N_D, second_N_D, chance_N = bandit.duels(8)
    posterior.add(first_N_D, second_N_D, bandit.labels(chance_N), [f"later-{row}" for row in range(8)])
    metrics = posterior.update(np.random.default_rng(1))
    return [now, posterior.draw(features_P_M_D, np.random.default_rng(2)), metrics, posterior.version, posterior.labels]


def same(left: list[Any], right: list[Any]) -> bool:
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_posterior_continues_bit_for_bit(family: str, linear_bandit: Callable[..., Any]) -> None:
    posterior, resumed = make(family, seed=1), make(family, seed=1)
    teach(posterior, linear_bandit(D, 5.0, seed=2), 64)
    resumed.load_state(reload(posterior.state()))
    assert same(future(posterior, linear_bandit), future(resumed, linear_bandit))


@pytest.mark.parametrize(
    ("family", "part"),
    [("ensemble", part) for part in ("members", "anchors", "priors", "optimiser", "replay", "version")]
    + [
        ("laplace", part)
        for part in (
            "covariance_and_dual_and_root_and_factor",
            "scales",
            "replay_and_covariance_and_dual_and_root_and_factor",
            "version",
        )
    ],
)
def test_a_posterior_resumed_without_a_part_of_its_state_does_not_continue(
    family: str, part: str, linear_bandit: Callable[..., Any]
) -> None:
    posterior, resumed = make(family, seed=1), make(family, seed=2)
    teach(posterior, linear_bandit(D, 5.0, seed=2), 64)
    lacking: dict[str, Any] = {key: resumed.state()[key] for key in part.split("_and_")}
    if part == "replay" and family == "ensemble":
        lacking["counts"] = torch.empty(0, 20)
    resumed.load_state({**posterior.state(), **lacking})
    assert not same(future(posterior, linear_bandit), future(resumed, linear_bandit))


@pytest.mark.parametrize("family", FAMILIES)
def test_later_updates_do_not_reach_into_a_saved_state(family: str, linear_bandit: Callable[..., Any]) -> None:
    posterior = make(family)
    teach(posterior, linear_bandit(D, 2.0, seed=2), 32)
    state = posterior.state()
    saved = reload(state)
    teach(posterior, linear_bandit(D, 2.0, seed=3), 64)
    resumed, expected = make(family), make(family)
    resumed.load_state(state)
    expected.load_state(saved)
    assert same(future(resumed, linear_bandit), future(expected, linear_bandit))


@pytest.mark.parametrize("family", FAMILIES)
def test_updates_count_versions_and_without_labels_change_nothing_else(family: str) -> None:
    posterior, features_P_M_D = make(family), torch.ones(2, 2, D)
    before = posterior.draw(features_P_M_D, np.random.default_rng(0))
    assert posterior.version == 0
    assert posterior.update(np.random.default_rng(0)) == {}
    assert posterior.version == 1
    assert torch.equal(posterior.draw(features_P_M_D, np.random.default_rng(0)), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_of_other_settings_is_refused(family: str, linear_bandit: Callable[..., Any]) -> None:
    posterior = make(family)
    other_family = make(next(name for name in FAMILIES if name != family))
    with pytest.raises(UnfitState, match="posterior: missing"):
        posterior.load_state(other_family.state())
    with pytest.raises(UnfitState, match=r"shape .* not"):
        posterior.load_state(make(family, dimension=D + 1).state())


def test_an_ensemble_with_another_number_of_heads_is_refused() -> None:
    with pytest.raises(UnfitState, match=r"posterior\.members.* of shape \(4, .* and not .*\(3, "):
        make("ensemble", members=3).load_state(make("ensemble", members=4).state())


@pytest.mark.parametrize(
    ("rows", "wins", "ids", "reason"),
    [
        (torch.zeros(2, D), [1.0, 0.0], ["a", "a"], "twice"),
        (torch.zeros(2, D), [1.0, 0.0], ["a", "old"], "twice"),
        (torch.zeros(2, D), [1.0, 1.5], ["a", "b"], r"\[0, 1\]"),
        (torch.zeros(2, D), [1.0], ["a", "b"], "shape"),
        (torch.zeros(2, D + 1), [1.0, 0.0], ["a", "b"], "shape"),
        (torch.full((2, D), torch.nan), [1.0, 0.0], ["a", "b"], "finite"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_labels_that_do_not_fit_are_refused_and_none_is_kept(
    family: str, rows: Tensor, wins: list[float], ids: list[str], reason: str
) -> None:
    posterior = make(family)
    posterior.add(torch.zeros(1, D), torch.zeros(1, D), torch.ones(1), ["old"])
    with pytest.raises(ValueError, match=reason):
        posterior.add(rows, torch.zeros(2, D), torch.tensor(wins), ids)
    assert posterior.labels == 1
