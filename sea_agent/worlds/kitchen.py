"""The world ``kitchen``: cook a dish for some guests from the given ingredients, step by step.

A prompt is a dish, ``for``, how many guests, ``from``, six of eighteen ingredients and ``:``. A response is a sequence
of steps, each a verb and an ingredient, may say how the verb is done (after it) and what the ingredient is like (before
it), may carry fillers and connectives, and should end with ``serve``:

    soup for few from leek cod mint egg kale pea :      chop finely cod then boil sweet pea fry mint serve

What makes a response good is hidden, and is in no word by itself. Every verb belongs to one of three techniques and
every ingredient to one of three kinds; a step is worth what its technique does to its kind, a dish favours a
technique, and techniques like to follow each other in a cycle. The tables have rows and columns that sum to zero, so
the same words make a good or a bad dish by how they are paired and in which order they come. The describing words of
demonstrations tell which verbs and which ingredients are alike, as a pretrained model would know; nothing but the
oracle's answers tells what goes with what. The judge is another rater with terms, weights and tastes of its own. Texts
are what a tokenizer decodes without special tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sea_agent.errors import UserError
from sea_agent.seeding import generator_for, seed_for

DISHES = ("roast", "salad", "soup")
GUESTS = {"one": 2, "few": 3, "many": 4}
"""How many steps suit so many guests."""
VERBS = ("bake", "boil", "chop", "fry", "glaze", "grill")
# fmt: off
INGREDIENTS = (
    "bean", "beet", "carrot", "cheese", "chicken", "cod", "corn", "egg", "garlic",
    "kale", "leek", "lemon", "lentil", "mint", "mushroom", "onion", "pea", "pepper",
)
# fmt: on
MANNERS = (("finely", "neatly"), ("gently", "slowly"), ("boldly", "quickly"))
"""Words said after a verb, by its technique."""
QUALITIES = (("fresh", "young"), ("dried", "plain"), ("ripe", "sweet"))
"""Words said before an ingredient, by its kind."""
FILLERS = ("maybe", "nicely", "perhaps", "simply", "surely", "well")
CONNECTIVES = ("also", "and", "next", "then")
FOR, FROM, COLON, SERVE = "for", "from", ":", "serve"
DESCRIBING = tuple(word for words in (*MANNERS, *QUALITIES) for word in words)
WORDS = (*(FOR, FROM, COLON, SERVE), *DISHES, *GUESTS, *VERBS, *INGREDIENTS, *DESCRIBING, *FILLERS, *CONNECTIVES)
"""Every word of the world, in the order of the vocabulary."""

INGREDIENTS_PER_PROMPT = 6
MAX_RESPONSE_WORDS = 13
"""Longest demonstration, ``serve`` included; with the end token a response takes at most 14 tokens."""

# The hidden tables, by how far the column's class is ahead of the row's in the cycle of three: rows and columns sum to
# zero.
_PAIRING = (1.1, -0.55, -0.55)
_FOLLOWING = (0.0, 0.35, -0.35)
_FAVOUR = (0.3, -0.15, -0.15)


@dataclass(frozen=True, slots=True)
class Reading:
    """What there is to notice in a response, before anyone values it.

    ``steps`` are a verb and an ingredient with no other verb or ingredient between them, in order; ``loose`` counts
    verbs and ingredients outside of steps. ``cooked`` are the steps with an ingredient of the prompt that no earlier
    step took, ``invented`` counts other ingredients that steps take, each once, and ``repeated`` steps with an
    ingredient taken before. ``described`` counts manners and qualities.
    """

    dish: str
    guests: str
    steps: tuple[tuple[str, str], ...]
    cooked: tuple[tuple[str, str], ...]
    invented: int
    repeated: int
    loose: int
    described: int
    fillers: int
    ended: bool


def read(prompt: str, response: str) -> Reading:
    """Notice everything in a response that any reward of this world may depend on.

    Raises:
        UserError: when the prompt is not of this world.
    """
    dish, guests, given = _read_prompt(prompt)
    words = response.split()
    acts = [word for word in words if word in _TECHNIQUE or word in _KIND]
    steps = tuple(pair for pair in pairwise(acts) if pair[0] in _TECHNIQUE and pair[1] in _KIND)
    cooked: dict[str, str] = {}
    for verb, ingredient in steps:
        cooked.setdefault(ingredient, verb)
    invented = sum(ingredient not in given for ingredient in cooked)
    return Reading(
        dish=dish,
        guests=guests,
        steps=steps,
        cooked=tuple((verb, ingredient) for ingredient, verb in cooked.items() if ingredient in given),
        invented=invented,
        repeated=len(steps) - len(cooked),
        loose=len(acts) - 2 * len(steps),
        described=sum(word in DESCRIBING for word in words),
        fillers=sum(word in FILLERS for word in words),
        ended=bool(words) and words[-1] == SERVE,
    )


def reward(prompt: str, response: str) -> float:
    """The oracle's hidden reward r*(prompt, response), in the logits of the Bradley-Terry model."""
    seen = read(prompt, response)
    techniques = [_TECHNIQUE[verb] for verb, _ in seen.steps]
    return (
        sum(_PAIRING[_ahead(_TECHNIQUE[verb], _KIND[ingredient])] for verb, ingredient in seen.cooked)
        + sum(_FOLLOWING[_ahead(before, after)] for before, after in pairwise(techniques))
        + sum(_FAVOUR[_ahead(DISHES.index(seen.dish), technique)] for technique in techniques)
        - 0.6 * seen.invented
        - 0.3 * seen.repeated
        - 0.3 * seen.loose
        - 0.2 * seen.fillers
        - 0.5 * abs(len(seen.steps) - GUESTS[seen.guests])
        + (0.5 if seen.ended else 0.0)
    )


