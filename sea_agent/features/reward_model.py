"""A Hugging Face sequence-classification reward model: the reward of a response to a prompt.

Dimension legend: B rows of a batch, T tokens.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from sea_agent.errors import UserError, first_line
from sea_agent.features.base import Row, padded
from sea_agent.pretrained import (
    input_limit,
    load_model,
    load_tokenizer,
    model_inputs,
    require_embedded,
    require_own_tokenizer,
)
from sea_agent.types import Messages, Prompt

Answered = tuple[str, Messages | None, str]
"""Text and messages of a prompt, and a response."""

_QUOTED = 60  # letters of a prompt in a message
_TRIAL_LETTERS = 32
_TOLERANCE = 1e-2


class RewardModel:
    """The single output of a classifier.

    With a chat template, the messages of the prompt (a plain text is a user's message) and the response as the
    assistant's turn are encoded as a chat; without one, the texts of prompt and response as the tokenizer's pair. A
    model with a score for each token, such as a decoder, is read at the last one; an encoder pools by itself. Nothing
    is cut: what exceeds the model's context is refused.

    Args:
        key: of the path, in the configuration.
        batch: responses per forward pass; ``batch_key`` sets it.
    """

    def __init__(self, path: str, *, key: str, batch: int, batch_key: str, device: str) -> None:
        self.name = f"{key}={path}"
        self._tokenizer = load_tokenizer(path, key=key)
        self._model = load_model(AutoModelForSequenceClassification, path, key).to(device).eval()
        outputs = self._model.config.num_labels
        if outputs != 1:
            raise UserError(f"{self.name}: a reward model has one output, this one has {outputs}")
        require_own_tokenizer(self._model, self._tokenizer, self.name)
        self._limit = input_limit(self._model, self._tokenizer)
        text_config = self._model.config.get_text_config()
        if text_config.pad_token_id is None:
            text_config.pad_token_id = 0  # transformers takes no batch without one; where it pools by it is not used
        self._head = _Head(self._model)
        self._batch, self._batch_key, self._device = batch, batch_key, device

    def rewards(self, answered: Sequence[Answered]) -> list[float]:
        """The reward of each response; equal ones are scored once.

        Raises:
            UserError: one does not fit into the model's context, is refused by its template, or has no finite reward.
        """
        rows = {one: self._encode(*one) for one in answered}
        try:
            found = self._rewards(rows)
        except (ValueError, IndexError, RuntimeError) as error:
            raise UserError(
                f"{self.name}: {type(self._model).__name__} fails on responses to the prompt {_quoted(answered[0][0])} "
                f"({first_line(error)}). Give a model that reads them with plain transformers."
            ) from None
        return [found[one] for one in answered]

    def try_on(self, prompts: Sequence[Prompt], max_new_tokens: int) -> None:
        """Score a trial pair, and see that the ``prompts`` leave room for a response of ``max_new_tokens``.

        Raises:
            UserError: the model cannot judge responses to these prompts.
        """
        for prompt in prompts:
            self._require_room(prompt, max_new_tokens)
        text, messages = prompts[0].text, prompts[0].messages
        words = text.strip()[:_TRIAL_LETTERS]
        rows = {side: self._encode(*side) for side in ((text, messages, words), (text, messages, f"{words} {words}"))}
        self._require_every_message(prompts[0], words)
        first, second = rows
        if rows[first] == rows[second]:
            raise UserError(
                f"{self.name}: the tokenizer makes the same tokens of a prompt with two different responses, so the "
                "model cannot tell them apart. Repair the chat template, which has to show the assistant's turn."
            )
        try:
            rewards, alone = self._rewards(rows), self._rewards({first: rows[first]})
        except (ValueError, IndexError, RuntimeError) as error:
            raise UserError(
                f"{self.name}: {type(self._model).__name__} fails on a trial pair ({first_line(error)}). Give a model "
                "and a tokenizer that belong together, and check that it answers with plain transformers."
            ) from None
        if not math.isclose(rewards[first], alone[first], rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
            raise UserError(
                f"{self.name}: {type(self._model).__name__} gives a response another reward beside a longer one, "
                f"because of the padding. Set {self._batch_key}=1."
            )

    def _require_every_message(self, prompt: Prompt, response: str) -> None:
        turns = prompt.messages or (("user", prompt.text),)
        shown = self._tokens(prompt.text, prompt.messages, response)
        for place, (role, content) in enumerate(turns):
            others = (*turns[:place], (role, f"{content} {response}"), *turns[place + 1 :])
            if self._tokens(f"{prompt.text} {response}", others if prompt.messages else None, response) == shown:
                raise UserError(
                    f"{self.name}: the chat template of this model does not show it the text of the {role}'s message "
                    f"{_quoted(content)}. Repair the template beside the model, or leave such messages out."
                )

    def _require_room(self, prompt: Prompt, max_new_tokens: int) -> None:
        length = len(self._tokens(prompt.text, prompt.messages, "")["input_ids"])
        if length + max_new_tokens > self._limit:
            raise UserError(
                f"{self.name}: the prompt {_quoted(prompt.text)} has {length} tokens for this model; with "
                f"sampler.max_new_tokens={max_new_tokens} at most {self._limit - max_new_tokens} fit into its context "
                f"of {self._limit}. Shorten or remove it, lower sampler.max_new_tokens, or give a model that reads "
                "more."
            )

    @torch.inference_mode()
    def _rewards(self, rows: dict[Answered, Row]) -> dict[Answered, float]:
        shortest_first = sorted(rows, key=lambda answered: (len(rows[answered]["input_ids"]), answered[0], answered[2]))
        rewards: dict[Answered, float] = {}
        for start in range(0, len(shortest_first), self._batch):
            batch = shortest_first[start : start + self._batch]
            scores_B = self._scores([rows[answered] for answered in batch])
            rewards.update(zip(batch, scores_B, strict=True))
        for (prompt, _, _), reward in rewards.items():
            if not math.isfinite(reward):
                raise UserError(
                    f"{self.name}: gives the reward {reward} to a response to the prompt {_quoted(prompt)}. The "
                    "weights of the model are damaged; save it again, or give another one."
                )
        return rewards

    def _scores(self, rows: list[Row]) -> list[float]:
        length = max(len(row["input_ids"]) for row in rows)
        inputs = {name: padded([row[name] for row in rows], length, self._device) for name in rows[0]}
        pooled_B = self._model(**inputs).logits[:, 0]
        scores_B_T = self._head.of_each_token()
        if scores_B_T is not None:
            # By our own mask: transformers looks for the last token that is no pad, which may be a token of the text.
            last_B = inputs["attention_mask"].sum(1) - 1
            pooled_B = scores_B_T.gather(1, last_B[:, None])[:, 0]
        scores: list[float] = pooled_B.float().tolist()
        return scores

    def _encode(self, prompt: str, messages: Messages | None, response: str) -> Row:
        row = self._tokens(prompt, messages, response)
        if len(row["input_ids"]) > self._limit:
            raise UserError(
                f"{self.name}: a response to the prompt {_quoted(prompt)} has {len(row['input_ids'])} tokens together "
                f"with it, and the model reads at most {self._limit}. Start a run without long prompts, with a lower "
                "sampler.max_new_tokens, or with a model that reads more."
            )
        return row

    def _tokens(self, prompt: str, messages: Messages | None, response: str) -> Row:
        if self._tokenizer.chat_template is None:
            encoding = self._tokenizer(prompt, response, verbose=False)
        else:
            encoding = self._chat([*(messages or [("user", prompt)]), ("assistant", response)], prompt)
        row = model_inputs(self._model, encoding)
        require_embedded(self._model, row["input_ids"], self.name)
        return row

    def _chat(self, turns: Sequence[tuple[str, str]], prompt: str) -> Row:
        chat = [{"role": role, "content": content} for role, content in turns]
        try:
            encoding: Row = self._tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)
        except Exception as error:  # a template is a program of its author's
            raise UserError(
                f"{self.name}: the chat template of this model refuses the prompt {_quoted(prompt)} with the roles "
                f"{', '.join(role for role, _ in turns)} ({first_line(error)}). Change the roles or their order in the "
                "prompt, or the template beside the model."
            ) from None
        return encoding


class _Head:
    """The last layer of a classifier; keeps what it said, to see the scores of all tokens before they are pooled."""

    def __init__(self, model: Any) -> None:
        inside = f"{model.base_model_prefix}."
        heads = [
            layer
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear) and layer.out_features == 1 and not name.startswith(inside)
        ]
        self._said: Tensor | None = None
        # An encoder-decoder has one token for each of the decoder's, not of the text; it pools by itself.
        if heads and not model.config.is_encoder_decoder:
            heads[-1].register_forward_hook(self._listen)

    def of_each_token(self) -> Tensor | None:
        """scores_B_T of the latest forward pass; None where the model pools before its last layer."""
        said, self._said = self._said, None
        return said[..., 0] if said is not None and said.ndim == 3 else None

    def _listen(self, _layer: nn.Module, _inputs: object, output: Tensor) -> None:
        self._said = output


def _quoted(prompt: str) -> str:
    return repr(prompt if len(prompt) <= _QUOTED else f"{prompt[:_QUOTED]}…")
