"""The grammar, the hidden reward and the judge of the world ``kitchen``."""

from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sea_agent.errors import UserError
from sea_agent.worlds import kitchen, scorer

PROMPT = "soup for few from bean beet carrot cheese chicken cod :"
NEUTRAL = (*kitchen.DESCRIBING, *kitchen.CONNECTIVES)

# (what changes, better response, worse response, what the change is worth)
REWARD_PAIRS = [
    ("an invented ingredient rather than a repeated one", "bake bean bake bean", "bake bean bake mint", 0.3),
    ("a verb alone", "bake bean serve", "fry bake bean serve", 0.3),
    ("an ingredient alone", "bake bean serve", "beet bake bean serve", 0.3),
    ("a filler", "bake bean serve", "maybe bake bean serve", 0.2),
    ("serving at the end", "bake bean serve", "bake bean", 0.5),
    ("serving elsewhere", "bake bean serve", "serve bake bean", 0.5),
]

JUDGE_PAIRS = [
    ("an invented ingredient rather than a repeated one", "bake bean bake bean", "bake bean bake mint", 0.3),
    ("another verb", "bake bean chop mint", "bake bean bake mint", 0.15),
    ("a describing word", "bake fresh bean serve", "bake bean serve", 0.15),
    ("a third describing word", "bake finely fresh bean serve", "bake finely fresh young bean serve", 0.0),
    ("a verb alone", "bake bean serve", "fry bake bean serve", 0.2),
    ("a filler", "bake bean serve", "maybe bake bean serve", 0.1),
    ("serving at the end", "bake bean serve", "bake bean", 0.5),
]


def every(dish: str = "soup", guests: str = "few") -> str:
    """A prompt that offers every ingredient."""
    return f"{dish} for {guests} from {' '.join(kitchen.INGREDIENTS)} :"


def over_dishes(response: str, given: str = " ".join(kitchen.INGREDIENTS)) -> float:
    """The mean reward over the dishes, whose favours cancel."""
    return float(np.mean([kitchen.reward(f"{dish} for few from {given} :", response) for dish in kitchen.DISHES]))


def pairing() -> NDArray[np.float64]:
    """(verbs, ingredients) what each step is worth, up to one constant."""
    return np.array([[over_dishes(f"{verb} {food}") for food in kitchen.INGREDIENTS] for verb in kitchen.VERBS])


def following() -> NDArray[np.float64]:
    """(verbs, verbs) worth of one verb following another, up to one constant; invented food has no pairing."""
    return np.array(
        [[over_dishes(f"{one} mint {two} pea", given="bean") for two in kitchen.VERBS] for one in kitchen.VERBS]
    )


def favour() -> NDArray[np.float64]:
    """(dishes, verbs) what a dish adds to a verb."""
    rewards = [[kitchen.reward(every(dish), f"{verb} bean") for verb in kitchen.VERBS] for dish in kitchen.DISHES]
    return np.array(rewards) - np.mean(rewards, axis=0)


TABLES = {"pairing": pairing, "following": following, "favour": favour}


def _id(pair: tuple[str, str, str, float]) -> str:
    return pair[0]


@pytest.mark.parametrize("pair", REWARD_PAIRS, ids=_id)
def test_each_count_of_the_reward_answers_to_its_minimal_pair(pair: tuple[str, str, str, float]) -> None:
    _, better, worse, worth = pair
    assert kitchen.reward(PROMPT, better) - kitchen.reward(PROMPT, worse) == pytest.approx(worth)


@pytest.mark.parametrize("pair", JUDGE_PAIRS, ids=_id)
def test_each_count_of_the_judge_answers_to_its_minimal_pair(pair: tuple[str, str, str, float]) -> None:
    _, better, worse, worth = pair
    assert kitchen.judge(PROMPT, better) - kitchen.judge(PROMPT, worse) == pytest.approx(worth)


@pytest.mark.parametrize("table", TABLES)
def test_no_word_has_a_value_by_itself_in_any_table(table: str) -> None:
    worths = TABLES[table]()
    worths = worths - worths.mean()
    assert worths.sum(0) == pytest.approx(0.0, abs=1e-9)
    assert worths.sum(1) == pytest.approx(0.0, abs=1e-9)
    assert np.ptp(worths) > 0.4


def test_each_verb_suits_a_third_of_the_ingredients_and_verbs_come_in_three_techniques() -> None:
    worths = np.round(pairing() - pairing().mean(), 6)
    assert {tuple(Counter(row).items()) for row in np.sort(worths, axis=1).tolist()} == {((-0.55, 12), (1.1, 6))}
    assert Counter(Counter(map(tuple, worths.tolist())).values()) == {2: 3}


