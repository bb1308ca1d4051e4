"""Collation and response log-probabilities."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_learners import preferences_of, rows_of_preferences

from learner.sequences import Batch, collate, rows_of, token_logprobs
from sea_agent.pretrained import load_policy

ROWS = [((5, 6, 7), (8, 9)), ((3,), (4, 10, 11, 1))]


def reference_scores(model: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> list[float]:
    """Each response token's log-probability from one unpadded forward pass and a full log-softmax."""
    ids = torch.tensor([[*prompt, *response]])
    logprobs = torch.log_softmax(model(input_ids=ids).logits[0].double(), dim=-1)
    return [float(logprobs[len(prompt) + index - 1, token]) for index, token in enumerate(response)]


@torch.no_grad()
def test_batched_scores_equal_a_full_log_softmax_of_each_sequence_alone(policy_path: str) -> None:
    model = load_policy(policy_path, "float32", "cpu")
    rows = [*ROWS, *rows_of_preferences(preferences_of(8))]
    batch = collate(rows)
    for (prompt, response), scores in zip(rows, rows_of(token_logprobs(model, batch), batch), strict=True):
        assert scores == pytest.approx(reference_scores(model, prompt, response), abs=2e-5)


def test_lengths_count_response_tokens() -> None:
    assert collate(ROWS).lengths_N.tolist() == [2, 4]


def gradient_by_position(batch: Batch) -> torch.Tensor:
    """Whether the summed log-probabilities depend on the logits at each position, (N, T)."""
    logits = torch.zeros(*batch.token_ids_N_T.shape, 12, requires_grad=True)

    def model(logits_to_keep: int, **_: Any) -> Any:
        return SimpleNamespace(logits=logits[:, -logits_to_keep:])

    token_logprobs(model, batch).sum().backward()
    assert logits.grad is not None
    return logits.grad.abs().sum(-1) > 0


def test_only_positions_that_predict_response_tokens_carry_gradient() -> None:
    carries = gradient_by_position(collate(ROWS))
    assert carries.int().tolist() == [[0, 0, 1, 1, 0], [1, 1, 1, 1, 0]]


def test_a_mask_that_lets_the_prompt_in_is_noticed() -> None:
    batch = collate(ROWS)
    leaky = Batch(batch.token_ids_N_T, batch.attention_mask_N_T, torch.ones_like(batch.response_mask_N_L))
    assert not torch.equal(gradient_by_position(leaky), gradient_by_position(batch))


@torch.no_grad()
def test_what_stands_in_the_padding_does_not_matter(policy_path: str) -> None:
    model = load_policy(policy_path, "float32", "cpu")
    zeros = collate([*ROWS, ((5,), (6,))])
    padded = zeros.token_ids_N_T.masked_fill(zeros.attention_mask_N_T == 0, 7)
    assert not torch.equal(padded, zeros.token_ids_N_T)
    sevens = replace(zeros, token_ids_N_T=padded)
    assert torch.equal(token_logprobs(model, zeros), token_logprobs(model, sevens))


@torch.no_grad()
def test_what_stands_in_the_prompt_matters(policy_path: str) -> None:
    model = load_policy(policy_path, "float32", "cpu")
    other = [((5, 6, 12), ROWS[0][1]), ROWS[1]]
    first, second = collate(ROWS), collate(other)
    changed = (token_logprobs(model, first) - token_logprobs(model, second)).abs().sum(1)
    assert changed[0] > 1e-3
    assert changed[1] == 0


@pytest.mark.parametrize("row", [((), (3,)), ((3,), ())])
def test_a_row_without_prompt_or_response_is_refused(row: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="tokens after"):
        collate([row])
