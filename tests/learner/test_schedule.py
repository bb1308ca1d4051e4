"""The learning-rate schedule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.schedule import learning_rate_multiplier


def test_warm_up_is_linear_and_its_first_step_is_not_zero() -> None:
    values = [learning_rate_multiplier(step, warmup_steps=4, total_steps=100, schedule="constant") for step in range(6)]
    assert values == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_is_one_after_warm_up_half_in_the_middle_and_zero_at_the_end() -> None:
    def at(step: int) -> float:
        return learning_rate_multiplier(step, warmup_steps=10, total_steps=110, schedule="cosine")

    assert [at(10), at(60), at(110), at(500)] == pytest.approx([1.0, 0.5, 0.0, 0.0])


@given(st.integers(0, 300), st.integers(0, 50), st.integers(1, 300), st.sampled_from(["constant", "cosine"]))
def test_the_multiplier_is_a_share(step: int, warmup: int, total: int, schedule: str) -> None:
    value = learning_rate_multiplier(step, warmup_steps=warmup, total_steps=total, schedule=schedule)  # type: ignore[arg-type]
    assert 0.0 <= value <= 1.0
