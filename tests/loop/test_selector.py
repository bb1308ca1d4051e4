"""From candidates to duels: who is asked, who labels, and never more than the budget."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_parts import selector as make_selector
from scipy.stats import binomtest

from sea_agent.bandit.foresight import LUCK, Foresight
from sea_agent.bandit.mixing import label_source
from sea_agent.config import MixingConfig, RunConfig
from sea_agent.config.files import parse_config
from sea_agent.loop.selector import Selector
from sea_agent.types import Answer, Candidates, LabelSource, Outcome, Prompt, Response, Verdict


@pytest.fixture
def config(policy_dir: Callable[[str], Path]) -> Callable[..., RunConfig]:
    def make(**sections: Any) -> RunConfig:
        tree = {
            "policy": {"path": str(policy_dir("llama"))},
            "prompts": {"path": "unused.jsonl"},
            "posterior": {"members": 4, "ensemble": {"hidden": 8}},
            "oracle": {"kind": "world"},
            "budget": {"oracle_queries": 1},
        }
        return parse_config(tree | sections, where="test")

    return make


def group(name: str, *texts: str) -> Candidates:
    prompt = Prompt(name, "w1 w2", (4, 5))
    responses = [
        Response(f"{name}-{text}", name, text, tuple(int(word[1:]) + 3 for word in text.split()), (), 3)
        for text in texts
    ]
    return Candidates(prompt, tuple(responses))


def many(count: int) -> list[Candidates]:
    return [group(f"p{index}", "w1", "w2 w3", "w4 w5", "w6") for index in range(count)]


def test_a_prompt_with_one_distinct_response_gives_no_duel(config: Callable[..., RunConfig]) -> None:
    duels = make_selector(config()).select([group("sure", "w1"), *many(2)], 1, 0, 100)
    assert [duel.prompt.id for duel in duels] == ["p0", "p1"]


def test_no_more_duels_reach_the_oracle_than_the_budget_allows(config: Callable[..., RunConfig]) -> None:
    selector = make_selector(config(mixing={"oracle_share": 0.5}))
    duels = selector.select(many(40), 1, 0, 7)
    sources = [duel.label_source for duel in duels]
    assert sources.count(LabelSource.ORACLE) == 7
    assert sources.count(LabelSource.POSTERIOR) > 7


def test_the_oracle_labels_its_share_after_burn_in_and_everything_before() -> None:
    config = MixingConfig(oracle_share=0.7, burn_in=100)
    early = [label_source(config, 99, 0, f"d{index}") for index in range(2000)]
    late = [label_source(config, 100, 0, f"d{index}") for index in range(2000)]
    assert set(early) == {LabelSource.ORACLE}
    assert binomtest(late.count(LabelSource.ORACLE), 2000, 0.7).pvalue > 0.001
    assert binomtest(late.count(LabelSource.ORACLE), 2000, 0.8).pvalue < 0.001


def test_the_posterior_labels_only_its_own_duels(config: Callable[..., RunConfig]) -> None:
    selector = make_selector(config(mixing={"oracle_share": 0.5}))
    duels = selector.select(many(20), 1, 0, 100)
    labelled = {verdict.duel_id for verdict in selector.label(duels, 1)}
    assert labelled == {duel.id for duel in duels if duel.label_source is LabelSource.POSTERIOR} != set()


def answers(duels: list[Any], outcome: Outcome) -> list[tuple[Any, Verdict]]:
    return [(duel, Verdict(duel.id, outcome, "test", 0.0)) for duel in duels]


def test_the_posterior_learns_from_the_oracle_and_not_from_itself(config: Callable[..., RunConfig]) -> None:
    """What the posterior labelled, or nobody decided, leaves it as it was."""
    selector = make_selector(config(mixing={"oracle_share": 0.5}))
    duels = selector.select(many(20), 1, 0, 100)
    own = [duel for duel in duels if duel.label_source is LabelSource.POSTERIOR]
    assert selector.update(answers(own, Outcome.FIRST), 1) == ({"posterior_trust": 1.0}, [])
    assert selector.update(answers(duels, Outcome.SKIP), 1) == ({"posterior_trust": 1.0}, [])
    assert selector._posterior.labels == 0
    metrics, _ = selector.update(answers(duels, Outcome.FIRST), 1)
    assert selector._posterior.labels == len(duels) - len(own)
    assert 0.0 <= metrics["foresight_accuracy"] <= 1.0


def test_a_posterior_that_tells_people_apart_learns_what_each_of_them_said(config: Callable[..., RunConfig]) -> None:
    said = (Answer("ann", Outcome.FIRST), Answer("bob", Outcome.SECOND), Answer("cem", Outcome.BOTH_BAD))
    beliefs = {}
    for people in ("shared", "pooled"):
        selector = make_selector(config(posterior={"family": "laplace", "members": 4, "people": people}))
        duels = selector.select(many(20), 1, 0, 100)
        verdicts = [
            (duel, Verdict(duel.id, Outcome.FIRST, "ann, bob, cem", 0.0, votes=3, answers=said)) for duel in duels
        ]
        selector.update(verdicts, 1)
        assert selector._posterior.labels == {"shared": 2, "pooled": 1}[people] * len(duels)
        beliefs[people] = [
            selector._posterior.chance(
                selector._rows([(duel.prompt, duel.first) for duel in duels]),
                selector._rows([(duel.prompt, duel.second) for duel in duels]),
                [name] * len(duels),
            ).mean()
            for name in ("ann", "bob")
        ]
    assert beliefs["shared"][0] > 0.5 > beliefs["shared"][1]
    assert beliefs["pooled"][0] == beliefs["pooled"][1] > 0.5


@pytest.mark.parametrize(("outcome", "sign"), [(Outcome.FIRST, 1), (Outcome.SECOND, -1)])
def test_hindsight_has_moved_towards_the_answer(config: Callable[..., RunConfig], outcome: Outcome, sign: int) -> None:
    selector = make_selector(config(posterior={"family": "laplace", "members": 256}))
    (asked,) = selector.select(many(1), 1, 0, 100)
    metrics, (hindsight,) = selector.update(answers([asked], outcome), 1)
    assert hindsight.duel_id == asked.id
    assert sign * (hindsight.belief - asked.belief) > 0.02
    assert metrics["typical_disagreement"] == asked.typical_disagreement > 0.0


def test_beliefs_move_towards_the_answers(config: Callable[..., RunConfig]) -> None:
    # A rule that looks at no rewards needs the posterior here because of mixing alone.
    selector = make_selector(
        config(
            posterior={"family": "laplace", "members": 64},
            selection={"rule": "uniform"},
            mixing={"oracle_share": 0.9, "burn_in": 1000},
        )
    )
    accuracy = []
    for number in range(1, 9):
        duels = selector.select(many(12), number, 0, 100)
        prefer = [Outcome.FIRST if "w2" in duel.first.text else Outcome.SECOND for duel in duels]
        contested = [
            (duel, outcome)
            for duel, outcome in zip(duels, prefer, strict=True)
            if ("w2" in duel.first.text) != ("w2" in duel.second.text)
        ]
        hits = [(duel.belief > 0.5) == (outcome is Outcome.FIRST) for duel, outcome in contested]
        accuracy.append(sum(hits) / len(hits))
        selector.update([one for pair in contested for one in answers([pair[0]], pair[1])], number)
    assert accuracy[-1] == 1.0
    assert accuracy[0] < 1.0


def test_a_passive_run_computes_no_features(config: Callable[..., RunConfig]) -> None:
    selector = make_selector(config(selection={"rule": "passive"}))
    duels = selector.select(many(3), 1, 0, 100)
    assert selector._features is None
    assert [(duel.first.text, duel.second.text, duel.belief) for duel in duels] == [("w1", "w2 w3", None)] * 3


def responses_of(groups: list[Candidates]) -> dict[str, Response]:
    return {response.id: response for group in groups for response in group.responses}


def test_implicit_rewards_decide_the_pair_and_need_no_posterior(config: Callable[..., RunConfig]) -> None:
    selector = make_selector(config(selection={"rule": "apl"}))
    groups = many(6)
    rewards = {id_: float(index * 7 % 11) for index, id_ in enumerate(responses_of(groups))}
    duels = selector.select(groups, 1, 0, 100, rewards)
    assert selector._features is None
    assert [duel.belief for duel in duels] == [None] * 6
    for group, duel in zip(groups, duels, strict=True):
        values = [rewards[response.id] for response in group.responses]
        assert (rewards[duel.first.id], rewards[duel.second.id]) == (max(values), min(values))
    turned = selector.select(groups, 1, 0, 100, {id_: -value for id_, value in rewards.items()})
    assert [duel.first.id for duel in turned] == [duel.second.id for duel in duels], "the control: rewards decide"


def test_a_posterior_beside_implicit_rewards_still_tells_its_belief(config: Callable[..., RunConfig]) -> None:
    selector = make_selector(config(selection={"rule": "apl"}, mixing={"oracle_share": 0.5}))
    groups = many(6)
    duels = selector.select(groups, 1, 0, 100, dict.fromkeys(responses_of(groups), 0.0))
    assert all(duel.belief is not None for duel in duels)


def test_best_of_n_goes_by_what_the_oracle_taught(config: Callable[..., RunConfig]) -> None:
    """A passive run keeps a posterior for it; before the first label the policy's own first sample stands."""
    selector = make_selector(
        config(posterior={"family": "laplace"}, selection={"rule": "passive"}, evaluation={"best_of": 4})
    )
    fresh = [group(f"fresh-{index}", "w1", "w4 w5", "w2 w3", "w6") for index in range(5)]
    assert [response.text for response in selector.best(fresh)] == ["w1"] * 5
    for number in range(1, 4):
        groups = [group(f"p{index}", *pair) for index, pair in enumerate([("w1", "w2 w3"), ("w2 w3", "w6")] * 6)]
        duels = selector.select(groups, number, 0, 100)
        if number == 1:
            assert [response.text for response in selector.best(fresh)] == ["w1"] * 5
        first = [duel for duel in duels if "w2" in duel.first.text]
        second = [duel for duel in duels if "w2" not in duel.first.text]
        selector.update(answers(first, Outcome.FIRST) + answers(second, Outcome.SECOND), number)
    best = selector.best(fresh)
    assert [response.prompt_id for response in best] == [one.prompt.id for one in fresh]
    assert [response.text for response in best] == ["w2 w3"] * 5
    assert selector.best(fresh) == best


