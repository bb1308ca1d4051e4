"""Token sequences for scoring: collation and the log-probabilities of responses.

Dimensions: N sequences, T positions, L scored positions (the last L of T), V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sea_agent.types import TokenRow

Tensor = torch.Tensor


@dataclass(frozen=True)
class Batch:
    """Prompts followed by their responses, padded on the right.

    ``token_ids_N_T`` and ``attention_mask_N_T`` go into the model. ``response_mask_N_L`` marks, among the last L
    positions, the tokens that are part of a response; L leaves out the positions that are prompt in every row.
    """

    token_ids_N_T: Tensor
    attention_mask_N_T: Tensor
    response_mask_N_L: Tensor

    @property
    def lengths_N(self) -> Tensor:
        """Response lengths in tokens."""
        return self.response_mask_N_L.sum(1)


def collate(rows: Sequence[TokenRow], pad_id: int, device: str | torch.device = "cpu") -> Batch:
    """The rows as one right-padded batch.

    Raises:
        ValueError: when a prompt or a response has no token; a response's first token is scored from the prompt.
    """
    for prompt, response in rows:
        if not prompt or not response:
            raise ValueError(f"cannot score {len(response)} response tokens after {len(prompt)} prompt tokens")
    width = max(len(prompt) + len(response) for prompt, response in rows)
    first = min(len(prompt) for prompt, _ in rows)
    token_ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    attention = torch.zeros((len(rows), width), dtype=torch.long)
    response_mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        token_ids[index, :end] = torch.tensor([*prompt, *response])
        attention[index, :end] = 1
        response_mask[index, len(prompt) : end] = True
    return Batch(token_ids.to(device), attention.to(device), response_mask[:, first:].to(device))


def token_logprobs(model: Callable[..., Any], batch: Batch) -> Tensor:
    """(N, L) natural-log probability of each response token, at temperature 1; 0 outside the response mask.

    Logits are asked for only where some row has a response token, and normalised by a log-sum-exp, so that no
    second (N, L, V) tensor of log-probabilities is kept.
    """
    scored = batch.response_mask_N_L.shape[1]
    output = model(
        input_ids=batch.token_ids_N_T,
        attention_mask=batch.attention_mask_N_T,
        logits_to_keep=scored + 1,
        use_cache=False,
    )
    logits_N_L_V = output.logits[:, -scored - 1 : -1].float()
    targets_N_L = batch.token_ids_N_T[:, -scored:]
    chosen_N_L = logits_N_L_V.gather(2, targets_N_L.unsqueeze(2)).squeeze(2)
    logprobs_N_L = chosen_N_L - torch.logsumexp(logits_N_L_V, dim=2)
    return logprobs_N_L.masked_fill(~batch.response_mask_N_L, 0.0)


def rows_of(values_N_L: Tensor, batch: Batch) -> list[list[float]]:
    """The values of each row's response tokens, in order."""
    pairs = zip(values_N_L.detach().cpu(), batch.response_mask_N_L.cpu(), strict=True)
    return [values[mask].tolist() for values, mask in pairs]
