"""Oracles refuse what must not be asked, check what comes back, and count."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from duels import duel
from scipy.stats import binomtest
from transformers import LlamaConfig, LlamaForSequenceClassification
from user_policies import make_tokenizer

from oracle import make_oracle
from oracle.base import Oracle, ProbabilityOracle, bradley_terry
from sea_agent.config import PythonOracleConfig, RewardModelOracleConfig, WorldOracleConfig
from sea_agent.errors import UserError
from sea_agent.types import LabelSource, Outcome, Verdict
from sea_agent.worlds import scorer
from sea_agent.worlds.lexicon import make_prompts


class Fixed(ProbabilityOracle):
    """Answers with given values."""

    def __init__(self, answers: object, labels: str = "threshold") -> None:
        super().__init__("fixed", labels, seed=0)  # type: ignore[arg-type]
        self.answers = answers

    def probabilities(self, questions):  # type: ignore[no-untyped-def]
        return self.answers


def test_verdicts_follow_the_duels_and_are_counted() -> None:
    oracle = Fixed([0.9, 0.5, 0.2])
    verdicts = oracle.ask([duel("x"), duel("y"), duel("z")])
    assert [(v.duel_id, v.outcome) for v in verdicts] == [
        ("x", Outcome.FIRST),
        ("y", Outcome.TIE),
        ("z", Outcome.SECOND),
    ]
    assert (oracle.queries, oracle.evaluation_queries) == (3, 0)


def test_evaluation_is_counted_apart() -> None:
    oracle = Fixed([0.9])
    oracle.evaluate([duel().public()])
    assert (oracle.queries, oracle.evaluation_queries) == (0, 1)


def test_a_skip_is_no_answer() -> None:
    oracle = Fixed([0.9, 0.2])
    oracle.verdicts = lambda duels: [Verdict("x", Outcome.SKIP, "f", 0.0), Verdict("y", Outcome.TIE, "f", 0.0)]  # type: ignore[method-assign]
    assert len(oracle.ask([duel("x"), duel("y")])) == 2
    assert oracle.queries == 1


@pytest.mark.parametrize("source", [s for s in LabelSource if s is not LabelSource.ORACLE])
def test_a_duel_labelled_elsewhere_never_reaches_the_oracle(source: LabelSource) -> None:
    oracle = Fixed([0.9])
    with pytest.raises(ValueError, match="must not reach an oracle"):
        oracle.ask([duel(source=source)])
    assert oracle.queries == 0


def test_equal_responses_are_never_asked() -> None:
    with pytest.raises(ValueError, match="equal responses"):
        Fixed([0.5]).ask([duel(first="w1", second="w1")])


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ([math.nan], "nan"),
        ([1.2], "1.2"),
        ([-0.1], "-0.1"),
        (["yes"], "'yes'"),
        ([None], "None"),
        ([], "0 answers for 1 duels"),
        ([0.5, 0.5], "2 answers for 1 duels"),
    ],
)
def test_answers_that_are_not_probabilities_are_refused_and_not_counted(answers: object, complaint: str) -> None:
    oracle = Fixed(answers)
    with pytest.raises(UserError, match="fixed: ") as caught:
        oracle.ask([duel()])
    assert complaint in str(caught.value)
    assert oracle.queries == 0


def test_bernoulli_labels_win_as_often_as_they_say_and_repeat_for_one_duel() -> None:
    duels = [duel(f"d{index}") for index in range(2000)]
    outcomes = [v.outcome for v in Fixed([0.7] * 2000, labels="bernoulli").ask(duels)]
    assert binomtest(outcomes.count(Outcome.FIRST), 2000, 0.7).pvalue > 0.001
    assert binomtest(outcomes.count(Outcome.FIRST), 2000, 0.5).pvalue < 0.001
    assert [v.outcome for v in Fixed([0.7] * 2000, labels="bernoulli").ask(duels)] == outcomes


@pytest.mark.parametrize("difference", [-800.0, -1.5, 0.0, 0.3, 800.0])
def test_bradley_terry_is_the_logistic_function(difference: float) -> None:
    expected = torch.sigmoid(torch.tensor(difference, dtype=torch.float64)).item()
    assert bradley_terry(difference, 0.0) == pytest.approx(expected, abs=1e-15)


def test_world_oracle_prefers_what_the_hidden_reward_prefers() -> None:
    (prompt,) = make_prompts(1, seed=0)
    reward = scorer("lexicon", "reward")
    oracle = make_oracle(WorldOracleConfig(), seed=0, device="cpu")
    expected = bradley_terry(reward(prompt, ""), reward(prompt, "."))
    assert oracle.evaluate([{"id": "q", "prompt": prompt, "first": "", "second": "."}]) == [expected]
    assert expected != 0.5


def python_oracle(tmp_path: Path, body: str) -> Oracle:
    file = tmp_path / "mine.py"
    file.write_text(body)
    return make_oracle(PythonOracleConfig(kind="python", target=f"{file}:compare"), seed=0, device="cpu")


def test_python_oracle_sees_texts_and_ids_only(tmp_path: Path) -> None:
    oracle = python_oracle(
        tmp_path,
        "seen = []\ndef compare(duels):\n    seen.extend(duels)\n"
        "    return [float(d['first'] < d['second']) for d in duels]\n",
    )
    verdict, other = oracle.ask([duel("x"), dataclasses.replace(duel("y").swap(), id="y")])
    assert (verdict.outcome, other.outcome) == (Outcome.FIRST, Outcome.SECOND)
    seen = oracle._compare.function.__globals__["seen"]  # type: ignore[attr-defined]
    assert seen[0] == {"id": "x", "prompt": "say w1", "first": "w1", "second": "w2"}


def test_an_exception_in_the_users_function_names_its_line(tmp_path: Path) -> None:
    oracle = python_oracle(tmp_path, "def compare(duels):\n    return [1 / 0]\n")
    with pytest.raises(UserError, match=r"raised ZeroDivisionError: .*mine\.py:2"):
        oracle.ask([duel()])


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("nowhere.py:compare", "no file nowhere.py"),
        ("json:no_such_name", "has no function"),
        ("no_such_module_at_all:compare", "cannot be imported"),
        ("json", "expected path/to/file.py:function"),
    ],
)
def test_a_wrong_target_is_refused_with_the_reason(target: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        make_oracle(PythonOracleConfig(kind="python", target=target), seed=0, device="cpu")


@pytest.fixture(scope="module")
def reward_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    def make(outputs: int) -> Path:
        directory = tmp_path_factory.mktemp(f"reward-{outputs}")
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=32,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_labels=outputs,
            pad_token_id=1,
            initializer_range=0.5,
        )
        LlamaForSequenceClassification(config).save_pretrained(directory)
        make_tokenizer().save_pretrained(directory)
        return directory

    return make


def test_reward_model_oracle_equals_the_model_one_pair_at_a_time(reward_model_dir: Callable[[int], Path]) -> None:
    directory = reward_model_dir(1)
    config = RewardModelOracleConfig(kind="reward_model", path=str(directory), batch=2)
    oracle = make_oracle(config, seed=0, device="cpu")
    questions = [
        {"id": "x", "prompt": "w1 w2", "first": "w3", "second": "w4 w5 w6"},
        {"id": "y", "prompt": "w7", "first": "w4 w5 w6 w8 w9", "second": "w3 w3"},
    ]
    model = LlamaForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = make_tokenizer()

    def reward(prompt: str, response: str) -> float:
        with torch.no_grad():
            return model(**tokenizer(prompt, response, return_tensors="pt", return_token_type_ids=False)).logits.item()

    expected = [bradley_terry(reward(q["prompt"], q["first"]), reward(q["prompt"], q["second"])) for q in questions]
    assert oracle.evaluate(questions) == pytest.approx(expected, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3


def test_a_language_model_is_not_taken_for_a_reward_model(policy_dir: Callable[[str], Path], tmp_path: Path) -> None:
    """It has no score head; a random one would answer as an oracle without a word."""
    directory = shutil.copytree(policy_dir("llama"), tmp_path / "no-head")
    settings = json.loads((directory / "config.json").read_text()) | {"num_labels": 1}
    (directory / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"lacks 1 weights .* first score\.weight"):
        make_oracle(RewardModelOracleConfig(kind="reward_model", path=str(directory)), seed=0, device="cpu")


def test_a_reward_model_with_two_outputs_is_refused(reward_model_dir: Callable[[int], Path]) -> None:
    config = RewardModelOracleConfig(kind="reward_model", path=str(reward_model_dir(2)))
    with pytest.raises(UserError, match="one output, this one has 2"):
        make_oracle(config, seed=0, device="cpu")
