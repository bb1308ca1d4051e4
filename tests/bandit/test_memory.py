"""Labels that are left behind: what they said is kept, in a bounded number of rows."""

import io
from typing import Any

import numpy as np
import pytest
import torch

from sea_agent.bandit import laplace
from sea_agent.bandit.laplace import Laplace
from sea_agent.config import LaplaceConfig
from sea_agent.errors import UnfitState

Tensor = torch.Tensor
FIXED = LaplaceConfig(prior_deviation=2.0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty labels are kept one by one at most, and twenty left behind at a time, for twenty rows at most."""
    monkeypatch.setattr(laplace, "RECENT", 40)
    monkeypatch.setattr(laplace, "_LEFT_BEHIND", 20)
    monkeypatch.setattr(laplace, "_REMAINS", 20)


def duels(count: int, dimension: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features of both sides, and labels of a linear reward of deviation 2."""
    generator = np.random.default_rng([seed, count, dimension])
    first_N_D, second_N_D = torch.from_numpy(generator.normal(size=(2, count, dimension))).float()
    direction_D = torch.from_numpy(np.random.default_rng(dimension).normal(size=dimension)).float()
    chance_N = ((first_N_D - second_N_D) @ direction_D * 2 / dimension**0.5).sigmoid()
    return first_N_D, second_N_D, (torch.from_numpy(generator.random(count)).float() < chance_N).float()


def taught(count: int, dimension: int, batch: int = 10, config: LaplaceConfig | None = FIXED) -> Laplace:
    posterior = Laplace(dimension, config)
    columns = duels(count, dimension)
    for rows in zip(*(column.split(batch) for column in columns), strict=True):
        posterior.add(*rows)
        posterior.update()
    return posterior


def whole(count: int, dimension: int) -> Laplace:
    """The same labels in one fit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laplace, "RECENT", count)
        return taught(count, dimension, batch=count)


def gaussian(posterior: Laplace) -> tuple[Tensor, Tensor]:
    """Mode and covariance of the weights."""
    mean_1_D, covariance_1_D_D = posterior._gaussian(torch.eye(posterior._dimension)[None])
    return mean_1_D[0], covariance_1_D_D[0]


def distance(found: Laplace, expected: Laplace) -> tuple[float, float]:
    """Of the modes in posterior deviations, the root mean square; and of the log variances of any reward, the most."""
    (mode_D, covariance_D_D), (other_D, other_D_D) = gaussian(found), gaussian(expected)
    white_D_D = torch.linalg.inv(torch.linalg.cholesky(other_D_D))
    ratio_D = torch.linalg.eigvalsh(white_D_D @ covariance_D_D @ white_D_D.T)
    return float((white_D_D @ (mode_D - other_D)).square().mean().sqrt()), float(ratio_D.log().abs().max())


def test_leaving_labels_behind_changes_nothing_at_that_moment(small: None) -> None:
    posterior, expected = taught(40, 6), taught(40, 6)
    before = expected.update()
    posterior._leave_behind()
    after = posterior.update()
    assert (len(posterior._memory.targets_K), posterior._replay.kept) == (6, 20)
    assert max(distance(posterior, expected)) < 1e-6
    assert after["log_evidence_per_label"] == pytest.approx(before["log_evidence_per_label"], abs=1e-9)
    posterior._memory.targets_K *= 1.1
    posterior.update()
    assert max(distance(posterior, expected)) > 0.05, "the control"


def test_after_many_rounds_the_posterior_is_that_of_all_labels(small: None) -> None:
    posterior, expected = taught(400, 6), whole(400, 6)
    mode, variance = distance(posterior, expected)
    assert mode < 0.2
    assert variance < 0.3
    assert distance(taught(40, 6), expected)[0] > 1.0, "the control: the last labels alone are far off"


def test_many_labels_at_once_are_left_behind_in_turn(small: None) -> None:
    mode, variance = distance(taught(400, 6, batch=400), whole(400, 6))
    assert mode < 0.2
    assert variance < 0.3


def test_weights_and_the_reverse_of_certain_labels_are_kept(small: None) -> None:
    """Soft labels that count twice, and certain ones that turn out wrong."""

    def learn(posterior: Laplace) -> Laplace:
        first_N_D, second_N_D, wins_N = duels(60, 4)
        wins_N, weights_N = (wins_N * 0.8 + 0.1), torch.full((60,), 2.0)
        first_N_D[::15] *= 20
        for rows in zip(*(column.split(10) for column in (first_N_D, second_N_D, wins_N, weights_N)), strict=True):
            posterior.add(*rows[:3], None, rows[3])
            posterior.update()
        return posterior

    bounded = learn(Laplace(4, FIXED))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laplace, "RECENT", 60)
        exact = learn(Laplace(4, FIXED))
    mode, variance = distance(bounded, exact)
    assert mode < 0.3
    assert variance < 0.4


def test_with_more_to_tell_than_rows_less_is_claimed_and_never_more(small: None) -> None:
    """Between what the labels tell of the weights and what is kept, the difference in precision is nowhere negative."""
    posterior = taught(40, 200)
    posterior._memory._most = 5
    curvature_N = posterior._fit.root_X[:20].square()
    rows_N_D = posterior._replay.differences(0, 20)
    told_D_D = rows_N_D.T @ (curvature_N[:, None] * rows_N_D)
    posterior._leave_behind()
    kept_D_D = posterior._memory.rows_K_D.T @ posterior._memory.rows_K_D
    assert len(posterior._memory.targets_K) == 5
    lost_D = torch.linalg.eigvalsh(told_D_D - kept_D_D)
    assert lost_D.min() > -1e-9
    assert (lost_D > 1e-3).sum() == 15
    assert lost_D.max() < torch.linalg.eigvalsh(kept_D_D)[-5], "the rows that tell most are kept"


def test_rows_stay_bounded_and_every_label_is_counted_once(small: None) -> None:
    posterior = taught(300, 200, config=None)
    assert posterior.labels == 300
    assert posterior._replay.kept <= 40
    assert len(posterior._memory.targets_K) == 20
    assert all(tensor.shape[0] <= 60 for tensor in (posterior._fit.rows_X_D, posterior._fit.factor_X_X))
    first_N_D, second_N_D, wins_N = duels(1, 200)
    with pytest.raises(ValueError, match="added twice"):
        posterior.add(first_N_D, second_N_D, wins_N, ["label-0"])


def reload(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def future(posterior: Laplace, dimension: int) -> list[Any]:
    """What a posterior says now, and after more labels than are kept."""
    features_P_M_D = torch.from_numpy(np.random.default_rng(9).normal(size=(3, 4, dimension))).float()
    said: list[Any] = [posterior.draw(features_P_M_D)]
    for seed in range(5):
        posterior.add(*duels(10, dimension, seed + 1), [f"{seed}-{row}" for row in range(10)])
        said += [posterior.update(), posterior.draw(features_P_M_D), posterior.scales]
    return said


def same(left: list[Any], right: list[Any]) -> bool:
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("part", [None, "memory", "scaled_at"])
def test_a_saved_posterior_goes_on_bit_for_bit_with_all_of_its_state_and_not_without_a_part(
    part: str | None, small: None
) -> None:
    posterior, resumed = taught(190, 12, config=None), Laplace(12)
    state = reload(posterior.state())
    if part == "memory":
        state["memory"]["targets"] = state["memory"]["targets"] + 1.0
    elif part == "scaled_at":
        state["scaled_at"] = 0
    resumed.load_state(state)
    assert same(future(posterior, 12), future(resumed, 12)) is (part is None)


def test_labels_added_since_the_last_update_travel_with_the_state(small: None) -> None:
    posterior, resumed = taught(90, 12), Laplace(12, FIXED)
    posterior.add(*duels(10, 12, 7), [f"late-{row}" for row in range(10)])
    resumed.load_state(reload(posterior.state()))
    assert same(future(posterior, 12), future(resumed, 12))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dual": torch.zeros(99, dtype=torch.float64)}, r"posterior\.covariance"),
        (
            {
                "memory": {
                    "rows": torch.zeros(3, 11),
                    "targets": torch.zeros(3),
                    "people": torch.zeros(3),
                    "constant": 0.0,
                }
            },
            r"posterior\.memory\.rows",
        ),
        ({"memory": {"rows": torch.zeros(0, 12)}}, r"posterior\.memory: missing"),
    ],
)
def test_a_state_that_is_none_is_refused_by_name(change: dict[str, Any], reason: str, small: None) -> None:
    with pytest.raises(UnfitState, match=reason):
        Laplace(12, FIXED).load_state(taught(90, 12).state() | change)


def test_a_fit_to_more_observations_than_there_are_is_refused(small: None) -> None:
    state = taught(90, 12).state()
    replay = state["replay"]
    for name in ("first", "second", "wins", "weights", "people"):
        replay[name] = replay[name][1:]
    replay["forgotten"] += 1
    with pytest.raises(UnfitState, match="observations, and there are"):
        Laplace(12, FIXED).load_state(state)