def judge(prompt: str, response: str) -> float:
    """An independent judge's score, in logits: its own taste in steps, less order, variety, a fixed ideal length."""
    seen = read(prompt, response)
    techniques = [_TECHNIQUE[verb] for verb, _ in seen.steps]
    return (
        sum(_TASTES[step] for step in seen.cooked)
        + 0.5 * sum(_FOLLOWING[_ahead(before, after)] for before, after in pairwise(techniques))
        + 0.15 * len({verb for verb, _ in seen.steps})
        - 2.0 * (seen.invented / len(seen.steps) if seen.steps else 1.0)
        - 0.7 * min(seen.repeated, 2)
        - 0.2 * seen.loose
        + 0.15 * min(seen.described, 2)
        - 0.1 * seen.fillers
        - 0.2 * abs(len(seen.steps) - 3)
        + (0.5 if seen.ended else 0.0)
    )


def make_prompts(count: int, seed: int) -> list[str]:
    """``count`` different prompts; a longer list from the same seed starts with the shorter one."""
    rng = generator_for("kitchen", "prompts", seed)
    prompts: dict[str, None] = {}
    while len(prompts) < count:
        given = [INGREDIENTS[i] for i in rng.permutation(len(INGREDIENTS))[:INGREDIENTS_PER_PROMPT]]
        prompts[" ".join((_pick(DISHES, rng), FOR, _pick(tuple(GUESTS), rng), FROM, *given, COLON))] = None
    return list(prompts)


def make_demonstrations(count: int, seed: int) -> list[tuple[str, str]]:
    """``count`` (prompt, response) pairs of mixed quality, blind to what goes with what and to what follows what."""
    rng = generator_for("kitchen", "demonstrations", seed)
    prompts = make_prompts(count, seed=seed_for("kitchen", "demonstrated", seed))
    return [(prompt, _demonstrate(prompt, rng)) for prompt in prompts]


