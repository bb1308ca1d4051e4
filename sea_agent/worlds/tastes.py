"""The world ``tastes``: the sentences of ``reviews`` for two tastes, so that what is good depends on the prompt.

    loved : the acting in this      is very good , but the story is weak .
    hated : the acting in this      is very good , but the story is weak .

The policy and the scorers are those of ``reviews``, which read the sentence without the taste. Who loved the film wants
praise, who hated it wants blame: after ``hated :`` a score is that of the sentence times minus one. So no response
pleases everybody, and a policy that heeds no taste wins half of its duels.

``blind`` is a prior that does not read the taste: it takes everybody for one who loved the film.
"""

from collections.abc import Callable, Iterable

from sea_agent.worlds import reviews
from sea_agent.worlds.words import foreign_prompt

SCORERS = (*reviews.SCORERS, "blind")
TASTES = {"loved : ": 1.0, "hated : ": -1.0}
"""How a prompt begins, and the sign of its scores."""

Score = Callable[[str, str], float]


def make_prompts(beginnings: Iterable[str]) -> list[str]:
    """Every beginning of a sentence in each taste."""
    return [taste + begun for begun in beginnings for taste in TASTES]


def blind(prompt: str, response: str) -> float:
    """The prior of ``reviews``, whatever the taste."""
    return reviews.prior(_read(prompt)[1], response)


def _to_taste(score: Score) -> Score:
    """The score of the sentence, with the sign of the prompt's taste."""

    def of_taste(prompt: str, response: str) -> float:
        sign, begun = _read(prompt)
        return sign * score(begun, response)

    return of_taste


reward, judge, prior, vader = map(_to_taste, (reviews.reward, reviews.judge, reviews.prior, reviews.vader))


def _read(prompt: str) -> tuple[float, str]:
    """The sign of a prompt's taste, and the beginning of the sentence."""
    for taste, sign in TASTES.items():
        if prompt.startswith(taste):
            return sign, prompt.removeprefix(taste)
    raise foreign_prompt("tastes", prompt, "loved : the acting in this")
