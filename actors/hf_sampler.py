"""Exact per-request sampling with transformers: batched, left-padded, with a KV cache.

``generate`` decodes greedily; a logits processor draws each row's token from that row's own uniform numbers and
leaves it as the only possible one. A response therefore depends on its request and on the weights, never on a global
random state; its batch-mates can touch it only through the last bits of a logit (padding). Rows are ordered by id,
so that the same set of requests gives the same bits in whatever order it arrives.

Dimensions: R rows, S sampling steps, L positions, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from actors.sampling import SampleRequest, check_finite, check_requests, check_update, end_token_ids
from sea_agent.config import PolicyConfig
from sea_agent.pretrained import context_length, load_policy, load_tokenizer
from sea_agent.seeding import generator_for
from sea_agent.types import Response
from sea_agent.weights import WeightUpdate, checksum

# Scoring holds float32 logits of at most this many elements at once (256 MiB).
_LOGITS_LIMIT = 2**26


class HfSampler:
    """The ``hf`` back end of ``actors.sampling.Sampler``."""

    def __init__(self, policy: PolicyConfig, *, device: str) -> None:
        """Load tokenizer and model.

        Raises:
            UserError: the policy directory lacks a tokenizer or a loadable model.
        """
        self.version = 0
        self._device = device
        self._tokenizer = load_tokenizer(policy.path)
        self._context = context_length(policy.path)
        self._model = load_policy(policy.path, policy.dtype, device)
        self._end_ids = end_token_ids(self._tokenizer, self._model.generation_config, policy.path)
        # Any token will do where none is set: attention never sees padding, and a row is cut at its end.
        self._pad_id = self._end_ids[0] if self._tokenizer.pad_token_id is None else self._tokenizer.pad_token_id
        # The model's own settings (top_k, penalties, …) would warp the distribution.
        self._model.generation_config = GenerationConfig(
            eos_token_id=list(self._end_ids),
            pad_token_id=self._pad_id,
            do_sample=False,
            use_cache=True,
        )

    def sample(self, requests: Sequence[SampleRequest]) -> list[Response]:
        """See ``Sampler.sample``; the requests are one batch."""
        if not requests:
            return []
        check_requests(requests, self._context)
        ordered = sorted(requests, key=lambda request: request.id)
        input_ids_R_L, attention_mask_R_L = self._left_padded([request.prompt.token_ids for request in ordered])
        draw = _KeyedDraw(ordered, self._device)
        with torch.inference_mode():
            self._model.generate(
                input_ids=input_ids_R_L,
                attention_mask=attention_mask_R_L,
                max_new_tokens=max(request.max_new_tokens for request in ordered),
                logits_processor=LogitsProcessorList([draw]),
                stopping_criteria=StoppingCriteriaList([_OwnLimit(ordered, input_ids_R_L.shape[1], self._device)]),
            )
        tokens_R_S = torch.stack(draw.tokens_S_R, dim=1).tolist()
        logprobs_R_S = torch.stack(draw.logprobs_S_R, dim=1).tolist()
        rows = zip(ordered, tokens_R_S, logprobs_R_S, strict=True)
        responses = [self._response(request, tokens, logprobs) for request, tokens, logprobs in rows]
        check_finite({response.id: response.logprobs for response in responses}, self.version)
        return responses

    def load_weights(self, update: WeightUpdate) -> str:
        """See ``Sampler.load_weights``; copied in place, so tied parameters stay tied."""
        check_update(update, self._model)
        held = self._model.state_dict()
        for name, tensor in update.tensors.items():
            held[name].copy_(tensor)
        self.version = update.version
        return checksum({name: held[name] for name in update.tensors})

    @torch.inference_mode()
    def logprobs(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """See ``Sampler.logprobs``."""
        if not rows:
            return []
        longest = max(len(prompt) + len(response) for prompt, response in rows)
        rows_at_once = max(1, _LOGITS_LIMIT // (longest * self._model.config.get_text_config().vocab_size))
        starts = range(0, len(rows), rows_at_once)
        return [values for start in starts for values in self._score(rows[start : start + rows_at_once])]

    def _score(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Padding goes to the right, where causal attention cannot see it."""
        longest = max(len(prompt) + len(response) for prompt, response in rows)
        ids_R_L = torch.full((len(rows), longest), self._pad_id)
        for row, (prompt, response) in enumerate(rows):
            ids_R_L[row, : len(prompt) + len(response)] = torch.tensor([*prompt, *response])
        ids_R_L = ids_R_L.to(self._device)
        logits_R_L_V = self._model(input_ids=ids_R_L, use_cache=False).logits[:, :-1].float()
        next_ids_R_L = ids_R_L[:, 1:]
        logprobs_R_L = logits_R_L_V.log_softmax(-1).gather(-1, next_ids_R_L[..., None])[..., 0].tolist()
        return [
            logprobs_L[len(prompt) - 1 : len(prompt) - 1 + len(response)]
            for (prompt, response), logprobs_L in zip(rows, logprobs_R_L, strict=True)
        ]

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, prompts))
        ids_R_L = torch.full((len(prompts), longest), self._pad_id)
        mask_R_L = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids_R_L[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask_R_L[row, longest - len(prompt) :] = 1
        return ids_R_L.to(self._device), mask_R_L.to(self._device)

    def _response(self, request: SampleRequest, tokens: list[int], logprobs: list[float]) -> Response:
        """Cut a row of the batch, which ran on until the last row ended, at its own end."""
        ends = (step + 1 for step, token in enumerate(tokens) if token in self._end_ids)
        length = min(next(ends, len(tokens)), request.max_new_tokens)
        return Response(
            id=request.id,
            prompt_id=request.prompt.id,
            text=self._tokenizer.decode(tokens[:length], skip_special_tokens=True),
            token_ids=tuple(tokens[:length]),
            logprobs=tuple(logprobs[:length]),
            policy_version=self.version,
        )


class _KeyedDraw(LogitsProcessor):
    """Draws each row's next token by inverse CDF from one uniform keyed by (request seed, step).

    Rows of temperature 0 take the likeliest token instead.
    """

    def __init__(self, requests: Sequence[SampleRequest], device: str) -> None:
        steps = max(request.max_new_tokens for request in requests)
        uniforms_R_S = np.stack([generator_for("response", request.seed).random(steps) for request in requests])
        temperatures_R = torch.tensor([request.temperature for request in requests], dtype=torch.float64, device=device)
        self._uniforms_R_S = torch.from_numpy(uniforms_R_S).to(device)
        self._greedy_R_1 = (temperatures_R == 0.0)[:, None]
        self._temperatures_R_1 = temperatures_R[:, None].masked_fill(self._greedy_R_1, 1.0)
        self.tokens_S_R: list[torch.Tensor] = []
        self.logprobs_S_R: list[torch.Tensor] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores [R, V] in; 0 at the drawn token and minus infinity elsewhere out."""
        step = len(self.tokens_S_R)
        logits_R_V = scores.double()
        cdf_R_V = (logits_R_V / self._temperatures_R_1).softmax(-1).cumsum(-1)
        total_R_1 = cdf_R_V[:, -1:]
        target_R_1 = self._uniforms_R_S[:, step, None] * total_R_1
        # Strictly below the total, so that rounding cannot point behind the last token of positive probability.
        target_R_1 = torch.minimum(target_R_1, torch.nextafter(total_R_1, torch.zeros_like(total_R_1)))
        tokens_R_1 = torch.searchsorted(cdf_R_V, target_R_1, right=True).clamp_(max=logits_R_V.shape[1] - 1)
        tokens_R_1 = torch.where(self._greedy_R_1, logits_R_V.argmax(-1, keepdim=True), tokens_R_1)
        logprobs_R_1 = logits_R_V.gather(1, tokens_R_1) - logits_R_V.logsumexp(-1, keepdim=True)
        self.tokens_S_R.append(tokens_R_1[:, 0])
        self.logprobs_S_R.append(logprobs_R_1[:, 0])
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens_R_1, 0.0)


class _OwnLimit(StoppingCriteria):
    """Ends each row at its own ``max_new_tokens``."""

    def __init__(self, requests: Sequence[SampleRequest], prompt_length: int, device: str) -> None:
        limits_R = [request.max_new_tokens for request in requests]
        self._limits_R = torch.tensor(limits_R, device=device) + prompt_length

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return input_ids.shape[1] >= self._limits_R