def laplace(config: Callable[..., RunConfig], **sections: Any) -> Any:
    return make_selector(
        config(posterior={"family": "laplace", "members": 4}, selection={"rule": "best_worst"}, **sections)
    )


def trust_so_far(selector: Selector, trust: float) -> None:
    selector._foresight.load_state({"gained": LUCK * (1 + 2 * trust), "promised": LUCK})


@pytest.mark.parametrize("trust", [0.0, 0.5, 1.0])
def test_as_far_as_the_posterior_is_not_trusted_the_policys_own_pairs_are_asked(
    trust: float, config: Callable[..., RunConfig]
) -> None:
    selector = laplace(config)
    assert selector.trust == 0.0, "before the first label"
    first = selector.select(many(40), 1, 0, 100)
    assert {duel.rule for duel in first} == {"passive"}
    trust_so_far(selector, trust)
    duels = selector.select(many(400), 2, 0, 1000)
    own = [duel for duel in duels if duel.rule == "passive"]
    assert binomtest(len(own), 400, 1 - trust).pvalue > 0.001 if 0 < trust < 1 else len(own) == 400 * (1 - trust)
    assert {(duel.first.text, duel.second.text) for duel in own} <= {("w1", "w2 w3")}
    active = [duel for duel in duels if duel.rule == "best_worst"]
    assert len(own) + len(active) == 400
    assert all(duel.belief is not None and duel.belief >= 0 for duel in duels), "what the posterior believes is kept"


