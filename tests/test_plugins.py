"""A user's own function by ``file.py:name``: what is wrong with it is refused with the file and the remedy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learner.losses import Pairs, PreferenceLoss
from sea_agent.bandit.selection import load_rule, select_pairs
from sea_agent.config import LearnerConfig
from sea_agent.errors import UserError
from sea_agent.features.own import OwnFeatures
from sea_agent.plugins import Plugin, is_own
from sea_agent.types import Prompt, Response

LOADERS: dict[str, Callable[[str], Any]] = {
    "selection.rule": load_rule,
    "learner.loss": lambda target: PreferenceLoss(LearnerConfig(loss=target)),
    "posterior.features": lambda target: OwnFeatures(target).try_on(["a prompt"]),
}
RIGHT = {
    "selection.rule": "def mine(rewards, valid, chance):\n    return valid.int().argsort(1, descending=True)[:, :2]",
    "learner.loss": "def mine(pairs):\n    return -pairs.gap()",
    "posterior.features": "def mine(texts):\n    return torch.tensor([[len(p), len(r)] for p, r in texts])",
}


def write(folder: Path, body: str) -> str:
    file = folder / "own_parts.py"
    file.write_text(f"import numpy as np\nimport torch\n{body}\n")
    return f"{file}:mine"


@pytest.mark.parametrize("key", LOADERS)
def test_a_right_one_is_taken(key: str, tmp_path: Path) -> None:
    LOADERS[key](write(tmp_path, RIGHT[key]))


@pytest.mark.parametrize("key", LOADERS)
@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("nowhere.py:mine", "no file nowhere.py in "),
        ("json:no_such_name", "json has no function no_such_name"),
        ("no_such_module_at_all:mine", "cannot be imported"),
    ],
)
def test_what_is_not_there_is_refused(key: str, target: str, complaint: str) -> None:
    with pytest.raises(UserError, match=f"^{key}={target}: .*{complaint}"):
        LOADERS[key](target)


RULE = "def mine(rewards, valid, chance):\n    return "
LOSS = "def mine(pairs, beta):\n    return "
FEATURES = "def mine(texts):\n    return "


@pytest.mark.parametrize(
    ("key", "body", "complaint"),
    [
        ("selection.rule", "def mine(rewards, valid):\n    return valid", "cannot be called: too many positional"),
        ("selection.rule", "class mine:\n    pass", "cannot be called"),
        ("selection.rule", "def mine(rewards, valid, chance):\n    1 / 0", r"ZeroDivisionError: .*own_parts.py:4"),
        ("selection.rule", "async def mine(rewards, valid, chance):\n    pass", "is an async function"),
        ("selection.rule", "class mine:\n    async def __call__(self, *all):\n        pass", "is an async function"),
        ("selection.rule", "async def late(): ...\ndef mine(*all):\n    return late()", "returned a coroutine"),
        ("selection.rule", "def mine(rewards, valid, chance):\n    pass", "returned NoneType"),
        ("selection.rule", RULE + "rewards.mean(0).argmax(1)", r"returned torch.int64 of shape \(3,\) for 3 prompts"),
        ("selection.rule", RULE + "torch.zeros(len(valid), 2)", r"returned torch.float32 of shape \(3, 2\)"),
        ("selection.rule", RULE + "torch.ones(len(valid), 2).long()", r"paired \[1, 1\] where prompt 0"),
        ("selection.rule", RULE + "torch.tensor([[0, 5]]).expand(len(valid), 2)", r"paired \[0, 5\]"),
        ("selection.rule", RULE + "torch.tensor([[-1, 0]]).expand(len(valid), 2)", r"paired \[-1, 0\]"),
        ("selection.rule", RULE + "rewards.mean(0).topk(2).indices", r"where prompt 0 has the candidates \[0, 1\]"),
        ("learner.loss", "def mine(pairs, margins):\n    return pairs.gap()", "cannot be called: missing .*margins"),
        ("learner.loss", LOSS + "3.0", "returned float"),
        ("learner.loss", LOSS + "pairs.gap().mean()", r"returned torch.float32 of shape \(\) for 3 pairs"),
        ("learner.loss", LOSS + "(pairs.gap() > 0)", "returned torch.bool"),
        ("learner.loss", LOSS + "pairs.gap().log()", "not finite"),
        ("learner.loss", LOSS + "pairs.gap().detach()", "without a gradient"),
        ("learner.loss", LOSS + "pairs.gap()\nmine.uses_reference = False", "this loss needs reference_chosen"),
        ("posterior.features", FEATURES + "[[1.0] for _ in texts]", "returned list"),
        ("posterior.features", FEATURES + "np.array([r for _, r in texts])", "numbers of the type <U"),
        ("posterior.features", FEATURES + "torch.ones(len(texts))", r"returned shape \(3,\) for 3 pairs"),
        ("posterior.features", FEATURES + "torch.ones(2, 4)", r"returned shape \(2, 4\) for 3 pairs"),
        ("posterior.features", FEATURES + "torch.full((len(texts), 2), torch.nan)", "not finite"),
        ("posterior.features", FEATURES + "torch.tensor([[1 / len(r)] for _, r in texts])", "ZeroDivisionError"),
    ],
)
def test_a_wrong_one_is_refused_as_it_is_loaded(key: str, body: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        LOADERS[key](write(tmp_path, body))
    assert f"{key}={tmp_path}/own_parts.py:mine" in str(caught.value)


# --- one that is right at first ---------------------------------------------------------------------------------------

LATER = "calls = 0\ndef mine({0}):\n    global calls\n    calls += 1\n    return {1} if calls > 2 else {2}"


def test_a_rule_is_checked_at_every_call(tmp_path: Path) -> None:
    right = "valid.int().argsort(1, descending=True)[:, :2]"
    body = LATER.format("rewards, valid, chance", "torch.zeros(len(valid), 2).long()", right)
    rule = load_rule(write(tmp_path, body))
    with pytest.raises(UserError, match=r"paired \[0, 0\]"):
        select_pairs(rule, torch.zeros(2, 1, 3), torch.ones(1, 3, dtype=torch.bool), np.random.default_rng(0))


def test_a_loss_is_checked_at_every_call(tmp_path: Path) -> None:
    loss = PreferenceLoss(LearnerConfig(loss=write(tmp_path, LATER.format("pairs", "pairs.gap() / 0", "pairs.gap()"))))
    one = torch.ones(1)
    assert loss(Pairs(one, one, one, one)) == 0
    with pytest.raises(UserError, match="not finite"):
        loss(Pairs(one, one, one, one))


def test_features_are_checked_at_every_call(tmp_path: Path) -> None:
    wider = "torch.ones(len(texts), 3)"
    features = OwnFeatures(write(tmp_path, LATER.format("texts", wider, "torch.ones(len(texts), 2)")))
    rows = [(Prompt("p", "p", ()), Response("r", "p", "r", (), (), 0))] * 2
    for _ in range(2):
        assert features.features(rows).shape == (2, 2)
    with pytest.raises(UserError, match="returned 3 columns after 2"):
        features.features(rows)


# --- the loader -------------------------------------------------------------------------------------------------------


def test_a_class_is_made_once_and_keeps_what_it_holds(tmp_path: Path) -> None:
    body = "class mine:\n    def __init__(self):\n        self.calls = 0\n"
    body += "    def __call__(self, by):\n        self.calls += by\n        return self.calls"
    plugin = Plugin("key", write(tmp_path, body), "a contract")
    assert [plugin(1), plugin(2)] == [1, 3]


def test_a_file_finds_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "lying_beside.py").write_text("ANSWER = 7\n")
    assert Plugin("key", write(tmp_path, "import lying_beside\ndef mine():\n    return lying_beside.ANSWER"), "")() == 7


def test_a_loss_without_a_reference_says_so_and_gets_the_settings_it_names(tmp_path: Path) -> None:
    body = "def mine(pairs, beta, label_smoothing):\n    return pairs.gap(reference=False) * beta * label_smoothing\n"
    target = write(tmp_path, body + "mine.uses_reference = False")
    loss = PreferenceLoss(LearnerConfig(loss=target, beta=2.0, label_smoothing=0.25))
    assert not loss.uses_reference
    pairs = Pairs(torch.tensor([-1.0]), torch.tensor([-4.0]))
    assert loss(pairs).tolist() == [1.5]
    assert loss.margin(pairs).tolist() == [6.0]


@pytest.mark.parametrize(("name", "own"), [("dpo", False), (":f", False), ("f.py:", False), ("a/f.py:f", True)])
def test_a_name_with_a_place_is_a_users_own(name: str, own: bool) -> None:
    assert is_own(name) is own
