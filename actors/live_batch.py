"""Rows that transformers computes together, one token each a step, while others join and leave.

transformers' own continuous batching was tried: it draws from the global generator, reports log-probabilities after the
temperature, knows no priorities, and takes no model with a recurrent state. So rows are batched here, over the caches
and the preparation of inputs that ``generate`` uses.

Dimensions: R rows, L positions with padding on the left, V vocabulary.
"""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch

from actors.hf_sampler import draw_tokens, uniforms
from actors.live import LiveRequest, is_whole
from actors.live_cache import is_joinable, join, select


class Row:
    """A response that grows."""

    def __init__(self, request: LiveRequest) -> None:
        self.request = request
        self.tokens = list(request.done)
        self.logprobs: list[float] = []
        """Of the tokens that were drawn here, in nats."""
        self.is_over = False
        """It has ended, or nobody waits for it any more; its batch may go on computing it, to no effect."""
        self._uniforms = uniforms(request.seed, request.max_new_tokens)

    @property
    def context(self) -> tuple[int, ...]:
        """Prompt and response so far."""
        return (*self.request.prompt_ids, *self.tokens)

    @property
    def uniform(self) -> float:
        """The random number of the next step."""
        return float(self._uniforms[len(self.tokens)])

    def has_ended(self, end_ids: Sequence[int]) -> bool:
        """Whether it has its end token, or all its tokens."""
        return is_whole(self.tokens, self.request.max_new_tokens, end_ids)

    def replaced(self) -> "Row":
        """A row that goes on from here, in place of this one."""
        self.is_over = True
        return Row(replace(self.request, done=tuple(self.tokens)))


class RowBatch:
    """Rows and what the model has cached of them: all of their contexts but the last token."""

    def __init__(self, model: Any, rows: Sequence[Row], mask_R_L: torch.Tensor, state: dict[str, Any]) -> None:
        self._model, self.rows, self._mask_R_L, self._state = model, list(rows), mask_R_L, state
        taken = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in taken
        # A prompt's logits may be larger than the model.
        self._only_last = {"logits_to_keep": 1} if "logits_to_keep" in taken else {}

    @classmethod
    @torch.inference_mode()
    def begin(cls, model: Any, rows: Sequence[Row], device: str) -> Self:
        """Compute contexts of one length, equal ones once, and draw each row's next token."""
        contexts = [row.context for row in rows]
        distinct = list(dict.fromkeys(contexts))
        batch = cls(model, rows, torch.ones(len(distinct), len(distinct[0]), dtype=torch.long, device=device), {})
        logits_R_V = batch._forward(torch.tensor(distinct, device=device), is_first_iteration=True)
        if len(distinct) < len(rows):
            if batch.is_joinable:
                places_R = torch.tensor([distinct.index(context) for context in contexts], device=device)
                batch._select(places_R, len(distinct[0]))
                logits_R_V = logits_R_V[places_R]
            else:  # each row needs a state of its own
                ids_R_L = torch.tensor(contexts, device=device)
                batch = cls(model, rows, torch.ones_like(ids_R_L), {})
                logits_R_V = batch._forward(ids_R_L, is_first_iteration=True)
        batch._draw(logits_R_V)
        return batch

    @property
    def is_joinable(self) -> bool:
        """Whether rows can join and leave; those of other models are computed to the end of the last."""
        return len(self._state) == 1 and is_joinable(self._cache)

    @property
    def _cache(self) -> Any:
        """What the model cached, whatever it calls it."""
        [cache] = self._state.values()
        return cache

    def join(self, others: Sequence["RowBatch"]) -> None:
        """Take the rows of other batches. All must be joinable."""
        batches = [self, *others]
        length = max(batch._mask_R_L.shape[1] for batch in batches)
        self._mask_R_L = torch.cat(
            [torch.nn.functional.pad(one._mask_R_L, (length - one._mask_R_L.shape[1], 0)) for one in batches]
        )
        join([batch._cache for batch in batches])
        self.rows = [row for batch in batches for row in batch.rows]

    def keep(self, rows: Sequence[Row]) -> None:
        """Drop all other rows, and the padding that only they needed. It must be joinable."""
        kept = [index for index, row in enumerate(self.rows) if row in rows]
        self.rows = [self.rows[index] for index in kept]
        places_R = torch.tensor(kept, dtype=torch.long, device=self._mask_R_L.device)
        self._select(places_R, int(self._mask_R_L[places_R].sum(1).max()))

    @torch.inference_mode()
    def step(self) -> None:
        """Compute the last token of each row, and draw the next."""
        device = self._mask_R_L.device
        ones_R_1 = self._mask_R_L.new_ones(len(self.rows), 1)
        self._mask_R_L = torch.cat([self._mask_R_L, ones_R_1], dim=1)
        self._draw(self._forward(torch.tensor([[row.tokens[-1]] for row in self.rows], device=device)))

    def _forward(self, ids_R_L: torch.Tensor, is_first_iteration: bool = False) -> torch.Tensor:
        """(R, V) logits of the next token after these, which the mask covers already."""
        given: dict[str, Any] = {"attention_mask": self._mask_R_L, "use_cache": True} | self._only_last | self._state
        if self._takes_positions:
            given["position_ids"] = (self._mask_R_L.cumsum(1) - 1).clamp_(min=0)[:, -ids_R_L.shape[1] :]
        inputs = self._model.prepare_inputs_for_generation(
            ids_R_L, next_sequence_length=ids_R_L.shape[1], is_first_iteration=is_first_iteration, **given
        )
        outputs = self._model(**inputs, return_dict=True)
        self._state = self._model._update_model_kwargs_for_generation(outputs, {})
        return outputs.logits[:, -1]

    def _draw(self, logits_R_V: torch.Tensor) -> None:
        device = logits_R_V.device
        numbers = [(0.5 if row.is_over else row.uniform, row.request.temperature) for row in self.rows]
        uniforms_R_1, temperatures_R_1 = torch.tensor(numbers, dtype=torch.float64, device=device).T[..., None]
        tokens_R_1, logprobs_R_1 = draw_tokens(logits_R_V, uniforms_R_1, temperatures_R_1)
        for row, token, logprob in zip(self.rows, tokens_R_1[:, 0].tolist(), logprobs_R_1[:, 0].tolist(), strict=True):
            if not row.is_over:
                row.tokens.append(token)
                row.logprobs.append(logprob)

    def _select(self, places_R: torch.Tensor, length: int) -> None:
        self._mask_R_L = self._mask_R_L[places_R, -length:]
        select(self._cache, places_R, length)
