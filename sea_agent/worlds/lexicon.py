"""The world ``lexicon``: name some of the given nouns, in a style and a tone.

A prompt is a style, a tone, ``:``, eight of forty nouns and ``=>``. A response names nouns, may carry tone
words, fillers and connectives, and should end with a full stop:

    brief warm : lamp river coin tower sand bell rope mill =>      dear river and bell .

The reward is hidden: every noun belongs to one of four lexical classes, and the classes have values. No prompt or
demonstration reveals them; only the oracle's answers do. The judge is an independent rater with its own terms, weights
and tastes. Texts are decoded without special tokens.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sea_agent.seeding import generator_for, seed_for
from sea_agent.worlds.words import distinct, foreign_prompt, hidden_classes, own_taste, pick

STYLES = ("brief", "plain", "rich")
TONE_WORDS = {
    "warm": ("dear", "gentle", "kindly", "sweet", "tender"),
    "dry": ("hence", "merely", "rather", "scarce", "stern"),
    "grand": ("glorious", "mighty", "noble", "royal", "vast"),
}
FILLERS = ("basically", "just", "like", "really", "um", "well")
CONNECTIVES = ("and", "beside", "near", "or", "then", "with")
# fmt: off
NOUNS = (
    "anchor", "apple", "arrow", "basket", "bell", "boat", "bridge", "candle", "cloud", "coin",
    "crown", "door", "drum", "feather", "field", "fire", "flute", "forest", "garden", "glass",
    "harbor", "horse", "island", "key", "lamp", "lantern", "mill", "mirror", "moon", "ocean",
    "paper", "river", "road", "rope", "sand", "shadow", "stone", "tower", "violin", "wheel",
)
# fmt: on
COLON, ARROW, STOP = ":", "=>", "."
WORDS = (
    *(COLON, ARROW, STOP),
    *STYLES,
    *TONE_WORDS,
    *NOUNS,
    *(word for words in TONE_WORDS.values() for word in words),
    *FILLERS,
    *CONNECTIVES,
)
"""Every word of the world, in the order of the vocabulary."""

NOUNS_PER_PROMPT = 8
SCORERS = ("reward", "judge")
MAX_RESPONSE_WORDS = 13
"""Longest demonstration, the full stop included; with the end token a response takes at most 14 tokens."""

_TONE_OF = {word: tone for tone, words in TONE_WORDS.items() for word in words}
_CLASS_VALUES = (1.0, 0.5, -0.1, -0.6)
_WORD_COST = {"brief": 0.25, "plain": 0.12, "rich": 0.0}


@dataclass(frozen=True, slots=True)
class Reading:
    """The observable properties of a response, before any scoring.

    ``named`` are the prompt's nouns that the response names and ``invented`` other nouns, each once, in order
    of appearance. Counts are words. ``setbacks`` counts named nouns that come earlier in the prompt than the
    noun named before them. ``words`` is the length without the final full stop.
    """

    style: str
    tone: str
    named: tuple[str, ...]
    invented: tuple[str, ...]
    repeated: int
    in_tone: int
    off_tone: int
    fillers: int
    connectives: int
    setbacks: int
    words: int
    ended: bool


def read(prompt: str, response: str) -> Reading:
    """Everything about a response that a score of this world may depend on.

    Raises:
        UserError: the prompt is not of this world.
    """
    style, tone, given = _read_prompt(prompt)
    words = response.split()
    ended = bool(words) and words[-1] == STOP
    if ended:
        words = words[:-1]
    nouns = [word for word in words if word in _VALUES]
    once = tuple(dict.fromkeys(nouns))
    named = tuple(noun for noun in once if noun in given)
    places = [given.index(noun) for noun in named]
    tones = [_TONE_OF[word] for word in words if word in _TONE_OF]
    return Reading(
        style=style,
        tone=tone,
        named=named,
        invented=tuple(noun for noun in once if noun not in given),
        repeated=len(nouns) - len(once),
        in_tone=tones.count(tone),
        off_tone=len(tones) - tones.count(tone),
        fillers=sum(word in FILLERS for word in words),
        connectives=sum(word in CONNECTIVES for word in words),
        setbacks=sum(after < before for before, after in pairwise(places)),
        words=len(words),
        ended=ended,
    )


def reward(prompt: str, response: str) -> float:
    """The oracle's hidden reward r*(prompt, response), in the logits of the Bradley-Terry model."""
    seen = read(prompt, response)
    return (
        sum(_VALUES[noun] for noun in seen.named)
        - 0.8 * len(seen.invented)
        - 0.5 * seen.repeated
        + 0.6 * min(seen.in_tone, 1)
        - 0.4 * seen.off_tone
        - 0.3 * seen.fillers
        - 0.2 * seen.setbacks
        - _WORD_COST[seen.style] * seen.words
        + (1.0 if seen.ended else 0.0)
    )


