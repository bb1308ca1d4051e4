"""Collation of token sequences and log-probabilities of responses.

Dimensions: N sequences, T positions, L scored positions (the last L of T), V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from sea_agent.types import TokenRow

Tensor = torch.Tensor


@dataclass(frozen=True)
class Batch:
    """Prompts followed by their responses, padded on the right.

    ``token_ids_N_T`` and ``attention_mask_N_T`` are the model's inputs. ``response_mask_N_L`` marks the response tokens
    among the last L positions; L excludes the positions that belong to the prompt in every row.
    """

    token_ids_N_T: Tensor
    attention_mask_N_T: Tensor
    response_mask_N_L: Tensor

    @property
    def lengths_N(self) -> Tensor:
        """Response lengths in tokens."""
        return self.response_mask_N_L.sum(1)


def collate(rows: Sequence[TokenRow], device: str | torch.device = "cpu") -> Batch:
    """The rows as one batch, padded on the right with token 0, which every model has and attention never sees.

    Raises:
        ValueError: a prompt or a response is empty.
    """
    for prompt, response in rows:
        if not prompt or not response:
            raise ValueError(f"cannot score {len(response)} response tokens after {len(prompt)} prompt tokens")
    token_ids = pad_sequence([torch.tensor([*prompt, *response]) for prompt, response in rows], True)
    starts, ends = torch.tensor([(len(prompt), len(prompt) + len(response)) for prompt, response in rows]).T[..., None]
    position = torch.arange(token_ids.shape[1])
    attention, response_mask = position < ends, (position >= starts) & (position < ends)
    first = int(starts.min())
    return Batch(token_ids.to(device), attention.long().to(device), response_mask[:, first:].to(device))


def token_logprobs(model: Callable[..., Any], batch: Batch) -> Tensor:
    """(N, L) log-probability of each response token, in nats, at temperature 1; 0 outside the response mask.

    The model returns logits only from the first response token on. Log-sum-exp normalises them without a second
    (N, L, V) tensor.
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