def test_techniques_like_to_follow_each_other_in_a_cycle() -> None:
    worths = np.round(following() - following().mean(), 6)
    assert worths == pytest.approx(-worths.T)
    forward = (worths > 0).astype(int)
    assert set(worths.ravel().tolist()) == {0.35, 0.0, -0.35}
    assert np.trace(forward @ forward) == 0
    assert np.trace(forward @ forward @ forward) > 0


def test_exchanging_two_ingredients_changes_the_reward_and_not_the_words() -> None:
    good, bad = "bake egg boil leek fry bean serve", "bake leek boil bean fry egg serve"
    assert Counter(good.split()) == Counter(bad.split())
    assert kitchen.reward(every(), good) - kitchen.reward(every(), bad) == pytest.approx(3 * 1.65)


def test_permuting_the_steps_changes_the_reward_and_not_what_is_cooked_how() -> None:
    steps = ("bake egg", "boil leek", "fry bean")
    rewards = {order: kitchen.reward(every(), " ".join(order)) for order in permutations(steps)}
    assert rewards[steps] - rewards[steps[::-1]] == pytest.approx(4 * 0.35)
    assert len({round(reward, 6) for reward in rewards.values()}) == 2
    cooked = {frozenset(kitchen.read(every(), " ".join(order)).cooked) for order in rewards}
    assert len(cooked) == 1


def test_each_dish_favours_other_verbs() -> None:
    liked = [frozenset(np.flatnonzero(row > 0).tolist()) for row in favour()]
    assert sorted(verb for verbs in liked for verb in verbs) == list(range(len(kitchen.VERBS)))
    assert favour().max() == pytest.approx(0.3)


@pytest.mark.parametrize(("guests", "suits"), kitchen.GUESTS.items())
def test_the_number_of_steps_should_suit_the_guests(guests: str, suits: int) -> None:
    def misfit(steps: int) -> float:
        """What so many steps are worth for these guests rather than for few."""
        response = " ".join(["bake bean"] * steps)
        return kitchen.reward(every(guests=guests), response) - kitchen.reward(every(guests="few"), response)

    differences = [misfit(steps) for steps in range(7)]
    assert differences == pytest.approx([0.5 * (abs(n - 3) - abs(n - suits)) for n in range(7)])


def test_inventing_costs_and_leaves_the_pairing_unpaid() -> None:
    def without(ingredient: str) -> str:
        return every().replace(f" {ingredient} ", " ")

    losses = [
        kitchen.reward(every(), f"bake {i}") - kitchen.reward(without(i), f"bake {i}") for i in kitchen.INGREDIENTS
    ]
    assert Counter(np.round(losses, 6).tolist()) == {1.7: 6, 0.05: 12}


@given(st.lists(st.sampled_from(kitchen.WORDS), max_size=12), st.data())
def test_describing_words_and_connectives_are_worth_nothing_wherever_they_stand(
    words: list[str], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(words)))
    if place == len(words) and words[-1:] == [kitchen.SERVE]:
        place -= 1
    more = [*words[:place], data.draw(st.sampled_from(NEUTRAL)), *words[place:]]
    assert kitchen.reward(PROMPT, " ".join(more)) == pytest.approx(kitchen.reward(PROMPT, " ".join(words)))


@given(st.lists(st.sampled_from([*kitchen.WORDS, "<unk>", "xyz"]), max_size=20))
def test_every_verb_and_ingredient_is_noticed_once_and_any_text_has_a_finite_score(words: list[str]) -> None:
    text = " ".join(words)
    seen = kitchen.read(PROMPT, text)
    acts = sum(word in (*kitchen.VERBS, *kitchen.INGREDIENTS) for word in words)
    assert 2 * len(seen.steps) + seen.loose == acts
    assert len(seen.cooked) + seen.invented + seen.repeated == len(seen.steps)
    assert acts + seen.fillers + seen.described <= len(words)
    assert np.isfinite([kitchen.reward(PROMPT, text), kitchen.judge(PROMPT, text)]).all()


def test_the_reward_is_a_weighted_sum_of_its_true_terms_and_of_no_fewer() -> None:
    demonstrations = kitchen.make_demonstrations(2000, seed=4)
    terms = np.array([[*kitchen.terms(*pair), 1.0] for pair in demonstrations])
    rewards = np.array([kitchen.reward(*pair) for pair in demonstrations])

    def worst_error(columns: slice) -> float:
        weights = np.linalg.lstsq(terms[:1000, columns], rewards[:1000], rcond=None)[0]
        return float(np.abs(terms[1000:, columns] @ weights - rewards[1000:]).max())

    assert worst_error(slice(None)) < 1e-9
    assert worst_error(slice(3, None)) > 1.0


