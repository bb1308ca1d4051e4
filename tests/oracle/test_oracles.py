"""Oracles refuse what must not be asked, check what comes back, and count."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def python_oracle(tmp_path: Path, body: str, **settings: Any) -> Oracle:
    file = tmp_path / "mine.py"
    file.write_text(body)
    config = PythonOracleConfig(kind="python", target=f"{file}:compare", **settings)
    return make_oracle(config, seed=0, device="cpu")


def test_python_oracle_sees_texts_and_ids_only(tmp_path: Path) -> None:
    oracle = python_oracle(
        tmp_path,
        "seen = []\ndef compare(duels):\n    seen.extend(duels)\n"
        "    return [float(d['first'] < d['second']) for d in duels]\n",
    )
    chat = dataclasses.replace(duel("x").prompt, messages=(("user", "say w1"),))
    verdict, other = oracle.ask(
        [dataclasses.replace(duel("x"), prompt=chat), dataclasses.replace(duel("y").swap(), id="y")]
    )
    assert (verdict.outcome, other.outcome) == (Outcome.FIRST, Outcome.SECOND)
    seen = oracle._compare.function.__globals__["seen"]  # type: ignore[attr-defined]
    assert seen[0] == {"id": "x", "prompt": "say w1", "first": "w1", "second": "w2"}


PREFERS_SHORT = "def compare(duels):\n    return [{answer} for d in duels]\n"
SHORT_LONG, LONG_SHORT = duel("x", "w1", "w1 w2"), duel("y", "w1 w2", "w1")


@pytest.mark.parametrize(
    ("returns", "answer"),
    [
        ("probability", "float(len(d['first']) < len(d['second']))"),
        ("probability", "len(d['first']) < len(d['second'])"),
        ("winner", "int(len(d['first']) > len(d['second']))"),
        ("winner", "__import__('numpy').argmin([len(d['first']), len(d['second'])])"),
        ("winner", "__import__('torch').tensor([len(d['first']), len(d['second'])]).argmin()"),
    ],
)
def test_a_preference_means_the_same_whether_returned_as_probability_or_as_winner(
    returns: str, answer: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    oracle = python_oracle(tmp_path, PREFERS_SHORT.format(answer=answer), returns=returns)
    assert [v.outcome for v in oracle.ask([SHORT_LONG, LONG_SHORT])] == [Outcome.FIRST, Outcome.SECOND]
    assert [v.probability for v in oracle.ask([SHORT_LONG, LONG_SHORT])] == [1.0, 0.0]
    assert caplog.text == ""


def test_an_undecided_judge_makes_a_tie(tmp_path: Path) -> None:
    oracle = python_oracle(tmp_path, "def compare(duels):\n    return [-1] * len(duels)\n", returns="winner")
    (verdict,) = oracle.ask([duel()])
    assert (verdict.outcome, verdict.probability) == (Outcome.TIE, 0.5)


@pytest.mark.parametrize(
    "answer", ["0.0", "0.7", "2", "-2", "True", "None", "'first'", "[0]", "__import__('numpy').True_"]
)
def test_what_is_no_index_of_a_winner_is_refused_and_not_counted(answer: str, tmp_path: Path) -> None:
    """A truth value says that `first` is preferred, and would mean `second` as an index."""
    oracle = python_oracle(tmp_path, PREFERS_SHORT.format(answer=answer), returns="winner")
    with pytest.raises(UserError, match=r"oracle.returns=winner return 0 if `first` is preferred, 1 if"):
        oracle.ask([duel()])
    assert oracle.queries == 0


@pytest.mark.parametrize("index", ["{}", "__import__('numpy').int64({})", "__import__('torch').tensor({})"])
def test_whole_numbers_taken_for_probabilities_are_warned_of_once(
    index: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They mean the opposite of the winner's index, which judges return."""
    answer = index.format("int(len(d['first']) > len(d['second']))")
    oracle = python_oracle(tmp_path, PREFERS_SHORT.format(answer=answer))
    assert [v.outcome for v in oracle.ask([SHORT_LONG, LONG_SHORT])] == [Outcome.SECOND, Outcome.FIRST]
    oracle.ask([SHORT_LONG])
    (warning,) = caplog.messages
    assert "1 means `first`" in warning
    assert "set oracle.returns=winner" in warning


@pytest.mark.parametrize("returns", ["probability", "winner"])
@pytest.mark.parametrize(
    "answers", ["'1' * len(duels)", "dict(enumerate(duels))", "['1' for _ in duels]", "[b'1' for _ in duels]"]
)
def test_text_and_dictionaries_are_no_answers(answers: str, returns: str, tmp_path: Path) -> None:
    oracle = python_oracle(tmp_path, f"def compare(duels):\n    return {answers}\n", returns=returns)
    with pytest.raises(UserError, match=r"returned (str|dict)|answered b?'1'"):
        oracle.ask([duel()])


def test_a_judge_of_ones_own_is_told_by_its_own_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mine.py").write_text(
        "def compare(duels):\n    return [1 if len(duels) > 1 else None for d in duels]\n"
    )
    config = PythonOracleConfig(kind="python", target=f"{tmp_path / 'mine.py'}:compare")
    judge = make_oracle(config, seed=0, device="cpu", key="evaluation.judge")
    judge.ask([SHORT_LONG, LONG_SHORT])
    assert "set evaluation.judge.returns=winner" in caplog.text
    with pytest.raises(UserError, match=r"^evaluation\.judge\.target=.* or set evaluation\.judge\.returns=winner"):
        judge.ask([SHORT_LONG])


def test_an_undecided_judge_taken_for_a_probability_is_told_the_key(tmp_path: Path) -> None:
    oracle = python_oracle(tmp_path, "def compare(duels):\n    return [-1] * len(duels)\n")
    with pytest.raises(UserError, match=r"answered -1 .* between 0 and 1, .* or set oracle.returns=winner"):
        oracle.ask([duel()])


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
