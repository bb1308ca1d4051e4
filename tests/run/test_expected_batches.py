"""How many batches of preferences a run is expected to learn from: what the cosine schedule is laid out for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_agent.bandit.mixing import imagined_rounds
from sea_agent.config import RunConfig
from sea_agent.config.files import parse_config
from sea_agent.run.assembly import expected_batches


def config(budget: int, batch: int, start: int, rounds: int, batches: int = 1, **mixing: Any) -> RunConfig:
    return parse_config(
        {
            "policy": {"path": "unused"},
            "prompts": {"path": "unused.jsonl"},
            "oracle": {"kind": "world"},
            "budget": {"oracle_queries": budget},
            "batch_size": batch,
            "imagination": {"rounds": rounds, "start": start, "batches": batches},
            "mixing": mixing,
        },
        where="test",
    )


def foreseen(settings: RunConfig, prompts: int) -> int:
    duels = min(settings.batch_size, prompts)
    return expected_batches(settings.budget.oracle_queries, duels, settings.mixing, settings.imagination)


@given(
    budget=st.integers(1, 200),
    batch=st.integers(1, 32),
    start=st.integers(0, 250),
    rounds=st.integers(0, 5),
    batches=st.integers(1, 4),
    prompts=st.integers(1, 40),
)
def test_the_batches_of_the_loop_are_foreseen(
    budget: int, batch: int, start: int, rounds: int, batches: int, prompts: int
) -> None:
    settings = config(budget, batch, start, rounds, batches)
    labels = played = 0
    while labels < budget:
        labels = min(budget, labels + min(batch, prompts))
        played += 1 + batches * imagined_rounds(settings.imagination, labels)
    assert foreseen(settings, prompts) == played


@pytest.mark.parametrize(
    ("burn_in", "expected"),
    [
        (0, 20 + 2 * 17),  # 5 labels a round on average; the 4th round brings 20
        (20, 2 + 16 + 2 * 17),  # 10, 20, then 5 a round; from the 2nd round on
        (100, 10 + 2 * 9),
    ],
)
def test_a_share_of_the_labels_takes_as_many_more_rounds(burn_in: int, expected: int) -> None:
    settings = config(100, 10, 20, 2, oracle_share=0.5, burn_in=burn_in)
    assert foreseen(settings, 1000) == expected
