"""The choice of one live duel: which pair, what its answer would tell, and that nothing else has a say."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loop.live_duels import FOUR, PROMPT, Known, choose, responses, won
from run_parts import selector as make_selector
from scipy.integrate import quad
from scipy.stats import binomtest, norm

from sea_agent.bandit.betting import ERROR, Wager
from sea_agent.config.files import parse_config
from sea_agent.errors import RunFailure
from sea_agent.loop import deciding
from sea_agent.loop.deciding import IGNORANCE, Decision, decide, live_trust
from sea_agent.loop.selector import Selector
from sea_agent.types import Candidates, Duel, LabelSource, Outcome, Prompt, Response, Verdict
from sea_agent.worlds import lexicon

DUEL = Duel("d", 0, PROMPT, *responses("w1", "w2"), "sea_ee", 0, 0, LabelSource.ORACLE)


def test_two_thompson_draws_name_the_pair() -> None:
    selector = Known([0.0, 0, 3, 0], [0.0, 0, 3, 0], [0.0, 5, 3, 0], [9.0, 0, 0, 0])
    assert choose(selector, *FOUR).pair == (2, 1), "draw 0, and the first that names another"
    assert choose(Known([0.0, 5, 3, 0], [0.0, 0, 3, 0]), *FOUR).pair == (1, 2)


@pytest.mark.parametrize("shown", [0, 1, 2, 3])
def test_what_is_shown_is_compared_with_what_a_draw_names_instead(shown: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "TESTS", 0.0)
    selector = Known([0.0, 0, 3, 0], [0.0, 5, 3, 0])
    assert choose(selector, *FOUR, shown=shown).pair == (shown, 1 if shown == 2 else 2)


def test_where_all_draws_name_the_same_there_is_nothing_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "TESTS", 0.0)
    selector = Known([0.0, 0, 3, 0], [0.0, 1, 3, 0], mean=[0.0, 0, 3, 0])
    sure = choose(selector, *FOUR)
    assert (sure.pair, sure.information, sure.belief, sure.best) == (None, 0.0, None, 2)
    assert choose(selector, *FOUR, shown=2).pair is None
    assert choose(selector, *FOUR, shown=0).pair == (0, 2), "the control: something else is shown"


def test_of_equal_texts_the_first_or_the_one_shown_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "TESTS", 0.0)
    selector = Known([0.0, 1.0], [1.0, 0.0], mean=[0.0, 1.0])
    assert choose(selector, "w1", "w1", "w2", "w2").pair == (2, 0)
    assert choose(selector, "w1", "w1", "w2", "w2", shown=3).pair == (3, 0)
    assert choose(selector, "w1", "w1", "w2", "w2", shown=1).pair == (1, 2)
    assert selector.seen == [["w1", "w2"], ["w1", "w2"], ["w1", "w2"]]


@pytest.mark.parametrize("selector", [None, Known([0.0], [1.0])])
@pytest.mark.parametrize("shown", [None, 0, 1])
def test_fewer_than_two_different_texts_are_no_question(selector: Any, shown: int | None) -> None:
    same = choose(selector, "w1", "w1", "w1", shown=shown)
    assert (same.pair, same.information, same.best) == (None, 0.0, shown or 0)
    assert choose(selector, "w1").pair is None


@pytest.mark.parametrize("shown", [-1, 2, 99])
def test_what_is_shown_must_be_among_the_responses(shown: int) -> None:
    with pytest.raises(ValueError, match=f"shown is {shown}, and there are 2"):
        choose(None, "w1", "w2", shown=shown)
    with pytest.raises(ValueError, match="no response"):
        decide(None, PROMPT, [], "k")


def test_without_a_posterior_two_samples_of_the_policy_are_compared() -> None:
    decision = choose(None, "w1", "w1", "w2", "w3")
    assert decision == Decision((0, 2), False, 0, IGNORANCE, None, None, None, None, None, None, 0, 0.0)
    assert choose(None, *FOUR, shown=2).pair == (2, 0)
    assert choose(None, *FOUR, shown=2).best == 2


def test_ignorance_tells_what_the_prior_of_a_difference_does() -> None:
    def entropy(gap: float) -> float:
        chance = 1 / (1 + math.exp(-gap))
        return -chance * math.log(chance) - (1 - chance) * math.log(1 - chance)

    expected = quad(lambda gap: entropy(gap) * norm.pdf(gap, scale=math.sqrt(2)), -12, 12)[0]
    assert pytest.approx(math.log(2) - expected, abs=1e-4) == IGNORANCE


def test_a_posterior_that_is_not_borne_out_is_put_to_the_test_and_says_what_it_believes() -> None:
    draws = [0.0, 0, 3, 0], [0.0, 5, 3, 0]
    doubted = choose(Known(*draws, mean=[0.0, 3, 2, -1], borne_out=False), *FOUR)
    assert (doubted.pair, doubted.best, doubted.trust) == ((1, 3), 0, 0.0), "the pair whose order it is surest of"
    assert doubted.belief == pytest.approx((0.5 + 1 / (1 + math.exp(-5))) / 2, rel=1e-5)
    assert doubted.information > 0.0
    believed = choose(Known(*draws, mean=[0.0, 3, 2, -1]), *FOUR)
    assert (believed.pair, believed.best, believed.trust) == ((2, 1), 1, 1.0), "the control"
    blind = choose(Known(*draws, mean=[0.0, 3, 2, 0], blind=True), *FOUR)
    assert (blind.pair, blind.best) == ((0, 1), 1)


@pytest.mark.parametrize("shown", [0, 1, 2, 3])
def test_no_belief_places_a_response_beside_one_that_is_shown_before_it_is_borne_out(shown: int) -> None:
    """Where the order cannot be drawn, users who like one place better would else bear out whatever is believed."""
    draws = [0.0, 0, 3, 0], [0.0, 5, 3, 0]
    pairs = {
        choose(Known(*draws, mean=mean, borne_out=False), *FOUR, shown=shown).pair
        for mean in ([0.0, 3, 2, -1], [4.0, 1, 0, 9], [-5.0, -4, 2, 1])
    }
    assert pairs == {(shown, 0 if shown else 1)}


def test_without_any_opinion_samples_are_compared() -> None:
    draws = [0.0, 0, 3, 0], [0.0, 5, 3, 0]
    assert choose(Known(*draws, mean=[1.0] * 4, borne_out=False), *FOUR).pair == (0, 1)
    assert choose(Known(*draws, borne_out=False), *FOUR).pair == (0, 1)


@pytest.mark.parametrize("gap", [0.1, 1.0, 4.0])
def test_the_information_is_that_of_the_pair(gap: float) -> None:
    """Two draws that swap two candidates: the label is a coin in sum, and one of probability σ(gap) under each."""
    chance = 1 / (1 + math.exp(-gap))
    entropy = -chance * math.log(chance) - (1 - chance) * math.log(1 - chance)
    decision = choose(Known([gap, 0.0, -9.0], [0.0, gap, -9.0]), "w1", "w2", "w3")
    assert decision.pair == (0, 1)
    assert decision.information == pytest.approx(math.log(2) - entropy, rel=1e-4)
    assert decision.belief == pytest.approx(0.5)
    assert decision.disagreement == pytest.approx(chance - 0.5, rel=1e-4)
    other = choose(Known([gap, 0.0, -9.0], [0.0, gap, -9.0]), "w1", "w2", "w3", shown=2)
    assert other.information < 0.5 * decision.information, "the control: another pair tells less"


def test_regret_is_the_mean_of_the_best_less_what_is_shown() -> None:
    selector = Known([1.0, 0.0, 2.0], [1.0, 4.0, 0.0], mean=[1.0, 2.0, 1.0])
    decision = choose(selector, "w1", "w2", "w3")
    assert decision.pair == (2, 1)
    assert decision.regret_first == pytest.approx(((2 - 1) + (4 - 1)) / 2)
    assert decision.regret_best == pytest.approx(((2 - 0) + (4 - 4)) / 2)
    assert decision.regret_pair == pytest.approx((((2 - 2) + (2 - 0)) / 2 + ((4 - 0) + (4 - 4)) / 2) / 2)
    assert choose(selector, "w1", "w2", "w3", shown=2).regret_first == pytest.approx((0 + 4) / 2)
    assert decision.typical_disagreement > 0


def test_rewards_that_are_not_finite_are_refused() -> None:
    with pytest.raises(RunFailure, match="not finite"):
        choose(Known([0.0, math.nan]), "w1", "w2")


# --- with a posterior of its own --------------------------------------------------------------------------------------


@pytest.fixture
def selector_of(policy_dir: Callable[[str], Path]) -> Callable[..., Selector]:
    def make(**sections: Any) -> Selector:
        tree: dict[str, Any] = {
            "policy": {"path": str(policy_dir("llama"))},
            "prompts": {"path": "unused.jsonl"},
            "posterior": {"family": "laplace", "members": 16},
            "selection": {"rule": "sea_ee"},
            "oracle": {"kind": "world"},
            "budget": {"oracle_queries": 1},
        }
        return make_selector(parse_config(tree | sections, where="test"))

    return make


def group(name: str, *texts: str) -> Candidates:
    return Candidates(replace(PROMPT, id=name), tuple(replace(one, id=f"{name}-{one.id}") for one in responses(*texts)))


def taught(selector: Selector, rounds: int = 4) -> Selector:
    """By answers for the longer of two responses."""
    for number in range(1, rounds + 1):
        duels = selector.select(
            [
                group(f"{number}-{index}", *(("w1", "w2 w3 w4 w5") if index % 2 else ("w6 w7 w8 w9", "w3")))
                for index in range(20)
            ],
            number,
            0,
            100,
        )
        longer = [Outcome.FIRST if len(duel.first.text) > len(duel.second.text) else Outcome.SECOND for duel in duels]
        selector.update(
            [(duel, Verdict(duel.id, said, "u", 0.0)) for duel, said in zip(duels, longer, strict=True)], number
        )
    return selector


TEXTS = ("w1", "w2 w3", "w4 w5 w6", "w7 w8", "w9")


def test_a_decision_is_the_same_whatever_was_decided_before(selector_of: Callable[..., Selector]) -> None:
    selector = taught(selector_of())
    alone = choose(selector, *TEXTS, key="here")
    for place in range(10):
        choose(selector, *TEXTS[: 2 + place % 4], key=f"other-{place}")
    assert choose(selector, *TEXTS, key="here") == alone
    assert {choose(selector, *TEXTS, key=f"other-{place}").pair for place in range(20)} != {alone.pair}, "the control"


def test_a_saved_selector_decides_alike(selector_of: Callable[..., Selector]) -> None:
    selector = taught(selector_of())
    other = selector_of()
    assert choose(other, *TEXTS) != choose(selector, *TEXTS)
    other.load_state(selector.state())
    assert [choose(other, *TEXTS, key=str(key)) for key in range(5)] == [
        choose(selector, *TEXTS, key=str(key)) for key in range(5)
    ]


def test_before_the_first_label_samples_are_compared(selector_of: Callable[..., Selector]) -> None:
    untouched, begun = selector_of(), selector_of()
    assert choose(untouched, *TEXTS) == choose(None, *TEXTS)
    begun.begin([group("one", *TEXTS), group("two", *TEXTS)])
    decision = choose(begun, *TEXTS)
    assert (decision.pair, decision.best, decision.trust) == ((0, 1), 0, 0.0)
    assert decision.belief is not None
    assert 0.0 < decision.information < math.log(2)


def test_a_prior_score_is_believed_and_not_acted_on_before_answers(selector_of: Callable[..., Selector]) -> None:
    score = Path(__file__).parent / "longer.py"
    posterior = {"family": "laplace", "members": 256, "prior": [f"{score}:longer"]}
    selector = selector_of(posterior=posterior)
    selector.begin([group("one", *TEXTS), group("two", *TEXTS)])
    decision = choose(selector, "w1", "w4 w5 w6", "w7 w8")
    assert (decision.pair, decision.best, decision.trust) == ((0, 1), 0, 0.0)
    assert decision.belief < 0.45, "the longer one is expected to win"
    plain = selector_of(posterior={"family": "laplace", "members": 256})
    plain.begin([group("one", *TEXTS), group("two", *TEXTS)])
    assert choose(plain, "w1", "w4 w5 w6", "w7 w8").belief == pytest.approx(0.5, abs=0.05), "the control"


def test_a_run_without_a_posterior_compares_samples(selector_of: Callable[..., Selector]) -> None:
    selector = selector_of(selection={"rule": "passive"})
    assert choose(selector, *TEXTS) == choose(None, *TEXTS)
    selector.begin([group("one", *TEXTS)])
    assert choose(selector, *TEXTS).belief is None


def test_a_posterior_is_acted_on_while_answers_bear_it_out(selector_of: Callable[..., Selector]) -> None:
    selector = taught(selector_of(), 1)
    highest = int(selector.look(Candidates(PROMPT, tuple(responses(*TEXTS))), "k").mean_M.argmax())
    assert highest > 0
    found = []
    for answers in (0, 20, -20, 40):
        selector._wager.load_state(won(Wager(), answers).state())
        decisions = [choose(selector, *TEXTS, key=str(key)) for key in range(20)]
        assert live_trust(selector) == float(answers > 0)
        assert {one.best for one in decisions} == {highest if answers > 0 else 0}
        found.append([one.pair for one in decisions])
    assert found[0] == found[2] != found[1] == found[3]
    assert len(set(found[0])) == 1 < len(set(found[1])), "the test is the same one, whatever is drawn"


def test_answers_to_duels_whose_order_was_not_by_chance_are_learnt_from_and_bear_nothing_out(
    selector_of: Callable[..., Selector],
) -> None:
    first_is_longer = [group(str(place), "w1 w2 w3 w4", "w5") for place in range(24)]

    def after(by_chance: bool) -> Selector:
        selector = selector_of(posterior={"family": "laplace", "members": 16, "features": "text"})
        for number in (1, 2, 3):
            duels = [
                replace(DUEL, id=f"{number} {one.prompt.id}", prompt=one.prompt, first=first, second=second)
                for one in first_is_longer
                for first, second in [one.responses]
            ]
            placed = [replace(duel, by_chance=by_chance) for duel in duels]
            selector.update([(duel, Verdict(duel.id, Outcome.FIRST, "u", 0.0)) for duel in placed], number)
        return selector

    placed, drawn = after(False), after(True)
    assert torch.equal(placed._wager.state()["money"], Wager().state()["money"])
    assert (live_trust(placed), placed.trust) == (0.0, 0.0)
    assert live_trust(drawn) == 1.0, "the control"
    assert drawn.trust > 0.0
    assert placed.labels == drawn.labels == 72


def told(selector: Selector, seed: int, honest: bool, answers: int = 96) -> list[float]:
    """``live_trust`` after each eight answers to what live mode asks, in an order by chance: for the longer response,
    with the noise of the Bradley-Terry model, or by a coin."""
    generator = np.random.default_rng(seed)
    words = [f"w{place}" for place in range(1, 10)]
    found = []
    for number in range(answers // 8):
        said = []
        for place in range(8):
            texts = [" ".join(generator.choice(words, generator.integers(1, 6))) for _ in range(6)]
            one = group(f"{number}-{place}", *texts)
            decision = decide(selector, one.prompt, one.responses, one.prompt.id)
            if decision.pair is None:
                continue
            first, second = (one.responses[side] for side in generator.permutation(decision.pair))
            margin = 1.5 * (len(first.token_ids) - len(second.token_ids)) if honest else 0.0
            wins = generator.random() < 1 / (1 + math.exp(-margin))
            duel = replace(DUEL, id=one.prompt.id, prompt=one.prompt, first=first, second=second)
            said.append((duel, Verdict(duel.id, Outcome.FIRST if wins else Outcome.SECOND, "u", 0.0)))
        selector.update(said, number)
        found.append(live_trust(selector))
    return found


def test_honest_answers_are_acted_on_soon_and_worthless_ones_hardly_ever(
    selector_of: Callable[..., Selector],
) -> None:
    text = {"family": "laplace", "members": 16, "features": "text"}
    assert told(selector_of(posterior=text), 0, honest=True).index(1.0) < 6
    ever = sum(max(told(selector_of(posterior=text, seed=seed), seed, honest=False, answers=64)) for seed in range(3))
    assert binomtest(int(ever), 3, ERROR, alternative="greater").pvalue > 0.01


def test_the_information_agrees_with_brute_force(selector_of: Callable[..., Selector]) -> None:
    selector = taught(selector_of(), 3)
    decision = choose(selector, *TEXTS, key="brute")
    look = selector.look(Candidates(PROMPT, tuple(responses(*TEXTS))), "brute")
    first, second = decision.pair
    chances = [1 / (1 + math.exp(draw[second] - draw[first])) for draw in look.rewards_S_M.tolist()]

    def entropy(chance: float) -> float:
        return -chance * math.log(chance) - (1 - chance) * math.log(1 - chance)

    expected = entropy(float(np.mean(chances))) - float(np.mean([entropy(chance) for chance in chances]))
    assert decision.information == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_answers_to_duels_that_were_chosen_elsewhere_begin_the_posterior(selector_of: Callable[..., Selector]) -> None:
    """In live mode no duel is selected where the posterior learns."""
    donor, selector = selector_of(), selector_of()
    duels = donor.select([group(str(index), *TEXTS) for index in range(8)], 1, 0, 100)
    selector.update([(duel, Verdict(duel.id, Outcome.FIRST, "u", 0.0)) for duel in duels], 1)
    assert selector.posterior_version == 1
    assert choose(selector, *TEXTS).belief is not None


def test_an_oracle_posterior_names_the_better_response(selector_of: Callable[..., Selector]) -> None:
    """With the world's hidden reward as the only feature, some hundred answers say which response is better."""
    selector = selector_of(posterior={"family": "laplace", "members": 16, "features": "reward"})
    prompts = lexicon.make_prompts(60, seed=3)
    generator = np.random.default_rng(0)

    def offer(prompt: str) -> Candidates:
        given = prompt.split(" : ")[1].split(" =>")[0].split()
        texts = {" ".join([*generator.choice(given, generator.integers(1, 5), replace=False), "."]) for _ in range(5)}
        made = tuple(Response(f"{prompt}-{text}", prompt, text, (1,), (), 0) for text in sorted(texts))
        return Candidates(Prompt(prompt, prompt, (1,)), made)

    groups = [offer(prompt) for prompt in prompts]
    for number in range(1, 9):
        duels = selector.select(groups[:40], number, 0, 100)
        verdicts = []
        for duel in duels:
            margin = lexicon.reward(duel.prompt.text, duel.first.text) - lexicon.reward(
                duel.prompt.text, duel.second.text
            )
            first = generator.random() < 1 / (1 + math.exp(-margin))
            verdicts.append((duel, Verdict(duel.id, Outcome.FIRST if first else Outcome.SECOND, "u", 0.0)))
        selector.update(verdicts, number)
    unseen = [one for one in groups[40:] if len(one.responses) > 1]
    right = ordered = 0
    for one in unseen:
        rewards = [lexicon.reward(one.prompt.text, response.text) for response in one.responses]
        decision = decide(selector, one.prompt, one.responses, one.prompt.id)
        right += rewards[decision.best] == max(rewards)
        pair = decide(selector, one.prompt, one.responses[:2], one.prompt.id, shown=0)
        ordered += pair.pair is None or (pair.belief > 0.5) == (rewards[0] > rewards[1])
    assert right == len(unseen) == 20
    assert ordered == 20
