"""The world ``reviews``: end a sentence about a film, in real English, so that people would call it praise.

A prompt is the first 2 to 5 words of a sentence from a film review; a response ends the sentence. Texts are lower-case
words and punctuation marks, separated by blanks:

    the acting in this      is very good , but the story is weak .

The hidden reward is a small network that learnt from people's marks of film snippets. The judge weighs words and pairs
of neighbouring words by the stars of other reviews and has seen no mark. Two more scorers are for experiments:
``prior``, a cheap signal that agrees with the reward in part (words weighted by the stars of short reviews), and
``vader``, the lexicon and rules of the package vaderSentiment where that is installed. On responses of the policy the
reward correlates within prompts .80 with the judge, .72 with the prior and .58 with VADER; docs/reviews.md has more. A
score is of the whole sentence and, for the reward, in logits: the difference of two rewards is the log-odds with which
one person, drawn at random, would mark one sentence above the other.

The files are made by ``sea_agent/worlds/make_reviews.py``.
"""

import re
import zlib
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sea_agent.errors import UserError
from sea_agent.worlds.words import foreign_prompt

SCORERS = ("reward", "judge", "prior", "vader")
HOME = Path(__file__).parent / "data" / "reviews"
WORD = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*|\.\.\.|[.,!?;:]")
"""A word or a punctuation mark of the world, in lower case."""
MAX_RESPONSE_TOKENS = 20
_PROMPT = re.compile(r"[a-z0-9'-]+(?: [a-z0-9'-]+)*")
_VADER_SCALE = 4.0
"""VADER's score lies between -1 and 1, people's marks between -4 and 4."""


def reward(prompt: str, response: str) -> float:
    """The oracle's hidden reward, in logits: what a network taught by people's marks thinks of the sentence."""
    return _network().score(_sentence(prompt, response))


def judge(prompt: str, response: str) -> float:
    """An independent judge's score: log-odds, by words and pairs of them, that the author of a review liked it."""
    return _hashed("judge").score(_sentence(prompt, response))


def prior(prompt: str, response: str) -> float:
    """A cheap signal beside the oracle: log-odds by words alone, from the stars of short reviews."""
    return _hashed("prior").score(_sentence(prompt, response))


def vader(prompt: str, response: str) -> float:
    """The score of the package vaderSentiment, which knows rated words and rules, times 4.

    Raises:
        UserError: the package is not installed.
    """
    sentence = _sentence(prompt, response)
    return _VADER_SCALE * float(_vader().polarity_scores(sentence)["compound"])


def words(text: str) -> list[str]:
    """The words and punctuation marks of a text in the world's spelling; other characters separate words."""
    return WORD.findall(text.lower())


@dataclass(frozen=True, slots=True)
class HashedWords:
    """A linear score of the different words of a text, and of its pairs of neighbours if ``pairs``, by their hash."""

    weights: NDArray[np.generic]
    """(2^n,) weights, in steps of ``scale``."""
    scale: float
    pairs: bool

    @classmethod
    def load(cls, path: Path) -> "HashedWords":
        """The scorer in a ``.safetensors`` file."""
        tensors = _tensors(path)
        return cls(tensors["weights"], float(tensors["scale"][0]), bool(tensors["pairs"][0]))

    def score(self, text: str) -> float:
        """The sum of the weights over the root of their number; 0 for a text without words."""
        places = buckets(words(text), len(self.weights), self.pairs)
        return self.scale * float(self.weights[places].sum(dtype=np.float64)) / max(1, len(places)) ** 0.5


def buckets(text: list[str], count: int, pairs: bool) -> NDArray[np.int64]:
    """The different places among ``count``, a power of two, to which words and pairs of neighbours hash."""
    found = [*text, *(f"{one} {two}" for one, two in pairwise(text))] if pairs else text
    return np.unique(np.array([zlib.crc32(part.encode()) & (count - 1) for part in found], dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Network:
    """One convolution over tokens; the largest and the mean activations are weighted.

    Dimension letters: V vocabulary, D width of a token, K taken together, C channels, L tokens.
    """

    tokenizer: Any
    embeddings_V_D: NDArray[np.float32]
    filters_KD_C: NDArray[np.float32]
    bias_C: NDArray[np.float32]
    weights_2C: NDArray[np.float32]
    scale: float
    """Logits for one mark."""

    @classmethod
    def load(cls, path: Path, tokenizer: Path) -> "Network":
        """The network in a ``.safetensors`` file, which reads the tokens of a ``tokenizer.json``."""
        from tokenizers import Tokenizer

        tensors = {name: tensor.astype(np.float32) for name, tensor in _tensors(path).items()}
        scale = float(tensors.pop("scale")[0])
        return cls(Tokenizer.from_file(str(tokenizer)), **tensors, scale=scale)

    def score(self, text: str) -> float:
        """The expected mark of a text, in logits."""
        width = len(self.filters_KD_C) // self.embeddings_V_D.shape[1]
        around = np.zeros((width // 2, self.embeddings_V_D.shape[1]), dtype=np.float32)
        tokens_L_D = self.embeddings_V_D[self.tokenizer.encode(text).ids]
        padded = np.concatenate([around, tokens_L_D, around])
        windows_L_KD = np.hstack([padded[i : i + len(tokens_L_D)] for i in range(width)])
        active_L_C = np.maximum(windows_L_KD @ self.filters_KD_C + self.bias_C, 0)
        return self.scale * float(np.concatenate([active_L_C.max(0), active_L_C.mean(0)]) @ self.weights_2C)


def _sentence(prompt: str, response: str) -> str:
    if not _PROMPT.fullmatch(prompt):
        raise foreign_prompt("reviews", prompt, "the acting in this")
    return f"{prompt} {response}"


def _tensors(path: Path) -> dict[str, NDArray[Any]]:
    # Imported late: a base installation has no safetensors, and checks configurations.
    from safetensors.numpy import load_file

    return load_file(path)


@cache
def _network() -> Network:
    return Network.load(HOME / "scorers" / "reward.safetensors", HOME / "policy" / "tokenizer.json")


@cache
def _hashed(name: str) -> HashedWords:
    return HashedWords.load(HOME / "scorers" / f"{name}.safetensors")


@cache
def _vader() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise UserError(
            "the scorer vader of the world reviews needs the package vaderSentiment: pip install vaderSentiment==3.3.2"
        ) from None
    return SentimentIntensityAnalyzer()
