"""A posterior that tells people apart is one on features of who answered, and worth as much as their tastes differ."""

import pytest
import torch
from torch import Tensor

from sea_agent.bandit.laplace import Fit, Laplace
from sea_agent.bandit.people import People
from sea_agent.config import LaplaceConfig
from sea_agent.errors import UnfitState

D = 4
FIXED = LaplaceConfig(prior_deviation=1.5)
NAMES = ["ann", "bob", "cid"]


def rows(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed))


class Known(People):
    """People whose tastes are given and not fitted."""

    def __init__(self, shared: float, own: float, axes_Q_A: Tensor) -> None:
        super().__init__(axes_Q_A.shape[1])
        self._logs_2, self._given_Q_A = torch.tensor([shared, own], dtype=torch.float64).log(), axes_Q_A

    def meet(self, who):  # type: ignore[no-untyped-def]
        places_N = super().meet(who)
        self._axes_Q_A = self._given_Q_A[: len(self._places)]
        return places_N

    def fit(self, *_: object) -> None:
        pass


def answers(count: int) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    first, second = rows(count, 1), rows(count, 2)
    wins = (rows(count, 3)[:, 0] > 0).float()
    return first, second, wins, [NAMES[n % 3] for n in range(count)]


def crossed(features: Tensor, loadings: Tensor) -> Tensor:
    """Features times loadings of who sees them, which makes people a matter of features."""
    return (features[..., None] * loadings.to(features.dtype)[..., None, :]).flatten(-2)


AXES = torch.tensor([[1.0, 0.0], [-1.0, 0.3], [0.2, 0.8]], dtype=torch.float64)


@pytest.fixture
def both() -> tuple[Laplace, Laplace, Known]:
    """Posteriors that have seen the same: by covariances of people, and by crossed features of one person."""
    people = Known(0.8, 0.5, AXES)
    told = Laplace(D, FIXED, people=people)
    first, second, wins, who = answers(36)
    told.add(first, second, wins, who=who)
    told.update()
    loadings = people.loadings(who)
    width = D * loadings.shape[1]
    # The prior of a weight is s²/D whatever it is crossed with.
    plain = Laplace(width, LaplaceConfig(prior_deviation=1.5 * (width / D) ** 0.5))
    plain.add(crossed(first, loadings), crossed(second, loadings), wins)
    plain.update()
    return told, plain, people


@pytest.mark.parametrize("name", ["ann", "bob", "cid", "dora", None])
def test_it_is_the_posterior_on_features_crossed_with_who_answered(
    both: tuple[Laplace, Laplace, Known], name: str | None
) -> None:
    told, plain, people = both
    first, second = rows(7, 4), rows(7, 5)
    loadings = people.loadings([name] * 7)
    expected = plain.chance(crossed(first, loadings), crossed(second, loadings))
    assert torch.allclose(told.chance(first, second, [name] * 7), expected, atol=1e-6)
    mean = plain.mean(crossed(first, loadings)[None])
    assert torch.allclose(told.mean(first[:, None], [name] * 7)[:, 0], mean[0], atol=1e-5)


def test_a_prompt_is_seen_in_the_eyes_of_its_own_person(both: tuple[Laplace, Laplace, Known]) -> None:
    told, _, _ = both
    features = rows(6, 6).view(2, 3, D)
    mixed = told.mean(features, ["ann", "bob"])
    assert torch.equal(mixed[0], told.mean(features, ["ann", "ann"])[0])
    assert not torch.allclose(mixed[1], told.mean(features, ["ann", "ann"])[1], atol=1e-3)


def test_people_on_average_are_the_mean_of_all(both: tuple[Laplace, Laplace, Known]) -> None:
    told, _, _ = both
    features = rows(5, 7)[None]
    each = torch.stack([told.mean(features, [name])[0] for name in NAMES])
    assert torch.allclose(told.mean(features)[0], each.mean(0), atol=1e-5)


