"""What the built-in worlds share: drawing words and prompts, their files, hidden classes, a judge's taste, refusals."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sea_agent.errors import UserError
from sea_agent.seeding import seed_for


def pick(words: Sequence[str], rng: np.random.Generator) -> str:
    """One of the words, all equally likely."""
    return words[int(rng.integers(len(words)))]


def distinct(count: int, draw: Callable[[], str]) -> list[str]:
    """The first ``count`` different texts that ``draw`` returns."""
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[draw()] = None
    return list(texts)


def hidden_classes(world: str, words: Sequence[str], count: int) -> dict[str, int]:
    """The class of each word, out of ``count`` classes of equal size; ``world`` keys the assignment."""
    order = sorted(words, key=lambda word: seed_for(world, "class", word))
    return {word: rank * count // len(order) for rank, word in enumerate(order)}


def own_taste(world: str, *words: str) -> float:
    """The judge's own value of the words, uniform on [-0.7, 0.7] and independent of the hidden reward."""
    return 0.7 * (seed_for(world, "taste", *words) / 2**62 - 1.0)


def foreign_prompt(world: str, prompt: str, example: str) -> UserError:
    """The error for a prompt that does not follow the grammar of the world."""
    return UserError(
        f"{prompt!r} is not a prompt of the world {world}, which read like {example!r}; "
        f"use world://{world}/prompts.jsonl, or another oracle for other prompts"
    )


def write_prompts(path: Path, prompts: Iterable[str]) -> None:
    """Write prompts as a ``.jsonl`` file."""
    write_jsonl(path, ({"prompt": prompt} for prompt in prompts))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write rows as a ``.jsonl`` file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