def test_the_judge_ignores_the_dish_and_the_guests_which_the_reward_prices() -> None:
    response = "bake egg boil leek serve"
    prompts = [every(dish, guests) for dish in kitchen.DISHES for guests in kitchen.GUESTS]
    assert len({round(kitchen.judge(prompt, response), 9) for prompt in prompts}) == 1
    assert len({round(kitchen.reward(prompt, response), 9) for prompt in prompts}) > 3


def test_the_judge_has_a_taste_of_its_own_that_agrees_with_the_pairing_in_part() -> None:
    tastes = [[kitchen.judge(every(), f"{verb} {food}") for food in kitchen.INGREDIENTS] for verb in kitchen.VERBS]
    assert 0.6 < np.corrcoef(pairing().ravel(), np.ravel(tastes))[0, 1] < 0.9


@pytest.mark.parametrize(
    "prompt",
    ["", "hello", "soup for few from :", "soup for six from egg :", "rich warm : egg =>", "soup for few from egg"],
)
def test_a_prompt_of_another_world_is_refused_with_an_example(prompt: str) -> None:
    with pytest.raises(UserError, match=r"not a prompt of the world kitchen.* :'"):
        kitchen.reward(prompt, "bake egg serve")


def test_prompts_are_distinct_seeded_and_extend_shorter_lists() -> None:
    prompts = kitchen.make_prompts(3000, seed=0)
    assert len(set(prompts)) == 3000
    assert prompts[:100] == kitchen.make_prompts(100, seed=0)
    assert prompts[:100] != kitchen.make_prompts(100, seed=1)
    assert {len(prompt.split()) for prompt in prompts} == {11}


def test_demonstrations_fit_the_response_length_and_differ_in_quality() -> None:
    demonstrations = kitchen.make_demonstrations(2000, seed=3)
    assert max(len(response.split()) for _, response in demonstrations) <= kitchen.MAX_RESPONSE_WORDS
    seen = [kitchen.read(*pair) for pair in demonstrations]
    for fault in ("invented", "repeated", "loose", "fillers"):
        spoiled = np.mean([bool(getattr(reading, fault)) for reading in seen])
        assert 0.05 < spoiled < 0.3, fault
    assert 0.7 < np.mean([reading.ended for reading in seen]) < 0.95
    assert 0.6 < np.mean([len(reading.steps) == kitchen.GUESTS[reading.guests] for reading in seen]) < 0.9


def test_demonstrations_say_nothing_about_the_hidden_tables() -> None:
    pairs = kitchen.make_demonstrations(4000, seed=3)
    # Steps by pairing, following and favour: three counts for each table.
    counts = np.array([kitchen.terms(*pair)[:9] for pair in pairs])

    def shares(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        tables = rows.sum(0).reshape(3, 3)
        return tables / tables.sum(1, keepdims=True)

    assert np.abs(shares(counts) - 1 / 3).max() < 0.02
    rewards = np.array([kitchen.reward(*pair) for pair in pairs])
    assert np.abs(shares(counts[rewards > np.median(rewards)]) - 1 / 3).max() > 0.1


def test_describing_words_tell_which_verbs_and_ingredients_are_alike() -> None:
    manners: dict[str, set[str]] = {}
    qualities: dict[str, set[str]] = {}
    for _, response in kitchen.make_demonstrations(4000, seed=3):
        words = response.split()
        for one, two in pairwise(words):
            if one in kitchen.VERBS and any(two in group for group in kitchen.MANNERS):
                manners.setdefault(one, set()).add(two)
            if two in kitchen.INGREDIENTS and any(one in group for group in kitchen.QUALITIES):
                qualities.setdefault(two, set()).add(one)
    worths = pairing()
    for kinds, rows in ((manners, worths), (qualities, worths.T)):
        words_in_order = kitchen.VERBS if kinds is manners else kitchen.INGREDIENTS
        described = {word: frozenset(kinds[word]) for word in words_in_order}
        assert len(set(described.values())) == 3
        for one, row in zip(words_in_order, rows, strict=True):
            for two, other in zip(words_in_order, rows, strict=True):
                assert (described[one] == described[two]) == np.allclose(row, other)


def test_scorers_are_found_by_name() -> None:
    assert scorer("kitchen", "reward")(PROMPT, "bake bean serve") == kitchen.reward(PROMPT, "bake bean serve")
    assert scorer("kitchen", "judge")(PROMPT, "bake bean serve") == kitchen.judge(PROMPT, "bake bean serve")
