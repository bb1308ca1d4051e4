"""Exact per-request sampling with transformers: batched, left-padded, with a cache.

``generate`` decodes greedily; a logits processor draws each row's token with that row's own uniform numbers and masks
all others. A response therefore depends only on its request and the weights, not on global random state; other rows
of the batch affect it only through the rounding of logits under padding.

Dimensions: R rows, S sampling steps, L positions, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from actors.sampling import Sampler, SampleRequest, check_update
from learner.sequences import collate, rows_of
from sea_agent.config import PolicyConfig
from sea_agent.errors import UserError, first_line
from sea_agent.pretrained import context_length, end_token_ids, load_policy, load_tokenizer, ran_out_of_memory
from sea_agent.seeding import generator_for
from sea_agent.types import Prompt, TokenRow
from sea_agent.weights import WeightUpdate, checksum

# Most float32 logits held at once while scoring (256 MiB).
_LOGITS_LIMIT = 2**26
TRIALS, _TRIAL_STEPS = (3, 3, 11, 11), 3  # tokens of the prompts and of the responses of a trial
ROUNDING = {"float32": 1e-4, "bfloat16": 1.0}
"""Nats by which a log-probability may move when the same sum is done in another order. Logits of bfloat16 are an eighth
apart above 16."""
ELSEWHERE = "Give another policy, or set sampler.backend=vllm if vLLM knows it."


class HfSampler(Sampler):
    """The ``hf`` back end; see ``actors.sampling.Sampler``."""

    def __init__(self, policy: PolicyConfig, *, device: str) -> None:
        """Load tokenizer and model.

        Raises:
            UserError: the policy directory lacks a tokenizer or a loadable model, or transformers does not sample from
                it exactly.
        """
        self._device = device
        self._tokenizer = load_tokenizer(policy.path)
        self._context = context_length(policy.path)
        self._model = load_policy(policy.path, policy.dtype, device)
        self._end_ids = end_token_ids(policy.path, self._tokenizer)
        # Any token of the model pads: attention never sees padding, and rows are cut at their ends.
        self._pad_id = self._end_ids[0]
        # The model's own settings (top_k, penalties, …) would distort the distribution.
        self._model.generation_config = GenerationConfig(
            eos_token_id=list(self._end_ids),
            pad_token_id=self._pad_id,
            do_sample=False,
            use_cache=True,
        )
        self._group_of = self._drawable(policy)

    def _draw(self, requests: Sequence[SampleRequest]) -> Iterator[tuple[list[int], list[float]]]:
        return self._draw_in_groups(requests, self._group_of)

    def _draw_in_groups(
        self, requests: Sequence[SampleRequest], group_of: Callable[[SampleRequest], Any]
    ) -> Iterator[tuple[list[int], list[float]]]:
        groups: dict[Any, list[SampleRequest]] = {}
        for request in requests:
            groups.setdefault(group_of(request), []).append(request)
        drawn = {
            request.id: one
            for group in groups.values()
            for request, one in zip(group, self._draw_together(group), strict=True)
        }
        return (drawn[request.id] for request in requests)

    def _drawable(self, policy: PolicyConfig) -> Callable[[SampleRequest], Any]:
        """What the requests of one batch must have in common, found by trial.

        A model with a recurrent state may be disturbed by padding, or by any other row of its batch, as RWKV is.

        Raises:
            UserError: transformers fails on this model, or computes it with its cache otherwise than without.
        """
        vocabulary = self._model.config.get_text_config().vocab_size
        if self._context < max(TRIALS) + _TRIAL_STEPS or vocabulary <= max(TRIALS):
            return _together
        requests = [
            SampleRequest(str(place), Prompt(str(place), "", tuple(range(1, length + 1))), place, 1.0, _TRIAL_STEPS)
            for place, length in enumerate(TRIALS)
        ]
        try:
            for group_of in (_together, _by_length, alone):
                error = self._cache_error(requests, group_of)
                if not error > ROUNDING[policy.dtype]:
                    return group_of
        except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as problem:
            if ran_out_of_memory(problem):
                raise
            raise UserError(
                f"policy.path={policy.path}: transformers fails to sample from {type(self._model).__name__} "
                f"({first_line(problem)}). {ELSEWHERE}"
            ) from None
        raise UserError(
            f"policy.path={policy.path}: transformers computes {type(self._model).__name__} with its cache otherwise "
            f"than without, by {error:.2g} nats a token, so what it samples from is not what is trained. {ELSEWHERE}"
        )

    def _cache_error(self, requests: Sequence[SampleRequest], group_of: Callable[[SampleRequest], Any]) -> float:
        """The largest difference, in nats, of what was drawn to what one forward pass says of it."""
        drawn = list(self._draw_in_groups(requests, group_of))
        rows = [(request.prompt.token_ids, tokens) for request, (tokens, _) in zip(requests, drawn, strict=True)]
        scored = [self.logprobs([row])[0] for row in rows]
        return max(
            abs(ours - theirs)
            for (_, logprobs), others in zip(drawn, scored, strict=True)
            for ours, theirs in zip(logprobs, others, strict=True)
        )

    def _draw_together(self, requests: Sequence[SampleRequest]) -> Iterator[tuple[list[int], list[float]]]:
        input_ids_R_L, attention_mask_R_L = self._left_padded([request.prompt.token_ids for request in requests])
        draw = _KeyedDraw(requests, self._device)
        with torch.inference_mode():
            self._model.generate(
                input_ids=input_ids_R_L,
                attention_mask=attention_mask_R_L,
                max_new_tokens=max(request.max_new_tokens for request in requests),
                logits_processor=LogitsProcessorList([draw]),
            )
        tokens_R_S = torch.stack(draw.tokens_S_R, dim=1).tolist()
        logprobs_R_S = torch.stack(draw.logprobs_S_R, dim=1).tolist()
        for request, tokens, logprobs in zip(requests, tokens_R_S, logprobs_R_S, strict=True):
            # The batch runs until its last row has ended; cut each row at its own end.
            ends = (step + 1 for step, token in enumerate(tokens) if token in self._end_ids)
            length = min(next(ends, len(tokens)), request.max_new_tokens)
            yield tokens[:length], logprobs[:length]

    def load_weights(self, update: WeightUpdate) -> str:
        """See ``Sampler.load_weights``; copies in place, so that tied parameters stay tied."""
        check_update(update, self._model)
        held = self._model.state_dict()
        for name, tensor in update.tensors.items():
            held[name].copy_(tensor)
        self.version = update.version
        return checksum({name: held[name] for name in update.tensors})

    @torch.inference_mode()
    def logprobs(self, rows: Sequence[TokenRow]) -> list[list[float]]:
        """See ``Sampler.logprobs``."""
        if not rows:
            return []
        longest = max(len(prompt) + len(response) for prompt, response in rows)
        rows_at_once = max(1, _LOGITS_LIMIT // (longest * self._model.config.get_text_config().vocab_size))
        starts = range(0, len(rows), rows_at_once)
        return [values for start in starts for values in self._score(rows[start : start + rows_at_once])]

    def _score(self, rows: Sequence[TokenRow]) -> list[list[float]]:
        # Deliberately not the learner's formula: the log-probability gap compares the two.
        batch = collate(rows, self._device)
        logits_R_L_V = self._model(input_ids=batch.token_ids_N_T, use_cache=False).logits[:, :-1].float()
        logprobs_R_L = logits_R_L_V.log_softmax(-1).gather(-1, batch.token_ids_N_T[:, 1:, None])[..., 0]
        return rows_of(logprobs_R_L[:, -batch.response_mask_N_L.shape[1] :], batch)

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [torch.tensor(prompt, device=self._device) for prompt in prompts]
        masks = [torch.ones_like(row) for row in rows]
        return pad_sequence(rows, True, self._pad_id, "left"), pad_sequence(masks, True, 0, "left")


def _together(request: SampleRequest) -> Any:
    return None


def _by_length(request: SampleRequest) -> Any:
    return len(request.prompt.token_ids)


def alone(request: SampleRequest) -> Any:
    return request.id


def uniforms(seed: int, steps: int) -> np.ndarray:
    """The uniform numbers of a response: number s belongs to step s, whatever the number of steps."""
    return generator_for("response", seed).random(steps)


def draw_tokens(
    scores_R_V: torch.Tensor, uniforms_R_1: torch.Tensor, temperatures_R_1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(R, 1) tokens by inverse CDF, and their log-probabilities in nats at temperature 1.

    Rows with temperature 0 take the likeliest token instead.
    """
    logits_R_V = scores_R_V.double()
    greedy_R_1 = temperatures_R_1 == 0.0
    cdf_R_V = (logits_R_V / temperatures_R_1.masked_fill(greedy_R_1, 1.0)).softmax(-1).cumsum(-1)
    total_R_1 = cdf_R_V[:, -1:]
    target_R_1 = uniforms_R_1 * total_R_1
    # Strictly below the total, so that rounding cannot select beyond the last token with positive probability.
    target_R_1 = torch.minimum(target_R_1, torch.nextafter(total_R_1, torch.zeros_like(total_R_1)))
    tokens_R_1 = torch.searchsorted(cdf_R_V, target_R_1, right=True).clamp_(max=logits_R_V.shape[1] - 1)
    tokens_R_1 = torch.where(greedy_R_1, logits_R_V.argmax(-1, keepdim=True), tokens_R_1)
    return tokens_R_1, logits_R_V.gather(1, tokens_R_1) - logits_R_V.logsumexp(-1, keepdim=True)


class _KeyedDraw(LogitsProcessor):
    """Draws each row's next token with one uniform number keyed by (request seed, step)."""

    def __init__(self, requests: Sequence[SampleRequest], device: str) -> None:
        steps = max(request.max_new_tokens for request in requests)
        uniforms_R_S = np.stack([uniforms(request.seed, steps) for request in requests])
        temperatures_R = torch.tensor([request.temperature for request in requests], dtype=torch.float64, device=device)
        self._uniforms_R_S = torch.from_numpy(uniforms_R_S).to(device)
        self._temperatures_R_1 = temperatures_R[:, None]
        self.tokens_S_R: list[torch.Tensor] = []
        self.logprobs_S_R: list[torch.Tensor] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores [R, V] in; 0 at the drawn token and minus infinity elsewhere out."""
        step = len(self.tokens_S_R)
        tokens_R_1, logprobs_R_1 = draw_tokens(scores, self._uniforms_R_S[:, step, None], self._temperatures_R_1)
        self.tokens_S_R.append(tokens_R_1[:, 0])
        self.logprobs_S_R.append(logprobs_R_1[:, 0])
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens_R_1, 0.0)
