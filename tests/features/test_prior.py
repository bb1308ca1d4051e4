"""Scores from elsewhere: their sources, their unit, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_parts import selector as make_selector
from user_policies import make_reward_model

from oracle.reward_model import RewardModelOracle
from sea_agent.config import RewardModelOracleConfig
from sea_agent.config.files import load_config
from sea_agent.errors import UserError
from sea_agent.features.prior import PriorScore
from sea_agent.run.preflight import check
from sea_agent.types import Candidates, Prompt, Response
from sea_agent.worlds import scorer

LENGTH = "def score(texts):\n    return [float(len(response)) for _, response in texts]\n"


def pairs(*texts: tuple[str, str]) -> list[tuple[Prompt, Response]]:
    return [
        (Prompt(prompt, prompt, (3,)), Response(f"{prompt}-{index}", prompt, text, (4,), (), 0))
        for index, (prompt, text) in enumerate(texts)
    ]


@pytest.fixture
def source(tmp_path: Path) -> Callable[[str], str]:
    def write(code: str) -> str:
        (tmp_path / "mine.py").write_text(code)
        return f"{tmp_path / 'mine.py'}:score"

    return write


def test_its_unit_is_a_deviation_within_a_prompt(source: Callable[[str], str]) -> None:
    """Prompts of short and of long responses: what tells prompts apart is nothing to a duel."""
    score = PriorScore(source(LENGTH))
    rows = pairs(("short", "a"), ("short", "aaa"), ("long", "a" * 101), ("long", "a" * 103))
    values = score.features(rows)[:, 0].tolist()
    assert values[1] - values[0] == pytest.approx(values[3] - values[2], rel=1e-4) == pytest.approx(2**0.5, rel=1e-4)
    again = PriorScore(source(LENGTH))
    again.load_state(score.state())
    assert again.features(rows[:1])[0].tolist() == pytest.approx(values[:1])


def test_equal_scores_are_no_error(source: Callable[[str], str]) -> None:
    score = PriorScore(source("def score(texts):\n    return [1.0] * len(texts)\n"))
    assert score.features(pairs(("p", "a"), ("p", "b")))[:, 0].tolist() == [0.0, 0.0]


def test_the_scorer_of_a_world_is_a_source() -> None:
    prompt = load_prompt()
    rows = pairs((prompt, "w1"), (prompt, "nice cat"), (prompt, "the dog"))
    found = PriorScore("world://lexicon/judge").features(rows)[:, 0]
    judge = scorer("lexicon", "judge")
    true = [judge(prompt, response.text) for _, response in rows]
    assert found.argsort().tolist() == sorted(range(3), key=true.__getitem__)


def load_prompt() -> str:
    return check(load_config("lab")).prompts.first(1)[0].text


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def score(texts):\n    return [0.5]\n", r"returned float64 of shape \(1,\) for 6 pairs"),
        ("def score(texts):\n    return [float('nan')] * len(texts)\n", "not finite"),
        ("def score(texts):\n    return ['good'] * len(texts)\n", "returned <U4"),
        ("def score(texts):\n    raise KeyError('x')\n", "raised KeyError"),
        ("def other(texts):\n    return 1\n", "has no function score"),
    ],
)
def test_check_refuses_a_wrong_function_with_its_key(code: str, told: str, source: Callable[[str], str]) -> None:
    config = load_config("sea", [f"posterior.prior=['{source(code)}']"])
    with pytest.raises(UserError, match=told) as refused:
        check(config)
    assert "posterior.prior=" in str(refused.value)


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_a_reward_model_scores_as_it_does_as_the_oracle(architecture: str, tmp_path: Path) -> None:
    model = str(make_reward_model(architecture, tmp_path / architecture))
    oracle = RewardModelOracle(RewardModelOracleConfig(kind="reward_model", path=model, labels="threshold"), 0, "cpu")
    rows = pairs(("w1 w2", "w3"), ("w1 w2", "w4 w5 w6"), ("w1 w2", "w7"))
    prior = PriorScore(model, batch=2)
    found = prior.features(rows)[:, 0].double()
    unit = float(prior.state()["deviation"])
    for first, second in ((0, 1), (1, 2)):
        question = {"prompt": "w1 w2", "first": rows[first][1].text, "second": rows[second][1].text}
        expected = oracle.probabilities([question])[0]
        assert float((unit * (found[first] - found[second])).sigmoid()) == pytest.approx(expected, abs=1e-5)
    assert abs(float(found[0] - found[1])) > 1e-3


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["posterior.prior=['nowhere']"], "posterior.prior=nowhere"),
        (["posterior.prior=['world://lexicon/taste']"], "no such scorer"),
        (["posterior.prior=['world://nowhere/judge']"], "no such built-in world"),
        (["posterior.prior=['a.py:f']", "posterior.family=ensemble"], "needs posterior.family=laplace"),
    ],
)
def test_what_is_no_source_is_refused(settings: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        check(load_config("sea", settings))


def test_a_prior_decides_before_the_first_label(source: Callable[[str], str]) -> None:
    """The best response by the posterior's mean is the longest one, as the score says."""
    selector: Any = make_selector(load_config("sea", [f"posterior.prior=['{source(LENGTH)}']"]))
    prompt = check(load_config("lab")).prompts.first(1)[0]
    texts = ["nice", "a very nice thing", "good thing"]
    group = Candidates(prompt, tuple(Response(text, prompt.id, text, (4, 5), (), 0) for text in texts))
    selector.select([group], 1, 0, 10)
    means = selector._posterior.mean(selector._rows([(prompt, one) for one in group.responses])[None])[0]
    assert means.argmax() == 1
