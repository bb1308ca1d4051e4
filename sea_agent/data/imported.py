"""Preferences that somebody brings along (``posterior.preferences_path``): what the posterior knows before it asks.

They stand in the ledger as duels of the source ``demo``, the chosen response first, and are never counted as queries.
The policy is not trained on them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sea_agent.data.preferences import PreferenceRow, read_preferences
from sea_agent.data.prompts import tokenize_prompts
from sea_agent.errors import UserError
from sea_agent.seeding import id_for
from sea_agent.types import REFERENCE_VERSION, Duel, LabelSource, Outcome, Prompt, Response, Verdict

KEY = "posterior.preferences_path"
RULE = "imported"
ROUND = 0


@dataclass(frozen=True)
class ImportedPreferences:
    """Duels with their verdicts and weights; ``skipped`` rows had two equal responses, which say nothing."""

    duels: tuple[Duel, ...]
    verdicts: tuple[Verdict, ...]
    weights: tuple[float, ...]
    skipped: int

    @property
    def largest_token(self) -> int:
        """The largest token id in any prompt or response."""
        rows = (row for duel in self.duels for row in (duel.prompt, duel.first, duel.second))
        return max(token for row in rows for token in row.token_ids)


def load_imported(path: str, tokenizer: Any, context_length: int) -> ImportedPreferences:
    """Read, check and tokenise a file of preferences.

    Raises:
        UserError: naming what is wrong with which row, where it is, and what to do.
    """
    rows = read_preferences(path, KEY)
    different = [row for row in rows if row.chosen != row.rejected]
    if not different:
        raise UserError(
            f"{KEY}={path}: chosen and rejected are the same text in every one of its {len(rows)} rows. "
            "Give preferences between different responses."
        )
    duels = tuple(_duels(different, tokenizer, context_length))
    now = time.time()
    verdicts = (
        Verdict(duel.id, Outcome.FIRST, row.annotator or RULE, now) for duel, row in zip(duels, different, strict=True)
    )
    return ImportedPreferences(
        duels, tuple(verdicts), tuple(row.weight for row in different), len(rows) - len(different)
    )


def _duels(rows: Sequence[PreferenceRow], tokenizer: Any, context_length: int) -> list[Duel]:
    prompts = tokenize_prompts([row.prompt for row in rows], tokenizer)
    chosen, rejected = (_responses([getattr(row, side) for row in rows], tokenizer) for side in ("chosen", "rejected"))
    duels = []
    for number, (row, tokens, first, second) in enumerate(zip(rows, prompts, chosen, rejected, strict=True)):
        asked = row.prompt
        longest = len(tokens) + max(len(first), len(second))
        if longest > context_length:
            raise UserError(
                f"{row.where}: prompt and response have {longest} tokens, and the policy's context is "
                f"{context_length}. Shorten or remove them."
            )
        prompt = Prompt(id_for("prompt", RULE, asked.text), asked.text, tuple(tokens.tolist()), asked.messages)
        id_ = id_for(RULE, number, prompt.id, row.chosen, row.rejected, str(row.weight))
        duels.append(_duel(id_, prompt, (row.chosen, first), (row.rejected, second)))
    return duels


def _responses(texts: list[str], tokenizer: Any) -> list[tuple[int, ...]]:
    """Tokens as a policy would have written them: the text, then the end token."""
    end = tokenizer.eos_token_id
    rows = tokenizer(texts, add_special_tokens=False).input_ids
    return [tuple(ids) if ids[-1:] == [end] else (*ids, end) for ids in rows]


def _duel(id_: str, prompt: Prompt, *sides: tuple[str, tuple[int, ...]]) -> Duel:
    first, second = (
        Response(id_for("response", id_, index), prompt.id, text, tokens, (), REFERENCE_VERSION)
        for index, (text, tokens) in enumerate(sides)
    )
    return Duel(
        id=id_,
        round=ROUND,
        prompt=prompt,
        first=first,
        second=second,
        rule=RULE,
        policy_version=REFERENCE_VERSION,
        posterior_version=0,
        label_source=LabelSource.DEMO,
    )
