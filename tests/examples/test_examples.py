"""The examples run as they are, and what they print is so."""

import math
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import Handler, Judge, JudgeServer

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = {"bandit_alone.py": 30, "judge_prior.py": 65, "own_loop.py": 45, "own_rule.py": 60}


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[str], list[float]]:
    """Run an example; the numbers with a point that it printed."""

    def go(name: str) -> list[float]:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return [float(number) for number in re.findall(r"-?\d+\.\d+", capsys.readouterr().out)]

    return go


def test_each_example_is_short_and_has_its_place_here() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert lengths.keys() == LONGEST.keys()
    assert [name for name, length in lengths.items() if length > LONGEST[name]] == []


def test_thompson_sampling_loses_less_than_chance(printed: Callable[[str], list[float]]) -> None:
    thompson, chance = printed("bandit_alone.py")
    assert 0 < thompson < chance / 2


def test_a_loop_of_ones_own_raises_the_reward(printed: Callable[[str], list[float]]) -> None:
    means = printed("own_loop.py")
    assert len(means) == 10
    assert sum(means[-3:]) / 3 > means[0] + 0.3


def test_parts_of_ones_own_run(printed: Callable[[str], list[float]]) -> None:
    (win_rate,) = printed("own_rule.py")
    assert 0.5 < win_rate < 1


def test_the_command_of_the_example_is_accepted(sea_agent: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    text = (EXAMPLES / "own_rule.py").read_text()
    words = text.partition("    sea-agent run ")[2].partition("\n\n")[0].replace("\\\n", " ").split()
    assert words.count("--set") == 3
    monkeypatch.chdir(EXAMPLES.parent)
    where = words.index("--out")
    done = sea_agent("check", *words[:where], *words[where + 2 :])
    assert done.code == 0, done.err


def graded(likeliest: Callable[[str], dict[str, float]]) -> Callable[[Handler], None]:
    """Answers with the probabilities of the likeliest first tokens, by the question."""

    def answer(handler: Handler) -> None:
        asked = handler.body["messages"][0]["content"]
        assert (handler.body["max_tokens"], handler.body["logprobs"]) == (1, True)
        tokens = [
            {"token": token, "logprob": math.log(probability), "bytes": None}
            for token, probability in likeliest(asked).items()
        ]
        content = [tokens[0] | {"top_logprobs": tokens}]
        handler.write(tokens[0]["token"], logprobs={"content": content, "refusal": None})

    return answer


def test_a_language_model_scores_by_the_odds_of_its_yes(
    printed: Callable[[str], list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = {"Yes": 0.6, " yes": 0.1, "No": 0.2, "Well": 0.1}
    wrong = {"No": 0.9, "Maybe": 0.05}  # Yes is none of the likeliest
    judge = Judge(faults=[graded(lambda asked: right if "It is four." in asked else wrong)] * 2)
    with JudgeServer(judge) as server:
        monkeypatch.setenv("JUDGE_URL", server.url)
        monkeypatch.setenv("JUDGE_MODEL", "m")
        four, five = printed("judge_prior.py")
    assert four == pytest.approx(math.log(0.7 / 0.2))
    assert five == pytest.approx(math.log(0.05 / 0.9))


def test_a_run_starts_from_what_a_language_model_says_and_without_one_it_is_refused(
    sea_agent: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = f"posterior.prior=[{EXAMPLES / 'judge_prior.py'}:score]"
    even = graded(lambda asked: {"Yes": 0.5, "No": 0.5})
    with JudgeServer(Judge(faults=[even] * 6)) as server:
        monkeypatch.setenv("JUDGE_URL", server.url)
        monkeypatch.setenv("JUDGE_MODEL", "m")
        assert sea_agent("check", "sea", "--set", prior).code == 0
        assert server.judge.requests == 6  # three made-up responses to each of two prompts
    monkeypatch.delenv("JUDGE_URL")
    refused = sea_agent("check", "sea", "--set", prior)
    assert refused.code == 2
    assert "JUDGE_URL" in refused.err