def terms(prompt: str, response: str) -> NDArray[np.float64]:
    """What the hidden reward is a weighted sum of, shape (T,): to measure how far one who knew the classes would get.

    Steps by pairing, by following and by favour of the dish, then the counts that the reward prices.
    """
    seen = read(prompt, response)
    techniques = [_TECHNIQUE[verb] for verb, _ in seen.steps]
    tables = np.zeros((3, len(_PAIRING)))
    for verb, ingredient in seen.cooked:
        tables[0, _ahead(_TECHNIQUE[verb], _KIND[ingredient])] += 1
    for before, after in pairwise(techniques):
        tables[1, _ahead(before, after)] += 1
    for technique in techniques:
        tables[2, _ahead(DISHES.index(seen.dish), technique)] += 1
    misfit = abs(len(seen.steps) - GUESTS[seen.guests])
    counts = (seen.invented, seen.repeated, seen.loose, seen.fillers, misfit, float(seen.ended))
    return np.array([*tables.ravel(), *counts])


def _ahead(row: int, column: int) -> int:
    return (column - row) % len(_PAIRING)


def _by_hidden_class(words: Sequence[str]) -> dict[str, int]:
    """The class of each word: a third of the words, in a hidden order, to each class."""
    order = sorted(words, key=lambda word: seed_for("kitchen", "class", word))
    return {word: rank * len(_PAIRING) // len(order) for rank, word in enumerate(order)}


def _taste(verb: str, ingredient: str) -> float:
    """The judge agrees with the oracle about a step in part; the rest is its own, uniform on [-0.7, 0.7]."""
    own = seed_for("kitchen", "taste", verb, ingredient) / 2**62 - 1.0
    return 0.7 * _PAIRING[_ahead(_TECHNIQUE[verb], _KIND[ingredient])] + 0.7 * own


_TECHNIQUE = _by_hidden_class(VERBS)
_KIND = _by_hidden_class(INGREDIENTS)
_TASTES = {(verb, ingredient): _taste(verb, ingredient) for verb in VERBS for ingredient in INGREDIENTS}


@lru_cache(maxsize=65536)
def _read_prompt(prompt: str) -> tuple[str, str, tuple[str, ...]]:
    match prompt.split():
        case [dish, "for", guests, "from", *given, ":"] if dish in DISHES and guests in GUESTS and given:
            return dish, guests, tuple(given)
    raise UserError(
        f"{prompt!r} is not a prompt of the world kitchen, which read like {make_prompts(1, seed=0)[0]!r}; "
        "use world://kitchen/prompts.jsonl, or another oracle for other prompts"
    )


def _demonstrate(prompt: str, rng: np.random.Generator) -> str:
    """One response; ``care`` says how often its writer slips."""
    _, guests, given = _read_prompt(prompt)
    care = rng.random()
    slip = 1.0 - care

    count = GUESTS[guests] if rng.random() < 0.6 + 0.4 * care else int(rng.integers(1, 6))
    places = rng.permutation(len(given))[:count]
    if rng.random() < 0.3 + 0.6 * care:
        places = np.sort(places)
    ingredients = [given[i] if rng.random() > 0.15 * slip else _pick(INGREDIENTS, rng) for i in places]
    if rng.random() < 0.3 * slip:
        ingredients[-1] = _pick(ingredients, rng)
    acts = [word for ingredient in ingredients for word in (_pick(VERBS, rng), ingredient)]
    if rng.random() < 0.3 * slip:
        del acts[int(rng.integers(len(acts)))]
    room = MAX_RESPONSE_WORDS - 1 - len(acts)
    described = rng.permutation(len(acts))[: min(rng.binomial(len(acts), 0.5), room)]
    words = [word for i, act in enumerate(acts) for word in (_describe(act, rng) if i in described else [act])]
    for kind, most in ((FILLERS, 2.0 * slip), (CONNECTIVES, 2.0)):
        for _ in range(min(int(rng.random() * most), MAX_RESPONSE_WORDS - 1 - len(words))):
            words.insert(int(rng.integers(len(words) + 1)), _pick(kind, rng))
    end = [SERVE] if rng.random() > 0.25 * slip else []
    return " ".join(words + end)


def _describe(act: str, rng: np.random.Generator) -> list[str]:
    """A verb and how it is done, or what an ingredient is like and the ingredient."""
    if act in _TECHNIQUE:
        return [act, _pick(MANNERS[_TECHNIQUE[act]], rng)]
    return [_pick(QUALITIES[_KIND[act]], rng), act]


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]
