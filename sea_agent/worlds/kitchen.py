"""The world ``kitchen``: cook a dish for some guests from the given ingredients, step by step.

A prompt is a dish, ``for``, the number of guests, ``from``, six of eighteen ingredients and ``:``. A response is a
sequence of steps, each a verb and an ingredient. An adverb may follow the verb and an adjective may precede the
ingredient; fillers and connectives may occur anywhere, and ``serve`` should come last:

    soup for few from leek cod mint egg kale pea :      chop finely cod then boil sweet pea fry mint serve

The hidden reward depends on no single word. Every verb belongs to one of three techniques and every ingredient to one
of three kinds. The value of a step depends on its technique and kind, each dish favours one technique, and techniques
should follow each other in a cycle. Rows and columns of these tables sum to zero, so the same words make a good or a
bad response depending on pairing and order. Adverbs and adjectives in the demonstrations reveal which verbs and which
ingredients are alike, as a pretrained model would know; only the oracle's answers reveal what goes with what. The
judge is an independent rater with its own terms, weights and tastes. Texts are decoded without special tokens.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from sea_agent.seeding import generator_for, seed_for
from sea_agent.worlds.words import distinct, foreign_prompt, hidden_classes, own_taste, pick

DISHES = ("roast", "salad", "soup")
GUESTS = {"one": 2, "few": 3, "many": 4}
"""The ideal number of steps for each number of guests."""
VERBS = ("bake", "boil", "chop", "fry", "glaze", "grill")
# fmt: off
INGREDIENTS = (
    "bean", "beet", "carrot", "cheese", "chicken", "cod", "corn", "egg", "garlic",
    "kale", "leek", "lemon", "lentil", "mint", "mushroom", "onion", "pea", "pepper",
)
# fmt: on
MANNERS = (("finely", "neatly"), ("gently", "slowly"), ("boldly", "quickly"))
"""Adverbs that follow a verb, by its technique."""
QUALITIES = (("fresh", "young"), ("dried", "plain"), ("ripe", "sweet"))
"""Adjectives that precede an ingredient, by its kind."""
FILLERS = ("maybe", "nicely", "perhaps", "simply", "surely", "well")
CONNECTIVES = ("also", "and", "next", "then")
FOR, FROM, COLON, SERVE = "for", "from", ":", "serve"
DESCRIBING = tuple(word for words in (*MANNERS, *QUALITIES) for word in words)
WORDS = (*(FOR, FROM, COLON, SERVE), *DISHES, *GUESTS, *VERBS, *INGREDIENTS, *DESCRIBING, *FILLERS, *CONNECTIVES)
"""Every word of the world, in the order of the vocabulary."""

INGREDIENTS_PER_PROMPT = 6
SCORERS = ("reward", "judge")
MAX_RESPONSE_WORDS = 13
"""Longest demonstration, ``serve`` included; with the end token a response takes at most 14 tokens."""

# The hidden tables, indexed by (column class - row class) mod 3; their rows and columns sum to zero.
_PAIRING = (1.1, -0.55, -0.55)
_FOLLOWING = (0.0, 0.35, -0.35)
_FAVOUR = (0.3, -0.15, -0.15)


@dataclass(frozen=True, slots=True)
class Reading:
    """The observable properties of a response, before any scoring.

    ``steps`` are pairs of a verb and the ingredient that follows it with no other verb or ingredient in between;
    ``loose`` counts verbs and ingredients outside steps. ``cooked`` are the first steps with each ingredient of the
    prompt, ``invented`` counts the distinct other ingredients in steps, and ``repeated`` the steps whose ingredient an
    earlier step used. ``described`` counts manners and qualities.
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
    """Everything about a response that a score of this world may depend on.

    Raises:
        UserError: the prompt is not of this world.
    """
    dish, guests, given = _read_prompt(prompt)
    words = response.split()
    acts = [word for word in words if word in _TECHNIQUE or word in _KIND]
    steps = tuple(pair for pair in pairwise(acts) if pair[0] in _TECHNIQUE and pair[1] in _KIND)
    cooked: dict[str, str] = {}
    for verb, ingredient in steps:
        cooked.setdefault(ingredient, verb)
    return Reading(
        dish=dish,
        guests=guests,
        steps=steps,
        cooked=tuple((verb, ingredient) for ingredient, verb in cooked.items() if ingredient in given),
        invented=sum(ingredient not in given for ingredient in cooked),
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
    """An independent judge's score, in logits: its own taste in steps, less weight on order, variety, fixed length."""
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

    def draw() -> str:
        given = [INGREDIENTS[i] for i in rng.permutation(len(INGREDIENTS))[:INGREDIENTS_PER_PROMPT]]
        return " ".join((pick(DISHES, rng), FOR, pick(tuple(GUESTS), rng), FROM, *given, COLON))

    return distinct(count, draw)


def make_demonstrations(count: int, seed: int) -> list[tuple[str, str]]:
    """``count`` (prompt, response) pairs of mixed quality, written without knowledge of the hidden tables."""
    rng = generator_for("kitchen", "demonstrations", seed)
    prompts = make_prompts(count, seed=seed_for("kitchen", "demonstrated", seed))
    return [(prompt, _demonstrate(prompt, rng)) for prompt in prompts]


def terms(prompt: str, response: str) -> NDArray[np.float64]:
    """The terms whose weighted sum is the hidden reward, shape (T,): features for a learner that knew the classes.

    Steps counted by pairing, by succession and by the dish's favour, then the other counts in the reward.
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


_TECHNIQUE = hidden_classes("kitchen", VERBS, len(_PAIRING))
_KIND = hidden_classes("kitchen", INGREDIENTS, len(_PAIRING))
# The judge agrees with the oracle in part.
_TASTES = {
    step: 0.7 * _PAIRING[_ahead(_TECHNIQUE[step[0]], _KIND[step[1]])] + own_taste("kitchen", *step)
    for step in product(VERBS, INGREDIENTS)
}


@lru_cache(maxsize=65536)
def _read_prompt(prompt: str) -> tuple[str, str, tuple[str, ...]]:
    match prompt.split():
        case [dish, "for", guests, "from", *given, ":"] if dish in DISHES and guests in GUESTS and given:
            return dish, guests, tuple(given)
    raise foreign_prompt("kitchen", prompt, make_prompts(1, seed=0)[0])


def _demonstrate(prompt: str, rng: np.random.Generator) -> str:
    """One response; the lower ``care``, the more slips."""
    _, guests, given = _read_prompt(prompt)
    care = rng.random()
    slip = 1.0 - care

    count = GUESTS[guests] if rng.random() < 0.6 + 0.4 * care else int(rng.integers(1, 6))
    places = rng.permutation(len(given))[:count]
    if rng.random() < 0.3 + 0.6 * care:
        places = np.sort(places)
    ingredients = [given[i] if rng.random() > 0.15 * slip else pick(INGREDIENTS, rng) for i in places]
    if rng.random() < 0.3 * slip:
        ingredients[-1] = pick(ingredients, rng)
    acts = [word for ingredient in ingredients for word in (pick(VERBS, rng), ingredient)]
    if rng.random() < 0.3 * slip:
        del acts[int(rng.integers(len(acts)))]
    room = MAX_RESPONSE_WORDS - 1 - len(acts)
    described = rng.permutation(len(acts))[: min(rng.binomial(len(acts), 0.5), room)]
    words = [word for i, act in enumerate(acts) for word in (_describe(act, rng) if i in described else [act])]
    for kind, most in ((FILLERS, 2.0 * slip), (CONNECTIVES, 2.0)):
        for _ in range(min(int(rng.random() * most), MAX_RESPONSE_WORDS - 1 - len(words))):
            words.insert(int(rng.integers(len(words) + 1)), pick(kind, rng))
    end = [SERVE] if rng.random() > 0.25 * slip else []
    return " ".join(words + end)


def _describe(act: str, rng: np.random.Generator) -> list[str]:
    """A verb and an adverb, or an adjective and an ingredient."""
    if act in _TECHNIQUE:
        return [act, pick(MANNERS[_TECHNIQUE[act]], rng)]
    return [pick(QUALITIES[_KIND[act]], rng), act]