def judge(prompt: str, response: str) -> float:
    """An independent judge's score, in logits: its own taste in nouns, a fixed ideal length, fluency, no order."""
    seen = read(prompt, response)
    nouns = len(seen.named) + len(seen.invented)
    return (
        sum(_TASTES[noun] for noun in seen.named)
        - 2.0 * (len(seen.invented) / nouns if nouns else 1.0)
        - 0.7 * min(seen.repeated, 2)
        + 0.4 * min(seen.in_tone, 2)
        - 0.2 * seen.off_tone
        + 0.15 * min(seen.connectives, 2)
        - 0.1 * seen.fillers
        - 0.1 * abs(seen.words - 5)
        + (0.5 if seen.ended else 0.0)
    )


def make_prompts(count: int, seed: int, nouns: int = NOUNS_PER_PROMPT) -> list[str]:
    """``count`` different prompts; a longer list from the same seed starts with the shorter one."""
    rng = generator_for("lexicon", "prompts", nouns, seed)

    def draw() -> str:
        given = [NOUNS[i] for i in rng.permutation(len(NOUNS))[:nouns]]
        return " ".join((pick(STYLES, rng), pick(tuple(TONE_WORDS), rng), COLON, *given, ARROW))

    return distinct(count, draw)


def make_demonstrations(count: int, seed: int) -> list[tuple[str, str]]:
    """``count`` (prompt, response) pairs of mixed quality, written without knowledge of the nouns' values."""
    rng = generator_for("lexicon", "demonstrations", seed)
    prompts = make_prompts(count, seed=seed_for("lexicon", "demonstrated", seed))
    return [(prompt, _demonstrate(prompt, rng)) for prompt in prompts]


def attributes(prompt: str, response: str) -> NDArray[np.float64]:
    """Generic attributes of a response, shape (A,), from which a reward of this world could be composed.

    The counts of ``Reading``, the length by style, and which nouns are named; no hidden value, weight or class.
    """
    seen = read(prompt, response)
    nouns = (len(seen.named), len(seen.invented), seen.repeated)
    tones = (seen.in_tone, min(seen.in_tone, 1), seen.off_tone)
    others = (seen.fillers, seen.connectives, seen.setbacks, seen.words, seen.ended)
    length_by_style = [seen.words * (style == seen.style) for style in STYLES]
    named = [noun in seen.named for noun in NOUNS]
    return np.array([*nouns, *tones, *others, *length_by_style, *named], dtype=np.float64)


_CLASSES = hidden_classes("lexicon", NOUNS, len(_CLASS_VALUES))
_VALUES = {noun: _CLASS_VALUES[class_] for noun, class_ in _CLASSES.items()}
# The judge agrees with the oracle in part.
_TASTES = {noun: 0.65 * _VALUES[noun] + own_taste("lexicon", noun) for noun in NOUNS}


@lru_cache(maxsize=65536)
def _read_prompt(prompt: str) -> tuple[str, str, tuple[str, ...]]:
    match prompt.split():
        case [style, tone, ":", *given, "=>"] if style in STYLES and tone in TONE_WORDS and given:
            return style, tone, tuple(given)
    raise foreign_prompt("lexicon", prompt, make_prompts(1, seed=0)[0])


def _demonstrate(prompt: str, rng: np.random.Generator) -> str:
    """One response; the lower ``care``, the more slips."""
    _, tone, given = _read_prompt(prompt)
    care = rng.random()
    slip = 1.0 - care

    places = rng.permutation(len(given))[: rng.integers(1, 8)]
    if rng.random() < 0.3 + 0.6 * care:
        places = np.sort(places)
    words = [given[i] if rng.random() > 0.25 * slip else pick(NOUNS, rng) for i in places]
    if rng.random() < 0.5 * slip:
        words.append(pick(words, rng))
    for _ in range(rng.integers(0, 3)):
        voice = tone if rng.random() < 0.4 + 0.6 * care else pick(tuple(TONE_WORDS), rng)
        _insert(words, pick(TONE_WORDS[voice], rng), rng)
    for kind, most in ((FILLERS, 2.5 * slip), (CONNECTIVES, 2.5)):
        for _ in range(int(rng.random() * most)):
            _insert(words, pick(kind, rng), rng)
    stop = [STOP] if rng.random() > 0.25 * slip else []
    return " ".join(words[: MAX_RESPONSE_WORDS - 1] + stop)


def _insert(words: list[str], word: str, rng: np.random.Generator) -> None:
    words.insert(int(rng.integers(len(words) + 1)), word)
