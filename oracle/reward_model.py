"""A Hugging Face sequence-classification reward model as the oracle."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from oracle.base import ProbabilityOracle, Question, bradley_terry
from sea_agent.config import RewardModelOracleConfig
from sea_agent.errors import UserError
from sea_agent.pretrained import load_model, load_tokenizer


class RewardModelOracle(ProbabilityOracle):
    """Bradley–Terry over the model's single output.

    With a chat template, prompt and response are encoded as a user's message and the assistant's answer; without one,
    as the tokenizer's pair encoding. Each distinct response is scored once per call.
    """

    def __init__(self, config: RewardModelOracleConfig, seed: int, device: str) -> None:
        super().__init__(f"oracle.path={config.path}", config.labels, seed)
        self._tokenizer = load_tokenizer(config.path, key="oracle.path")
        self._model = load_model(AutoModelForSequenceClassification, config.path, "oracle.path").to(device).eval()
        outputs = self._model.config.num_labels
        if outputs != 1:
            raise UserError(f"oracle.path={config.path}: a reward model has one output, this one has {outputs}")
        self._model.config.pad_token_id = self._tokenizer.pad_token_id
        positions = getattr(self._model.config.get_text_config(), "max_position_embeddings", 2**31)
        self._longest = min(self._tokenizer.model_max_length, positions)
        self._batch = config.batch
        self._device = device

    def probabilities(self, questions: Sequence[Question]) -> list[float]:
        """σ(reward(first) − reward(second)) of each question."""
        pairs = {(q["prompt"], q[side]) for q in questions for side in ("first", "second")}
        rewards = self._rewards(sorted(pairs, key=lambda pair: (len(pair[0]) + len(pair[1]), pair)))
        return [bradley_terry(rewards[q["prompt"], q["first"]], rewards[q["prompt"], q["second"]]) for q in questions]

    @torch.inference_mode()
    def _rewards(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], float]:
        rewards: dict[tuple[str, str], float] = {}
        for start in range(0, len(pairs), self._batch):
            batch = pairs[start : start + self._batch]
            inputs = self._encode(batch).to(self._device)
            scores_B = self._model(**inputs).logits[:, 0].float().tolist()
            rewards.update(zip(batch, scores_B, strict=True))
        return rewards

    def _encode(self, batch: list[tuple[str, str]]) -> Any:
        options = {"padding": True, "truncation": True, "max_length": self._longest, "return_tensors": "pt"}
        if self._tokenizer.chat_template is None:
            return self._tokenizer([p for p, _ in batch], [r for _, r in batch], **options)
        chats = [[{"role": "user", "content": p}, {"role": "assistant", "content": r}] for p, r in batch]
        texts = self._tokenizer.apply_chat_template(chats, tokenize=False)
        return self._tokenizer(texts, add_special_tokens=False, **options)
