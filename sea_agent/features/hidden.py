"""Hidden states of the frozen reference policy or of an encoder as features.

Dimension legend: B rows of a batch, T tokens, D features, H hidden units of the model.
"""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sea_agent.config import PolicyConfig
from sea_agent.errors import UserError
from sea_agent.features.base import FeatureMap, Row, masked_mean, padded
from sea_agent.pretrained import (
    input_limit,
    load_model,
    load_policy,
    load_tokenizer,
    model_inputs,
    require_embedded,
    require_own_tokenizer,
)
from sea_agent.types import Prompt, Response

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TRIAL = "a response"


class PaddedSequences:
    """Sampled sequences for a causal language model, padded to one length.

    ``ids_B_T`` are the tokens; ``answered_B_T`` is 1 for tokens of the response.
    """

    def __init__(self, rows: list[Row], length: int, device: str) -> None:
        self.ids_B_T = padded([row["input_ids"] for row in rows], length, device)
        self.answered_B_T = padded([row["answered"] for row in rows], length, device)
        self._lengths_B = torch.tensor([len(row["input_ids"]) for row in rows], device=device)

    def through(self, model: "PreTrainedModel", **options: bool | int) -> Any:
        """The output of the model for this batch."""
        mask_B_T = torch.arange(self.ids_B_T.shape[1], device=self.ids_B_T.device) < self._lengths_B[:, None]
        return model(input_ids=self.ids_B_T, attention_mask=mask_B_T.long(), use_cache=False, **options)

    def mean_and_last(self, states_B_T_H: Tensor) -> Tensor:
        """features_B_2H, float32: the mean state over the response, and the state at its last token."""
        states_B_T_H = states_B_T_H.float()
        rows_B = torch.arange(len(states_B_T_H), device=states_B_T_H.device)
        return torch.cat([masked_mean(states_B_T_H, self.answered_B_T), states_B_T_H[rows_B, self._lengths_B - 1]], 1)


class PolicyFeatures(FeatureMap):
    """Last hidden states of the frozen reference policy: their mean over the response, and that of the last token.

    D = 2 H. The input is the sampled tokens; nothing is tokenised again.
    """

    def __init__(self, policy: PolicyConfig, batch: int = 256, device: str = "cpu") -> None:
        model = load_policy(policy.path, policy.dtype, device)
        super().__init__((2 * model.config.get_text_config().hidden_size,), batch)
        # Skip the language-model head: the logits are not needed.
        self._model = model.base_model
        self._device = device

    def _key(self, prompt: Prompt, response: Response) -> Hashable:
        return prompt.token_ids, response.token_ids

    def _tokens(self, prompt: Prompt, response: Response) -> Row:
        return sampled_tokens(prompt, response)

    def _encode(self, rows: list[Row], length: int) -> Tensor:
        batch = PaddedSequences(rows, length, self._device)
        return batch.mean_and_last(batch.through(self._model).last_hidden_state)


class EncoderFeatures(FeatureMap):
    """Last hidden states of a Hugging Face encoder that reads the pair, averaged over its tokens. D = H.

    If a pair exceeds the encoder's limit, the start of the prompt is cut. If the response alone reaches the limit, the
    prompt is dropped and the end of the response is cut.
    """

    def __init__(self, path: str, batch: int, device: str) -> None:
        from transformers import AutoModel

        self._tokenizer = load_tokenizer(path, key="posterior.encoder_path")
        # The pooler comes after the hidden states used here, and files often lack its weights.
        model = load_model(AutoModel, path, "posterior.encoder_path", unused="pooler")
        if model.config.is_encoder_decoder:
            raise UserError(f"posterior.encoder_path={path}: an encoder-decoder model; give an encoder such as BERT")
        super().__init__((model.config.get_text_config().hidden_size,), batch)
        self._model = model.to(device).eval()
        self._device = device
        self._name = f"posterior.encoder_path={path}"
        require_own_tokenizer(model, self._tokenizer, self._name)
        self._limit = input_limit(model, self._tokenizer)

    def try_on(self, prompts: Sequence[Prompt]) -> None:
        """Encode these prompts with an empty and a short response.

        Raises:
            UserError: what comes out is not finite, or the tokenizer is not the encoder's.
        """
        rows = [self._read(prompt.text, response) for prompt in prompts for response in ("", _TRIAL)]
        with torch.inference_mode():
            features_N_D = self._encode(rows, max(len(row["input_ids"]) for row in rows))
        if not features_N_D.isfinite().all():
            raise UserError(
                f"{self._name}: gives values that are not finite. The weights of the encoder are damaged; save it "
                "again, or give another one."
            )

    def _key(self, prompt: Prompt, response: Response) -> Hashable:
        return prompt.text, response.text

    def _tokens(self, prompt: Prompt, response: Response) -> Row:
        return self._read(prompt.text, response.text)

    def _read(self, prompt: str, response: str) -> Row:
        encoding = self._tokenizer(prompt, response, verbose=False)
        if len(encoding["input_ids"]) > self._limit:
            encoding = self._tokenizer(
                *self._shortened(prompt, response), truncation="longest_first", max_length=self._limit
            )
        row = model_inputs(self._model, encoding)
        require_embedded(self._model, row["input_ids"], self._name)
        return row

    def _shortened(self, prompt: str, response: str) -> tuple[str, str]:
        """The prompt without its start and the response without its end, such that both fit."""
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
        inputs = {name: padded([row[name] for row in rows], length, self._device) for name in rows[0]}
        states_B_T_H = self._model(**inputs).last_hidden_state
        return masked_mean(states_B_T_H, inputs["attention_mask"])


def sampled_tokens(prompt: Prompt, response: Response) -> Row:
    """``input_ids``: the tokens of prompt and response. ``answered``: 1 for each token of the response.

    Raises:
        ValueError: if the response has no tokens.
    """
    if not response.token_ids:
        raise ValueError(f"response {response.id} has no tokens, not even an end token")
    answered = [0] * len(prompt.token_ids) + [1] * len(response.token_ids)
    return {"input_ids": [*prompt.token_ids, *response.token_ids], "answered": answered}
