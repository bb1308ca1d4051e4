"""Imported preferences (``posterior.preferences_path``), from which the posterior learns before the first round.

The ledger holds them as duels with the source ``demo``, chosen response first; they do not count as queries. The
policy is not trained on them.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sea_agent.data.preferences import PreferenceRow, read_preferences
from sea_agent.data.tokens import require_kept, tokenize_prompts
from sea_agent.errors import UserError
from sea_agent.seeding import id_for
from sea_agent.types import REFERENCE_VERSION, Duel, LabelSource, Outcome, Prompt, Response, Verdict

KEY = "posterior.preferences_path"
RULE = "imported"
ROUND = 0


@dataclass(frozen=True)
class ImportedPreferences:
    """Duels with their verdicts and weights; ``skipped`` counts rows with two equal responses."""

    duels: tuple[Duel, ...]
    verdicts: tuple[Verdict, ...]
    weights: tuple[float, ...]
    skipped: int

    @property
    def largest_token(self) -> int:
        """The largest token id in any prompt or response."""
        rows = (row for duel in self.duels for row in (duel.prompt, duel.first, duel.second))
        return max(token for row in rows for token in row.token_ids)


def load_imported(path: str, tokenizer: Any, context_length: int, end_ids: Sequence[int]) -> ImportedPreferences:
    """Read, check and tokenise a file of preferences. A response ends with one of ``end_ids``, usually the first.

    Raises:
        UserError: naming the invalid row, the problem and the remedy.
    """
    rows = read_preferences(path, KEY)
    different = [row for row in rows if row.chosen != row.rejected]
    if not different:
        raise UserError(
            f"{KEY}={path}: chosen and rejected are the same text in every one of its {len(rows)} rows. "
            "Give preferences between different responses."
        )
    duels, now = tuple(_duels(different, tokenizer, context_length, end_ids)), time.time()
    verdicts = tuple(
        Verdict(duel.id, Outcome.FIRST, row.annotator or RULE, now) for duel, row in zip(duels, different, strict=True)
    )
    weights = tuple(row.weight for row in different)
    return ImportedPreferences(duels, verdicts, weights, len(rows) - len(different))


def _duels(
    rows: Sequence[PreferenceRow], tokenizer: Any, context_length: int, end_ids: Sequence[int]
) -> Iterator[Duel]:
    prompts = tokenize_prompts([row.prompt for row in rows], tokenizer)
    chosen, rejected = (
        _responses([getattr(row, side) for row in rows], tokenizer, end_ids) for side in ("chosen", "rejected")
    )
    for number, (row, tokens, *sides) in enumerate(zip(rows, prompts, chosen, rejected, strict=True)):
        asked = row.prompt
        for text, ids in zip((row.chosen, row.rejected), sides, strict=True):
            require_kept(text, ids, tokenizer, asked.where)
        longest = len(tokens) + max(map(len, sides))
        if longest > context_length:
            raise UserError(
                f"{asked.where}: prompt and response have {longest} tokens, and the policy's context is "
                f"{context_length}. Shorten or remove them."
            )
        prompt = Prompt(id_for("prompt", RULE, asked.text), asked.text, tuple(tokens.tolist()), asked.messages)
        id_ = id_for(RULE, number, prompt.id, row.chosen, row.rejected, str(row.weight))
        first, second = (
            Response(id_for("response", id_, index), prompt.id, text, ids, (), REFERENCE_VERSION)
            for index, (text, ids) in enumerate(zip((row.chosen, row.rejected), sides, strict=True))
        )
        yield Duel(
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


def _responses(texts: list[str], tokenizer: Any, end_ids: Sequence[int]) -> list[tuple[int, ...]]:
    """Tokens as if the policy had sampled them: the text, then the end token."""
    rows = tokenizer(texts, add_special_tokens=False).input_ids
    return [tuple(ids) if ids and ids[-1] in end_ids else (*ids, end_ids[0]) for ids in rows]