def test_the_published_ensemble_is_trusted_from_the_start(config: Callable[..., RunConfig]) -> None:
    selector = make_selector(config(selection={"rule": "best_worst"}))
    assert {duel.rule for duel in selector.select(many(40), 1, 0, 100)} == {"best_worst"}
    assert selector.trust == 1.0


def test_imagined_pairs_come_with_the_trust(config: Callable[..., RunConfig]) -> None:
    selector = laplace(config)
    selector.select(many(4), 1, 0, 100)
    trust_so_far(selector, 0.25)
    preferences, trust = selector.imagine(many(3), 2)
    assert (len(preferences), trust) == (6, 0.25)
    assert selector.imagine([group("sure", "w1")], 3) == ([], 0.25)


@pytest.mark.parametrize("rule", ["passive", "uniform"])
def test_rules_that_do_not_look_at_the_posterior_need_no_trust(rule: str, config: Callable[..., RunConfig]) -> None:
    tree = {"selection": {"rule": rule}, "imagination": {"rounds": 1}}
    blind = make_selector(config(posterior={"family": "laplace", "members": 4}, **tree))
    always = make_selector(config(**tree))
    assert blind.trust == 0.0
    pairs = [
        [(duel.rule, duel.first.text, duel.second.text) for duel in one.select(many(40), 1, 0, 100)]
        for one in (blind, always)
    ]
    assert pairs[0] == pairs[1]
    assert {name for name, _, _ in pairs[0]} == {rule}


