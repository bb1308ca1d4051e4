"""The prompts of a run: read, checked and tokenised once, then served in a seeded order.

Loading finds every problem of a prompt file, before anything expensive starts. Error messages locate a prompt by
``file:line`` (JSONL) or by its row number (Parquet, datasets), both counted from 1.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from sea_agent.config import PromptsConfig
from sea_agent.data.prompt_rows import MEANINGFUL, PromptRow, check_prompt, refuse_unread
from sea_agent.data.rows import ENDINGS, Layout, missing_field, numbered, read_rows
from sea_agent.data.tokens import tokenize_prompts
from sea_agent.errors import UserError, first_line
from sea_agent.saved_state import require
from sea_agent.seeding import generator_for, id_for
from sea_agent.types import Prompt
from sea_agent.worlds import resolve

# The longest text need not have the most tokens for every tokenizer.
_LONGEST = 32
_OTHER_FIELD = "Set prompts.field to the one that holds it."


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

    def telling(self, among: int | None = None) -> list[Prompt]:
        """The longest prompts and one of each order of roles, of the first ``among``; at least one.

        What is too long for a model, or refused by its chat template, is among them if there is any.
        """
        rows = self._rows[:among]
        longest = sorted(range(len(rows)), key=lambda index: -len(rows[index].text))[:_LONGEST]
        orders = {tuple(role for role, _ in row.messages or ()): index for index, row in enumerate(rows)}
        return [self._prompt(index) for index in sorted({*longest, *orders.values()})]

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
    section = key.rpartition(".")[0]
    if config.subset is not None and (path.endswith(ENDINGS) or os.path.isfile(path)):
        raise UserError(f"{section}.subset={config.subset}: {key}={config.path} is a file, and has none. Remove it.")
    if path.endswith(ENDINGS):
        layout = Layout((config.field,), {config.field: "Write a haiku."}, _OTHER_FIELD, optional=MEANINGFUL)
        return _values(read_rows(path, config.path, layout, key), config.field)
    if os.path.isfile(path):
        raise UserError(
            f"{key}={config.path}: not a prompt file. Give a .jsonl file with one JSON object on each line, "
            "a .parquet file, or the name of a Hugging Face dataset."
        )
    return _read_dataset(path, config, key, section)


def _read_dataset(path: str, config: PromptsConfig, key: str, section: str) -> Iterator[tuple[str, Any]]:
    import datasets  # takes seconds and loads torch

    try:
        table = datasets.load_dataset(path, config.subset, split=config.split)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        chosen = f"{section}.split={config.split}"
        if config.subset is not None:
            chosen = f"{section}.subset={config.subset} and {chosen}"
        raise UserError(
            f"{key}={config.path}: no dataset could be loaded with {chosen} ({_reason(error, section)}). "
            "Check name, subset, split and network, or give a .jsonl or .parquet file."
        ) from None
    name = f"{config.path} ({', '.join(filter(None, (config.subset, config.split)))})"
    if config.field not in table.column_names:
        raise missing_field(name, config.field, table.column_names, _OTHER_FIELD)
    others = [column for column in MEANINGFUL if column in table.column_names]
    for column in others:
        if hasattr(table.features[column], "decode"):  # pictures and sounds need not be opened to be refused
            table = table.cast_column(column, type(table.features[column])(decode=False))
    return _values(numbered(name, table.select_columns([config.field, *others])), config.field)


def _reason(error: Exception, section: str) -> str:
    """Why a dataset was not loaded; if a subset must be chosen, the key and the choice."""
    reason = error.__cause__ or error
    subsets = re.search(r"(?:among the available configs:|Available:) \[(.*?)\]", str(reason))
    return f"set {section}.subset to one of {subsets[1]}" if subsets else first_line(reason)


def _values(rows: Iterable[tuple[str, Mapping[str, Any]]], field: str) -> Iterator[tuple[str, Any]]:
    """(where, value of ``field``) of rows that hold nothing else that belongs to the prompt."""
    for where, row in rows:
        refuse_unread({key: row.get(key) for key in MEANINGFUL if key != field}, where)
        yield where, row[field]


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