def test_what_was_left_behind_is_remembered_of_each_person(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, wins, who = answers(120)

    def learnt() -> Laplace:
        posterior = Laplace(D, FIXED, people=Known(0.8, 0.5, AXES))
        for start in range(0, 120, 12):
            part = slice(start, start + 12)
            posterior.add(first[part], second[part], wins[part], who=who[part])
            posterior.update()
        return posterior

    kept = learnt()
    monkeypatch.setattr("sea_agent.bandit.laplace.RECENT", 40)
    monkeypatch.setattr("sea_agent.bandit.laplace._LEFT_BEHIND", 20)
    behind = learnt()
    assert behind._replay.kept <= 40

    def difference(name: str) -> float:
        asked = (rows(9, 8), rows(9, 9), [name] * 9)
        return float((behind.chance(*asked) - kept.chance(*asked)).abs().max())

    assert max(map(difference, NAMES)) < 0.03
    behind._memory.places_K = torch.zeros_like(behind._memory.places_K)  # the control: all of it taken for Ann's
    behind._fit = Fit.to_nothing(D)
    behind._fit_to(behind._replay.kept)
    assert difference("bob") > 0.03


def opposed(count: int, seed: int, shuffled: bool = False) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Six people in two camps that want the opposite of each other."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(count, 8, generator=generator) for _ in range(2))
    taste = torch.randn(8, generator=torch.Generator().manual_seed(99)) * 1.5
    places = torch.randint(6, (count,), generator=generator)
    sign = torch.where(places < 3, 1.0, -1.0)
    chance = torch.sigmoid(sign * ((first - second) @ taste))
    wins = (torch.rand(count, generator=generator) < chance).float()
    if shuffled:
        places = places[torch.randperm(count, generator=generator)]
    return first, second, wins, [f"p{place}" for place in places.tolist()]


def accuracy(posterior: Laplace, seed: int) -> float:
    """Of the order of unseen pairs, each in the eyes of its person."""
    first, second, wins, who = opposed(600, seed)
    return float(((posterior.chance(first, second, who) > 0.5).float() == wins).float().mean())


def test_opposed_tastes_are_told_apart_and_help_each_other() -> None:
    found = {}
    for name, shuffled in (("told", False), ("shuffled", True), ("pooled", False)):
        people = None if name == "pooled" else People(2)
        posterior = Laplace(8, people=people)
        first, second, wins, who = opposed(120, 1, shuffled)
        posterior.add(first, second, wins, who=who)
        posterior.update()
        found[name] = accuracy(posterior, 2)
    alone = []
    for person in range(6):
        first, second, wins, who = opposed(120, 1)
        own = torch.tensor([name == f"p{person}" for name in who])
        posterior = Laplace(8)
        posterior.add(first[own], second[own], wins[own])
        posterior.update()
        first, second, wins, who = opposed(600, 2)
        own = torch.tensor([name == f"p{person}" for name in who])
        right = (posterior.chance(first, second) > 0.5).float() == wins
        alone.append(float(right[own].float().mean()))
    assert found["told"] > sum(alone) / 6 + 0.03
    assert found["told"] > found["pooled"] + 0.2
    assert found["shuffled"] < found["pooled"] + 0.05


def test_a_state_continues_bit_for_bit() -> None:
    first, second, wins, who = answers(30)
    whole, half = Laplace(D, people=People(2, 5)), Laplace(D, people=People(2, 5))
    for posterior in (whole, half):
        posterior.add(first[:15], second[:15], wins[:15], who=who[:15])
        posterior.update()
    resumed = Laplace(D, people=People(2, 5))
    resumed.load_state(half.state())
    for posterior in (whole, resumed):
        posterior.add(first[15:], second[15:], wins[15:], [f"x{n}" for n in range(15)], who=[*who[15:28], "new", "new"])
        posterior.update()
    for name in (*NAMES, "new", "nobody", None):
        assert torch.equal(whole.chance(first, second, [name] * 30), resumed.chance(first, second, [name] * 30))


def test_a_state_of_the_other_setting_is_refused() -> None:
    with pytest.raises(UnfitState, match=r"posterior\.people"):
        Laplace(D).load_state(Laplace(D, people=People()).state())


def test_answers_without_a_name_are_refused() -> None:
    first, second, wins, _ = answers(3)
    with pytest.raises(ValueError, match="who answered"):
        Laplace(D, people=People()).add(first, second, wins)
