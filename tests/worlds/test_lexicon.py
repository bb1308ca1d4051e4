"""The grammar, the hidden reward and the judge of the world ``lexicon``."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_agent.errors import UserError
from sea_agent.worlds import lexicon, scorer, world

GIVEN = "anchor apple arrow basket bell boat bridge candle"
RICH = f"rich warm : {GIVEN} =>"
BRIEF = f"brief warm : {GIVEN} =>"
EVERY_NOUN = f"rich warm : {' '.join(lexicon.NOUNS)} =>"

# (what changes, prompt, better response, worse response, what the change is worth)
REWARD_PAIRS = [
    ("inventing a noun", RICH, "anchor .", "anchor wheel .", 0.8),
    ("repeating a noun", RICH, "anchor bell .", "anchor bell anchor .", 0.5),
    ("a word in the tone", RICH, "dear anchor .", "anchor .", 0.6),
    ("a word out of the tone", RICH, "anchor .", "stern anchor .", 0.4),
    ("a filler", RICH, "anchor .", "um anchor .", 0.3),
    ("the prompt's order", RICH, "anchor bell .", "bell anchor .", 0.2),
    ("a full stop at the end", RICH, "anchor .", "anchor", 1.0),
    ("a full stop elsewhere", RICH, "anchor bell .", "anchor . bell", 1.0),
    ("one word more in brief style", BRIEF, "anchor .", "anchor and .", 0.25),
    ("one word more in plain style", BRIEF.replace("brief", "plain"), "anchor .", "anchor and .", 0.12),
]

JUDGE_PAIRS = [
    (
        "a second word in the tone, length aside",
        RICH,
        "dear sweet anchor bell boat .",
        "dear and anchor bell boat .",
        0.25,
    ),
    ("a connective at the ideal length", RICH, "anchor bell and boat with .", "anchor bell and boat => .", 0.15),
    ("half of the nouns invented", RICH, "anchor : : : : .", "anchor wheel : : : .", 1.0),
    ("being too short", RICH, "anchor : : : : .", "anchor : : : .", 0.1),
    ("being too long", RICH, "anchor : : : : .", "anchor : : : : : .", 0.1),
    ("a full stop at the end", RICH, "anchor .", "anchor", 0.5),
]


def _id(pair: tuple[str, str, str, str, float]) -> str:
    return pair[0]


@pytest.mark.parametrize("pair", REWARD_PAIRS, ids=_id)
def test_each_term_of_the_reward_answers_to_its_minimal_pair(pair: tuple[str, str, str, str, float]) -> None:
    _, prompt, better, worse, worth = pair
    assert lexicon.reward(prompt, better) - lexicon.reward(prompt, worse) == pytest.approx(worth)


@pytest.mark.parametrize("pair", JUDGE_PAIRS, ids=_id)
def test_each_term_of_the_judge_answers_to_its_minimal_pair(pair: tuple[str, str, str, str, float]) -> None:
    _, prompt, better, worse, worth = pair
    assert lexicon.judge(prompt, better) - lexicon.judge(prompt, worse) == pytest.approx(worth)


def test_a_quarter_of_the_nouns_has_each_hidden_value() -> None:
    nothing = lexicon.reward(EVERY_NOUN, ".")
    worths = Counter(round(lexicon.reward(EVERY_NOUN, f"{noun} .") - nothing, 6) for noun in lexicon.NOUNS)
    assert worths == {1.0: 10, 0.5: 10, -0.1: 10, -0.6: 10}


def test_the_hidden_value_cannot_be_read_from_the_place_in_the_vocabulary() -> None:
    values = np.array([lexicon.reward(EVERY_NOUN, f"{noun} .") for noun in lexicon.NOUNS])
    assert abs(np.corrcoef(values, np.arange(len(values)))[0, 1]) < 0.3


def test_length_costs_nothing_in_rich_style_and_extra_tone_words_earn_nothing() -> None:
    assert lexicon.reward(RICH, "dear anchor .") == pytest.approx(lexicon.reward(RICH, "dear sweet anchor and ."))


def test_the_judge_ignores_order_and_style_which_the_reward_prices() -> None:
    for prompt, response, other_prompt, other_response in (
        (RICH, "anchor bell .", RICH, "bell anchor ."),
        (RICH, "anchor bell .", BRIEF, "anchor bell ."),
    ):
        assert lexicon.judge(prompt, response) == pytest.approx(lexicon.judge(other_prompt, other_response))
        assert lexicon.reward(prompt, response) != pytest.approx(lexicon.reward(other_prompt, other_response))


def test_the_judge_has_a_taste_of_its_own_that_agrees_with_the_values_in_part() -> None:
    values = [lexicon.reward(EVERY_NOUN, f"{noun} .") for noun in lexicon.NOUNS]
    tastes = [lexicon.judge(EVERY_NOUN, f"{noun} .") for noun in lexicon.NOUNS]
    assert 0.6 < np.corrcoef(values, tastes)[0, 1] < 0.9


@given(st.lists(st.sampled_from([*lexicon.WORDS, "<unk>", "xyz"]), max_size=20))
def test_every_word_is_noticed_once_at_most_and_any_text_has_a_finite_score(words: list[str]) -> None:
    text = " ".join(words)
    seen = lexicon.read(RICH, text)
    noticed = len(seen.named) + len(seen.invented) + seen.repeated + seen.in_tone + seen.off_tone
    assert noticed + seen.fillers + seen.connectives <= seen.words
    assert seen.words + seen.ended == len(words)
    assert np.isfinite([lexicon.reward(RICH, text), lexicon.judge(RICH, text)]).all()


@pytest.mark.parametrize("prompt", ["", "hello", "rich warm anchor =>", "rich warm : =>", "loud warm : anchor =>"])
def test_a_prompt_of_another_world_is_refused_with_an_example(prompt: str) -> None:
    with pytest.raises(UserError, match=r"not a prompt of the world lexicon.*=>"):
        lexicon.reward(prompt, "anchor .")


def test_prompts_are_distinct_seeded_and_extend_shorter_lists() -> None:
    prompts = lexicon.make_prompts(3000, seed=0)
    assert len(set(prompts)) == 3000
    assert prompts[:100] == lexicon.make_prompts(100, seed=0)
    assert set(prompts).isdisjoint(lexicon.make_prompts(3000, seed=1))
    assert {len(prompt.split()) for prompt in prompts} == {12}


def test_demonstrations_fit_the_response_length_and_differ_in_quality() -> None:
    demonstrations = lexicon.make_demonstrations(2000, seed=3)
    assert max(len(response.split()) for _, response in demonstrations) <= lexicon.MAX_RESPONSE_WORDS
    seen = [lexicon.read(*pair) for pair in demonstrations]
    for fault in ("invented", "repeated", "off_tone", "fillers", "setbacks"):
        spoiled = np.mean([bool(getattr(reading, fault)) for reading in seen])
        assert 0.1 < spoiled < 0.6, fault
    assert 0.7 < np.mean([reading.ended for reading in seen]) < 0.95


def test_demonstrations_say_nothing_about_the_hidden_values() -> None:
    values = {noun: lexicon.reward(EVERY_NOUN, f"{noun} .") for noun in lexicon.NOUNS}
    prompts, responses = zip(*lexicon.make_demonstrations(4000, seed=3), strict=True)

    def gap(named: list[list[str]]) -> float:
        """Mean value of named nouns less that of the nouns on offer."""
        offered = [values[word] for prompt in prompts for word in prompt.split() if word in values]
        return float(np.mean([values[noun] for row in named for noun in row]) - np.mean(offered))

    named = [list(lexicon.read(*pair).named) for pair in zip(prompts, responses, strict=True)]
    assert abs(gap(named)) < 0.03
    picky = [[noun for noun in row if values[noun] > min(values.values())] for row in named]
    assert gap(picky) > 0.1


def test_attributes_are_blind_to_values_and_tell_which_nouns_are_named() -> None:
    best, worst = (
        choose(lexicon.NOUNS, key=lambda noun: lexicon.reward(EVERY_NOUN, f"{noun} .")) for choose in (max, min)
    )
    first, second = (lexicon.attributes(EVERY_NOUN, f"{noun} .") for noun in (best, worst))
    assert sorted(first) == sorted(second)
    assert (first != second).sum() == 2


def test_scorers_are_found_by_name_and_unknown_names_are_explained() -> None:
    assert scorer("lexicon", "reward")(RICH, "anchor .") == lexicon.reward(RICH, "anchor .")
    assert scorer("lexicon", "judge")(RICH, "anchor .") == lexicon.judge(RICH, "anchor .")
    with pytest.raises(UserError, match=r"atlantis.*lexicon"):
        world("atlantis")
    with pytest.raises(UserError, match=r"critic.*reward, judge"):
        scorer("lexicon", "critic")
