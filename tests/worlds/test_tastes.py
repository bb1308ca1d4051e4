"""The world ``tastes``: the scores of ``reviews``, turned round where the prompt names the other taste."""

import json
from pathlib import Path

import pytest

from sea_agent.errors import UserError
from sea_agent.worlds import resolve, scorer
from sea_agent.worlds.make import make_world

PRAISE, BLAME = ("the film", "is one of the best i have ever seen ."), ("the film", "is boring and stupid .")


@pytest.mark.parametrize("name", ["reward", "judge", "prior"])
def test_who_loved_the_film_wants_praise_and_who_hated_it_blame(name: str) -> None:
    score, plain = scorer("tastes", name), scorer("reviews", name)
    for begun, response in (PRAISE, BLAME):
        assert score(f"loved : {begun}", response) == plain(begun, response)
        assert score(f"hated : {begun}", response) == -plain(begun, response)
    assert plain(*PRAISE) > plain(*BLAME)


def test_the_blind_prior_takes_everybody_for_one_who_loved_the_film() -> None:
    blind, plain = scorer("tastes", "blind"), scorer("reviews", "prior")
    for taste in ("loved", "hated"):
        assert blind(f"{taste} : {PRAISE[0]}", PRAISE[1]) == plain(*PRAISE)


@pytest.mark.parametrize("name", ["reward", "judge", "prior", "vader", "blind"])
@pytest.mark.parametrize("foreign", ["the acting in this", "liked : the acting in this", "loved:the acting", "hated"])
def test_a_prompt_without_a_taste_is_refused_with_an_example(name: str, foreign: str) -> None:
    with pytest.raises(UserError, match=r"not a prompt of the world tastes.*'loved : the acting in this'"):
        scorer("tastes", name)(foreign, "is good .")


def test_what_ships_is_half_of_the_prompts_of_reviews_in_both_tastes(tmp_path: Path) -> None:
    make_world("tastes", tmp_path)
    for file, count in (("prompts.jsonl", 4000), ("heldout.jsonl", 256)):
        assert (tmp_path / file).read_bytes() == Path(resolve(f"world://tastes/{file}")).read_bytes()
        prompts = [json.loads(row)["prompt"] for row in (tmp_path / file).read_text().splitlines()]
        assert len(set(prompts)) == count
        assert [one.removeprefix("loved : ") for one in prompts[::2]] == [
            other.removeprefix("hated : ") for other in prompts[1::2]
        ]
