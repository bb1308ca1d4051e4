"""Preference losses against values worked out by hand, and invariants."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.losses import LOSSES, Pairs, PreferenceLoss
from sea_agent.config import LearnerConfig
from sea_agent.config import parts as config

# One pair: log-ratios to the reference of +0.5 and -1, so h = 1.5; 4 and 2 tokens.
CHOSEN, REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED = -3.0, -5.0, -3.5, -4.0
CHOSEN_LENGTH, REJECTED_LENGTH = 4, 2


def softplus(value: float) -> float:
    """-log sigma(-value)."""
    return math.log1p(math.exp(value))


def sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))


# Name, beta, options, loss, and its derivatives by the chosen and the rejected log-probability.
KNOWN = [
    ("dpo", 2.0, {}, softplus(-3.0), -2.0 * sigmoid(-3.0), 2.0 * sigmoid(-3.0)),
    (
        "dpo",
        2.0,
        {"label_smoothing": 0.1},
        0.9 * softplus(-3.0) + 0.1 * softplus(3.0),
        -2.0 * (0.9 * sigmoid(-3.0) - 0.1 * sigmoid(3.0)),
        2.0 * (0.9 * sigmoid(-3.0) - 0.1 * sigmoid(3.0)),
    ),
    ("ipo", 0.5, {}, 0.25, 1.0, -1.0),
    # Per token: 0.5/4 + 1/2 = 0.625, target 1.
    ("ipo", 0.5, {"length_average": True}, 0.375**2, -0.75 / 4, 0.75 / 2),
    ("slic", 0.5, {}, 0.25, -0.5, 0.5),
    ("slic", 1.0, {}, 0.0, 0.0, 0.0),
    # Means -0.75 and -2.5: 2 * 1.75 - 1 = 2.5.
    ("simpo", 2.0, {"margin": 1.0}, softplus(-2.5), -2.0 / 4 * sigmoid(-2.5), 2.0 / 2 * sigmoid(-2.5)),
    ("rpo", 2.0, {"nll_weight": 0.2}, softplus(-3.0) + 0.2 * 0.75, -2.0 * sigmoid(-3.0) - 0.05, 2.0 * sigmoid(-3.0)),
]


@pytest.mark.parametrize(("name", "beta", "options", "value", "by_chosen", "by_rejected"), KNOWN)
def test_loss_and_gradient_equal_the_closed_form(
    name: str, beta: float, options: dict[str, Any], value: float, by_chosen: float, by_rejected: float
) -> None:
    chosen = torch.tensor([CHOSEN], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([REJECTED], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([REFERENCE_CHOSEN]), torch.tensor([REFERENCE_REJECTED])
    lengths = torch.tensor([CHOSEN_LENGTH]), torch.tensor([REJECTED_LENGTH])
    loss = LOSSES[name](Pairs(chosen, rejected, *reference, *lengths), beta=beta, **options)
    loss.sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert loss.item() == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert chosen.grad.item() == pytest.approx(by_chosen, rel=1e-9, abs=1e-12)
    assert rejected.grad.item() == pytest.approx(by_rejected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "rpo"])
def test_gradient_equals_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    scores = [(-torch.rand(5, dtype=torch.float64, generator=generator)).requires_grad_() for _ in range(4)]
    lengths = [torch.arange(1, 6), torch.arange(6, 1, -1)]
    assert torch.autograd.gradcheck(lambda *values: LOSSES[name](Pairs(*values, *lengths), beta=0.7), scores)


numbers = st.floats(-20, 0, allow_nan=False)
pair_lists = st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=6)


def loss_of(
    rows: Sequence[tuple[float, ...]], name: str, shift: float = 0.0, policy_shift: float = 0.0
) -> torch.Tensor:
    chosen, rejected, reference_chosen, reference_rejected = torch.tensor(rows, dtype=torch.float64).T
    ones = torch.full_like(chosen, 3.0)
    policy = chosen + shift + policy_shift, rejected + shift
    pairs = Pairs(*policy, reference_chosen + shift, reference_rejected + shift, ones, ones)
    return LOSSES[name](pairs, beta=0.3)


@given(pair_lists, st.sampled_from(["dpo", "ipo", "slic", "simpo", "rpo"]))
def test_every_pair_has_its_own_value(rows: list[tuple[float, ...]], name: str) -> None:
    together = loss_of(rows, name)
    assert together.shape == (len(rows),)
    alone = torch.cat([loss_of([row], name) for row in rows])
    assert torch.allclose(together, alone, rtol=1e-12, atol=1e-12)


@given(pair_lists, st.sampled_from(["dpo", "ipo", "slic", "simpo"]), st.floats(-5, 5))
def test_adding_a_constant_to_policy_and_reference_changes_nothing(
    rows: list[tuple[float, ...]], name: str, shift: float
) -> None:
    assert torch.allclose(loss_of(rows, name, shift), loss_of(rows, name), rtol=1e-9, atol=1e-9)


def test_adding_a_constant_to_one_response_of_the_policy_changes_the_loss() -> None:
    rows = [(CHOSEN, REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED)]
    for name in ("dpo", "ipo", "slic", "simpo"):
        assert not torch.allclose(loss_of(rows, name, policy_shift=0.5), loss_of(rows, name))


@given(pair_lists, st.sampled_from(["dpo", "slic", "simpo"]), st.floats(0.01, 5))
def test_a_likelier_chosen_response_never_raises_the_loss(
    rows: list[tuple[float, ...]], name: str, rise: float
) -> None:
    assert (loss_of(rows, name, policy_shift=rise) <= loss_of(rows, name) + 1e-12).all()


@pytest.mark.parametrize(
    ("name", "options"), [("simpo", {}), ("rpo", {}), ("ipo", {"length_average": True})], ids=lambda value: str(value)
)
def test_a_length_averaged_loss_without_lengths_is_refused(name: str, options: dict[str, Any]) -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="chosen_lengths"):
        LOSSES[name](Pairs(one, one, one, one), beta=0.1, **options)


def test_a_loss_without_its_reference_is_refused() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="reference_chosen"):
        LOSSES["dpo"](Pairs(one, one), beta=0.1)


def test_each_setting_of_a_loss_reaches_its_formula() -> None:
    changed = LearnerConfig(label_smoothing=0.2, ipo_length_average=True, simpo_margin=0.7, rpo_nll_weight=0.4)
    expected = {
        "dpo": {"label_smoothing": 0.2},
        "ipo": {"length_average": True},
        "slic": {},
        "simpo": {"margin": 0.7},
        "rpo": {"nll_weight": 0.4, "label_smoothing": 0.2},
    }
    assert set(config.LOSSES) == set(LOSSES) == set(expected)
    for name, options in expected.items():
        assert PreferenceLoss(changed.model_copy(update={"loss": name})).options == {"beta": 0.1, **options}


def test_the_margin_is_the_argument_of_the_loss() -> None:
    values = [torch.tensor([value]) for value in (CHOSEN, REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED, 4.0, 2.0)]
    pairs = Pairs(*values)
    for changes, expected in (
        ({"loss": "dpo"}, 3.0),
        ({"loss": "ipo", "ipo_length_average": True}, 1.25),
        ({"loss": "simpo"}, 3.5),
    ):
        loss = PreferenceLoss(LearnerConfig(beta=2.0, **changes))
        assert loss.margin(pairs).item() == pytest.approx(expected)
