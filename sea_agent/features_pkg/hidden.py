"""Features of (prompt, response) pairs from frozen models: what the reward posterior sees.

Both maps work in batches sorted by length, remember what they have seen, and standardise every feature by the
mean and deviation of the first rows they were asked for. Sequences are padded on the right to a multiple of
``_BUCKET`` tokens and batches never mix padded lengths, so a row's features do not depend on its batch mates
beyond float rounding.

Dimension legend: N rows, B rows of a batch, T tokens, D features, H hidden units of the model.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor
from transformers import AutoModel

from sea_agent.config import PolicyConfig, PosteriorConfig
from sea_agent.errors import UserError
from sea_agent.models import load_model, load_policy, load_tokenizer, use_threads
from sea_agent.types import Prompt, Response

_BUCKET = 16
_CACHE_BYTES = 256 * 2**20
# A feature that hardly varied in the first rows must not explode later: no deviation below this share of the mean one.
_DEVIATION_FLOOR = 0.01

Pair = tuple[Prompt, Response]
Row = dict[str, list[int]]


class FeatureMap(ABC):
    """A frozen map from (prompt, response) to standardised features."""

    def __init__(self, dimension: int, batch: int) -> None:
        self.dimension = dimension
        self._batch = batch
        self._capacity = max(1, _CACHE_BYTES // (4 * dimension))
        self._cache: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._mean_D: Tensor | None = None
        self._deviation_D: Tensor | None = None

    def features(self, pairs: Sequence[Pair]) -> Tensor:
        """Standardised features_N_D of the pairs, float32 on the CPU.

        The first call freezes mean and deviation, so it must hold at least two rows.

        Raises:
            ValueError: when the first call has a single row, or a response has no tokens.
        """
        if not pairs:
            return torch.empty(0, self.dimension)
        raw_N_D = self._raw(pairs)
        if self._mean_D is None or self._deviation_D is None:
            if len(raw_N_D) < 2:
                raise ValueError("the first features call sets the scale of every feature and needs two rows or more")
            self._mean_D = raw_N_D.mean(0)
            self._deviation_D = _floored(raw_N_D.std(0, correction=0))
        return (raw_N_D - self._mean_D) / self._deviation_D

    def state(self) -> dict[str, Tensor]:
        """The frozen mean and deviation; empty before the first call."""
        if self._mean_D is None or self._deviation_D is None:
            return {}
        return {"mean": self._mean_D.clone(), "deviation": self._deviation_D.clone()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue with a saved scale.

        Raises:
            UserError: when it was saved for another number of features.
        """
        if state and len(state["mean"]) != self.dimension:
            raise UserError(
                f"the checkpoint's features have {len(state['mean'])} dimensions and this run's {self.dimension}: "
                "resume with the posterior.features and models that the run was started with"
            )
        self._mean_D = state["mean"].clone() if state else None
        self._deviation_D = state["deviation"].clone() if state else None

    def _raw(self, pairs: Sequence[Pair]) -> Tensor:
        keys = [self._key(*pair) for pair in pairs]
        found: dict[Hashable, Tensor] = {}
        missing: dict[Hashable, Pair] = {}
        for key, pair in zip(keys, pairs, strict=True):
            if key in self._cache:
                self._cache.move_to_end(key)
                found[key] = self._cache[key]
            else:
                missing[key] = pair
        rows = {key: self._tokens(*pair) for key, pair in missing.items()}
        for batch, length in self._batches(rows):
            with torch.inference_mode():
                features_B_D = self._encode([rows[key] for key in batch], length).float().cpu()
            # Clones: a row kept by the cache must not keep its whole batch alive.
            found.update((key, row_D.clone()) for key, row_D in zip(batch, features_B_D, strict=True))
        self._cache.update((key, found[key]) for key in missing)
        while len(self._cache) > self._capacity:
            self._cache.popitem(last=False)
        return torch.stack([found[key] for key in keys])

    def _batches(self, rows: dict[Hashable, Row]) -> Iterator[tuple[list[Hashable], int]]:
        """(keys, padded length) of each batch, shortest first."""

        def padded(key: Hashable) -> int:
            return -(-len(rows[key]["input_ids"]) // _BUCKET) * _BUCKET

        for length, group in groupby(sorted(rows, key=padded), key=padded):
            keys = list(group)
            for start in range(0, len(keys), self._batch):
                yield keys[start : start + self._batch], length

    @abstractmethod
    def _key(self, prompt: Prompt, response: Response) -> Hashable:
        """All content that the features depend on."""

    @abstractmethod
    def _tokens(self, prompt: Prompt, response: Response) -> Row:
        """Model input of one pair: ``input_ids`` and more sequences of the same length."""

    @abstractmethod
    def _encode(self, rows: list[Row], length: int) -> Tensor:
        """features_B_D of rows padded to ``length`` tokens."""


class PolicyFeatures(FeatureMap):
    """Last hidden states of the frozen reference policy: their mean over the response and the last token's.

    D = 2 H. Tokens are those that were sampled, so nothing is tokenised again.
    """

    def __init__(self, policy: PolicyConfig, batch: int, device: str) -> None:
        model = load_policy(policy.path, policy.dtype, device)
        super().__init__(2 * model.config.get_text_config().hidden_size, batch)
        # Without the language-model head: logits over the vocabulary are not needed.
        self._model = model.base_model
        self._device = device

    def _key(self, prompt: Prompt, response: Response) -> Hashable:
        return prompt.token_ids, response.token_ids

    def _tokens(self, prompt: Prompt, response: Response) -> Row:
        if not response.token_ids:
            raise ValueError(f"response {response.id} has no tokens, not even an end token")
        answered = [0] * len(prompt.token_ids) + [1] * len(response.token_ids)
        return {"input_ids": [*prompt.token_ids, *response.token_ids], "answered": answered}

    def _encode(self, rows: list[Row], length: int) -> Tensor:
        ids_B_T = _padded([row["input_ids"] for row in rows], length, self._device)
        answered_B_T = _padded([row["answered"] for row in rows], length, self._device)
        lengths_B = torch.tensor([len(row["input_ids"]) for row in rows], device=self._device)
        mask_B_T = torch.arange(length, device=self._device) < lengths_B[:, None]
        output = self._model(input_ids=ids_B_T, attention_mask=mask_B_T.long(), use_cache=False)
        states_B_T_H = output.last_hidden_state.float()
        last_B_H = states_B_T_H[torch.arange(len(rows), device=self._device), lengths_B - 1]
        return torch.cat([_masked_mean(states_B_T_H, answered_B_T), last_B_H], dim=1)


class EncoderFeatures(FeatureMap):
    """Last hidden states of a Hugging Face encoder that reads the pair, averaged over its tokens. D = H.

    A pair that is longer than the encoder loses the beginning of its prompt; a response that is longer by
    itself also loses its end. The end of a prompt and the beginning of a response are always read.
    """

    def __init__(self, path: str, batch: int, device: str) -> None:
        self._tokenizer = load_tokenizer(path, key="posterior.encoder_path")
        # A pooler sits behind the hidden states that are used here, and often has no weights in the file.
        model = load_model(AutoModel, path, "posterior.encoder_path", unused="pooler")
        if model.config.is_encoder_decoder:
            raise UserError(f"posterior.encoder_path={path}: an encoder-decoder model; give an encoder such as BERT")
        super().__init__(model.config.get_text_config().hidden_size, batch)
        self._model = model.to(device).eval()
        self._device = device
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", self._tokenizer.model_max_length)
        self._limit = min(longest, self._tokenizer.model_max_length)

    def _key(self, prompt: Prompt, response: Response) -> Hashable:
        return prompt.text, response.text

    def _tokens(self, prompt: Prompt, response: Response) -> Row:
        encoding = self._tokenizer(prompt.text, response.text)
        if len(encoding["input_ids"]) > self._limit:
            encoding = self._tokenizer(
                *self._shortened(prompt.text, response.text), truncation="longest_first", max_length=self._limit
            )
        return dict(encoding)

    def _shortened(self, prompt: str, response: str) -> tuple[str, str]:
        """Prompt without its beginning and response without its end, so that both fit."""
        room = self._limit - self._tokenizer.num_special_tokens_to_add(pair=True)
        prompt_spans, response_spans = (
            self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
                "offset_mapping"
            ]
            for text in (prompt, response)
        )
        if len(response_spans) >= room:
            return "", response[: response_spans[room - 1][1]]
        keep = room - len(response_spans)
        return prompt[prompt_spans[-keep][0] :], response

    def _encode(self, rows: list[Row], length: int) -> Tensor:
        length = min(length, self._limit)
        inputs = {name: _padded([row[name] for row in rows], length, self._device) for name in rows[0]}
        states_B_T_H = self._model(**inputs).last_hidden_state
        return _masked_mean(states_B_T_H, inputs["attention_mask"])


def make_features(policy: PolicyConfig, config: PosteriorConfig, device: str, threads: int) -> FeatureMap:
    """The feature map that a configuration names, on ``device``, with at most ``threads`` CPU threads.

    Raises:
        UserError: when the model it reads cannot be loaded.
    """
    use_threads(threads)
    if config.encoder_path is not None and config.features == "encoder":
        return EncoderFeatures(config.encoder_path, config.feature_batch, device)
    return PolicyFeatures(policy, config.feature_batch, device)


def _floored(deviation_D: Tensor) -> Tensor:
    floor = _DEVIATION_FLOOR * float(deviation_D.mean())
    return deviation_D.clamp_min(floor) if floor > 0 else torch.ones_like(deviation_D)


def _masked_mean(states_B_T_H: Tensor, mask_B_T: Tensor) -> Tensor:
    weights_B_T_1 = mask_B_T[..., None].to(states_B_T_H.dtype)
    return (states_B_T_H * weights_B_T_1).sum(1) / weights_B_T_1.sum(1)


def _padded(rows: list[list[int]], length: int, device: str) -> Tensor:
    """Zeros on the right; every model input is masked there."""
    return torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
