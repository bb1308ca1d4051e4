"""The prompts of a run: read, checked and tokenised once, then served in a seeded order.

Loading finds every problem of a prompt file, before anything expensive starts. Error messages locate a prompt by
``file:line`` (JSONL) or by its row number (Parquet, datasets), both counted from 1.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import TemplateError

from sea_agent.config import PromptsConfig
from sea_agent.data.rows import ENDINGS, Layout, json_type, missing_field, numbered, read_rows, whole_text
from sea_agent.errors import UserError, first_line
from sea_agent.saved_state import require
from sea_agent.seeding import generator_for, id_for
from sea_agent.types import Prompt
from sea_agent.worlds import resolve

Messages = tuple[tuple[str, str], ...]

# Prompts per tokenizer call; tokenizers process a batch in parallel.
_TOKENIZER_BATCH = 1024
_OTHER_FIELD = "Set prompts.field to the one that holds it."


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A checked prompt before tokenisation."""

    where: str
    text: str
    messages: Messages | None


class PromptSource:
    """The prompts of one file or dataset: each exactly once per epoch, and never twice in one call of ``next``.

    Args:
        config: path, field, split and order.
        tokenizer: the policy's; it tokenises every prompt exactly once.
        context_length: longest sequence of the policy, prompt and response together, in tokens.
        max_new_tokens: tokens reserved for the response.
        seed: determines the order. Each epoch is a new permutation keyed by (seed, epoch); prompts that the same call
            of ``next`` already took from the previous epoch move to the end.
        key: the configuration key of the path, for error messages.

    Raises:
        UserError: naming the invalid prompt, the problem and the remedy.
    """

    def __init__(
        self,
        config: PromptsConfig,
        tokenizer: Any,
        *,
        context_length: int,
        max_new_tokens: int,
        seed: int,
        key: str = "prompts.path",
    ) -> None:
        origin = f"{key}={config.path}"
        self._rows = [check_prompt(value, where) for where, value in _read(config, key)]
        if not self._rows:
            raise UserError(f"{origin}: there are no prompts in it. Give at least one.")
        self._tokens = list(tokenize_prompts(self._rows, tokenizer))
        _check_lengths(self._rows, self._tokens, context_length, max_new_tokens)
        self._origin = origin
        self._seed = seed
        self._shuffle = config.shuffle
        self._deferred: list[int] = []  # one number for each epoch after the first
        self._order = self._permutation(0)
        self._taken = 0  # of this epoch

    def __len__(self) -> int:
        """Number of prompts in one epoch."""
        return len(self._rows)

    def next(self, count: int) -> list[Prompt]:
        """The next ``count`` prompts, all different; continues into the next epoch where one ends.

        Raises:
            UserError: there are fewer than ``count`` prompts.
        """
        if count > len(self):
            raise UserError(
                f"{self._origin}: a round of batch_size={count} needs as many different prompts, and there are "
                f"{len(self)}. Give more prompts, or lower batch_size."
            )
        indices = self._order[self._taken : self._taken + count]
        self._taken += len(indices)
        if len(indices) < count:
            self._start_epoch(deferred=len(indices))
            self._taken = count - len(indices)
            indices = indices + self._order[: self._taken]
        return [self._prompt(index) for index in indices]

    def first(self, count: int) -> list[Prompt]:
        """The first ``count`` prompts of the file, or all if there are fewer; does not move the position."""
        return [self._prompt(index) for index in range(min(count, len(self)))]

    def state(self) -> dict[str, Any]:
        """The position as JSON: prompts taken of this epoch, how many each epoch deferred, and a fingerprint of all."""
        return {"taken": self._taken, "deferred": list(self._deferred), "fingerprint": self._fingerprint()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from the position of ``state``.

        Raises:
            UserError: the prompts, their order or the seed differ from those of the state.
            UnfitState: it is not such a state.
        """
        require(state, {"taken": int, "deferred": [int, ...], "fingerprint": str}, "source.prompts")
        if state["fingerprint"] != self._fingerprint():
            raise UserError(
                f"{self._origin}: the prompts, seed or prompts.shuffle changed since the checkpoint was written, so "
                "the run cannot continue where it stopped. Restore them, or start a new run."
            )
        self._deferred, self._order = [], self._permutation(0)
        for deferred in state["deferred"]:
            self._start_epoch(deferred)
        self._taken = state["taken"]

    @property
    def largest_token(self) -> int:
        """The largest token id in any prompt."""
        return max(int(tokens.max()) for tokens in self._tokens)

    @property
    def longest(self) -> int:
        """The number of tokens of the longest prompt."""
        return max(map(len, self._tokens))

    def _prompt(self, index: int) -> Prompt:
        row = self._rows[index]
        return Prompt(id_for("prompt", index, row.text), row.text, tuple(self._tokens[index].tolist()), row.messages)

    def _start_epoch(self, deferred: int) -> None:
        """Draw a new order in which the last ``deferred`` prompts of the old one come last."""
        self._deferred.append(deferred)
        late = set(self._order[len(self) - deferred :])
        # The sort is stable, so both groups keep the order of the permutation.
        self._order = sorted(self._permutation(len(self._deferred)), key=late.__contains__)

    def _permutation(self, epoch: int) -> list[int]:
        if not self._shuffle:
            return list(range(len(self)))
        return generator_for("prompt-order", self._seed, epoch).permutation(len(self)).tolist()

    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(repr((self._seed, self._shuffle)).encode(), digest_size=16)
        for row in self._rows:
            digest.update(repr((row.text, row.messages)).encode())
        return digest.hexdigest()


def _read(config: PromptsConfig, key: str) -> Iterator[tuple[str, Any]]:
    """(where, value of the prompt field) of every prompt."""
    path = resolve(config.path)
    if path.endswith(ENDINGS):
        layout = Layout((config.field,), example={config.field: "Write a haiku."}, remedy=_OTHER_FIELD)
        return ((where, row[config.field]) for where, row in read_rows(path, config.path, layout, key))
    if os.path.isfile(path):
        raise UserError(
            f"{key}={config.path}: not a prompt file. Give a .jsonl file with one JSON object on each line, "
            "a .parquet file, or the name of a Hugging Face dataset."
        )
    return _read_dataset(path, config, key)


def _read_dataset(path: str, config: PromptsConfig, key: str) -> Iterator[tuple[str, Any]]:
    import datasets  # takes seconds and loads torch

    try:
        table = datasets.load_dataset(path, split=config.split)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        section = key.rpartition(".")[0]
        raise UserError(
            f"{key}={config.path}: no dataset could be loaded with {section}.split={config.split} "
            f"({first_line(error.__cause__ or error)}). "
            "Check name, split and network, or give a .jsonl or .parquet file."
        ) from None
    name = f"{config.path} ({config.split})"
    if config.field not in table.column_names:
        raise missing_field(name, config.field, table.column_names, _OTHER_FIELD)
    return numbered(name, table[config.field])


def check_prompt(value: Any, where: str) -> PromptRow:
    """A prompt as a file holds it: a text, or a list of chat messages.

    Raises:
        UserError: naming the problem.
    """
    if isinstance(value, str):
        if not value.strip():
            raise UserError(f"{where}: the prompt is empty. Give it a text, or remove it.")
        return PromptRow(where, whole_text(value, where), None)
    if isinstance(value, list):
        messages = tuple(_message(message, where) for message in value)
        if not messages:
            raise UserError(f"{where}: the prompt is empty. Give it at least one message, or remove it.")
        if messages[-1][0] == "assistant":
            raise UserError(f"{where}: the last message is the assistant's. End the prompt with the message to answer.")
        return PromptRow(where, _readable(messages), messages)
    raise UserError(
        f"{where}: the prompt is {json_type(value)}. Give a text, or a list of messages with role and content."
    )


def _message(message: Any, where: str) -> tuple[str, str]:
    if not (isinstance(message, dict) and all(isinstance(message.get(name), str) for name in ("role", "content"))):
        raise UserError(
            f"{where}: a chat message must be an object with the texts role and content, "
            'such as {"role": "user", "content": "Write a haiku."}.'
        )
    if not message["content"].strip():
        raise UserError(f"{where}: a chat message is empty. Give its content a text, or remove it.")
    return message["role"], whole_text(message["content"], where)


def _readable(messages: Messages) -> str:
    """The text that an oracle reads for a chat."""
    if len(messages) == 1 and messages[0][0] == "user":
        return messages[0][1]
    return "\n".join(f"{role}: {content}" for role, content in messages)


def tokenize_prompts(rows: Sequence[PromptRow], tokenizer: Any) -> Iterator[np.ndarray]:
    """Token ids of each row, as compact arrays: a dataset may hold a hundred thousand prompts.

    Raises:
        UserError: naming the first chat for which the tokenizer has no template, or which the template rejects.
    """
    for start in range(0, len(rows), _TOKENIZER_BATCH):
        batch = rows[start : start + _TOKENIZER_BATCH]
        texts = [row.text for row in batch if row.messages is None]
        plain = iter(tokenizer(texts).input_ids if texts else ())
        for row in batch:
            yield np.array(next(plain) if row.messages is None else _chat_tokens(row, tokenizer), dtype=np.int32)


def _chat_tokens(row: PromptRow, tokenizer: Any) -> list[int]:
    if tokenizer.chat_template is None:
        raise UserError(
            f"{row.where}: the prompt is a chat, but the policy's tokenizer has no chat template. "
            "Give plain texts, or save a chat template with the tokenizer."
        )
    messages = [{"role": role, "content": content} for role, content in row.messages or ()]
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    except TemplateError as error:
        raise UserError(
            f"{row.where}: the policy's chat template refuses the messages ({error}). Change their roles or order."
        ) from None


def _check_lengths(rows: list[PromptRow], tokens: list[np.ndarray], context_length: int, max_new_tokens: int) -> None:
    limit = context_length - max_new_tokens
    if limit < 1:
        raise UserError(
            f"sampler.max_new_tokens={max_new_tokens} leaves no room for a prompt: the policy's context is "
            f"{context_length} tokens. Lower it."
        )
    too_long = [(row.where, len(ids)) for row, ids in zip(rows, tokens, strict=True) if len(ids) > limit]
    if too_long:
        where, length = too_long[0]
        others = f" (and {len(too_long) - 1} more prompts)" if len(too_long) > 1 else ""
        raise UserError(
            f"{where}: the prompt has {length} tokens{others}; with sampler.max_new_tokens={max_new_tokens} at most "
            f"{limit} fit into the policy's context of {context_length}. Shorten or remove it, or lower "
            "sampler.max_new_tokens."
        )
    for row, ids in zip(rows, tokens, strict=True):
        if not len(ids):
            raise UserError(f"{row.where}: the prompt has no tokens for the policy's tokenizer. Change or remove it.")