def test_a_round_without_answers_tells_the_trust_all_the_same(config: Callable[..., RunConfig]) -> None:
    """Of people, who have not answered yet: imagined rounds depend on it."""
    selector = laplace(config)
    duels = selector.select(many(4), 1, 0, 100)
    assert selector.update([], 1) == ({"posterior_trust": 0.0}, [])
    found, _ = selector.update(answers(duels, Outcome.FIRST), 1)
    assert found["posterior_trust"] == selector.trust == 0.0, "nothing was known before the first answers"


def test_trust_goes_by_what_the_posterior_said_before_it_learnt_the_answers(config: Callable[..., RunConfig]) -> None:
    selector = laplace(config)
    before, after = Foresight(), Foresight()
    for number in (1, 2, 3):
        duels = selector.select(many(4), number, 0, 100)
        before.add(torch.tensor(selector.foretell(duels)), torch.ones(4))
        found, _ = selector.update(answers(duels, Outcome.FIRST), number)
        after.add(torch.tensor(selector.foretell(duels)), torch.ones(4))
        assert found["posterior_trust"] == selector.trust == before.trust
    assert after.trust > selector.trust > 0


def test_beyond_the_allowed_divergence_the_policys_own_pairs_are_asked_whatever_the_trust(
    config: Callable[..., RunConfig],
) -> None:
    selector = laplace(config)
    trust_so_far(selector, 1.0)
    assert {duel.rule for duel in selector.select(many(40), 1, 0, 100)} == {"best_worst"}
    assert {duel.rule for duel in selector.select(many(40), 2, 0, 100, own=True)} == {"passive"}


def test_a_score_that_is_given_is_believed_sooner(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(texts):\n    return [float(len(answer)) for _, answer in texts]\n")
    trusts = []
    for prior in ([], [f"{tmp_path / 'mine.py'}:score"]):
        selector = make_selector(config(posterior={"family": "laplace", "prior": prior}))
        selector._foresight.load_state({"gained": LUCK, "promised": 0.0})
        trusts.append(selector.trust)
    assert trusts[1] > trusts[0] == 0.0


def test_imported_preferences_are_foretold_before_they_are_learnt(config: Callable[..., RunConfig]) -> None:
    """Of forty the last twenty: borne out, the posterior is acted on from the first round; turned round, it is not."""
    for turned, expected in ((False, True), (True, False)):
        selector = laplace(config)
        duels = make_selector(config(selection={"rule": "passive"})).select(many(40), 1, 0, 100)
        seen, later = (
            answers(duels[:20], Outcome.FIRST),
            answers(duels[20:], Outcome.SECOND if turned else Outcome.FIRST),
        )
        selector.warm(seen + later, [1.0] * 40)
        assert selector._posterior.labels == 40
        assert (selector.trust > 0.3) is expected


@pytest.mark.parametrize(("trust", "telling"), [(0.0, 0), (0.5, 4), (1.0, 8)])
def test_prompts_whose_duels_tell_most_are_asked_as_far_as_the_posterior_is_trusted(
    trust: float, telling: int, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Responses to the first sixteen prompts are all the same to the features; those to the others differ."""
    (tmp_path / "mine.py").write_text(
        "import numpy as np\ndef features(texts):\n"
        "    return np.array([[len(answer), answer.count('w')] if 'w9' in prompt else [0, 0]"
        " for prompt, answer in texts], float)\n"
    )
    settings = config(
        batch_size=8,
        posterior={"family": "laplace", "members": 16, "features": f"{tmp_path / 'mine.py'}:features"},
        selection={"rule": "best_worst", "prompt_pool": 4, "prompt_choice": "information"},
    )
    groups = [
        Candidates(Prompt(f"p{place}", "w1" if place < 16 else "w9", (4,)), one.responses)
        for place, one in enumerate(many(32))
    ]
    selector = make_selector(settings)
    trust_so_far(selector, trust)
    duels = selector.select(groups, 1, 0, 100)
    assert len(duels) == 8
    assert sum(duel.prompt.text == "w9" for duel in duels) == telling
    assert len(selector.select(groups[:3], 2, 0, 100)) == 3, "fewer than a batch are all asked"
