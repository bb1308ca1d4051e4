"""The prompts that are kept are those whose responses the policy can predict least."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sea_agent.bandit.prompt_choice import most_uncertain

logprobs = st.lists(st.lists(st.floats(-50, 0), min_size=3, max_size=3), min_size=1, max_size=8)


def test_the_highest_entropy_is_kept_and_not_the_lowest() -> None:
    sure, doubtful, lost = [-0.1, -0.2], [-3.0, -5.0], [-20.0, -30.0]
    rows = torch.tensor([doubtful, lost, sure, lost])
    assert most_uncertain(rows, 2) == [1, 3]
    assert most_uncertain(-rows, 1) == [2], "the control: turned round, the sure one would be kept"


def test_entropy_is_the_mean_over_samples_and_not_the_most_surprising_one() -> None:
    one_outlier, steady = [-0.1, -0.1, -9.0], [-4.0, -4.0, -4.0]
    assert most_uncertain(torch.tensor([one_outlier, steady]), 1) == [1]


def test_among_equals_the_earlier_prompts_stay() -> None:
    assert most_uncertain(torch.full((5, 2), -1.0), 3) == [0, 1, 2]


@given(rows=logprobs, count=st.integers(1, 8))
def test_every_kept_prompt_is_at_least_as_uncertain_as_every_other(rows: list[list[float]], count: int) -> None:
    kept = most_uncertain(torch.tensor(rows, dtype=torch.float64), count)
    assert kept == sorted(set(kept))
    assert len(kept) == min(count, len(rows))
    entropy = (-torch.tensor(rows, dtype=torch.float64).mean(1)).tolist()
    dropped = [entropy[index] for index in range(len(rows)) if index not in kept]
    assert all(entropy[index] >= value for index in kept for value in dropped)
