"""A rule, a loss and features from a user's file take part in a run, as built-in ones do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sea_agent.config.files import load_config, parse_config
from sea_agent.errors import Stopped
from sea_agent.persistence.ledger import Ledger
from sea_agent.run.lifecycle import resume, run
from sea_agent.run.resumption import resumed_config
from sea_agent.run.session import Watch

# The built-in ``best_worst``, ``ipo`` and ``reward`` once more, in a user's words.
MINE = """
import torch
from sea_agent.worlds import scorer

def ends(rewards, valid, chance):
    first = rewards[0].masked_fill(~valid, -torch.inf).argmax(1)
    others = valid.scatter(1, first[:, None], False)
    return torch.stack([first, rewards[0].masked_fill(~others, torch.inf).argmin(1)], 1)

def squared(pairs, beta):
    return (pairs.gap() - 1 / (2 * beta)) ** 2

class Hidden:
    def __init__(self):
        self.reward = scorer("lexicon", "reward")

    def __call__(self, texts):
        return torch.tensor([[self.reward(prompt, response)] for prompt, response in texts])
"""
BUILT_IN = {"selection.rule": "best_worst", "learner.loss": "ipo", "posterior.features": "reward"}


def settings(**parts: str) -> list[str]:
    small = ["budget.oracle_queries=16", "batch_size=8", "sampler.candidates=4", "evaluation.prompts_path=null"]
    trusted = ["posterior.family=ensemble", "posterior.members=4", "posterior.ensemble.hidden=8"]  # from the start
    return [*small, *trusted, *(f"{key}={value}" for key, value in parts.items())]


def lived(out: Path, rule: str) -> tuple[list[tuple[Any, ...]], Path]:
    """The duels of a run, which all name their rule, and what was believed and answered."""
    with Ledger(out / "ledger.sqlite") as ledger:
        rows = ledger.rows()
    assert {duel.rule for duel, _ in rows} == {rule}
    return [(d.id, d.first.text, d.second.text, d.belief, d.disagreement, v and v.outcome) for d, v in rows]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    file = tmp_path_factory.mktemp("user") / "mine.py"
    file.write_text(MINE)
    return dict(zip(BUILT_IN, (f"{file}:ends", f"{file}:squared", f"{file}:Hidden"), strict=True))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[list[tuple[Any, ...]], str, Path]]:
    """Duels, checksum of the policy, and the directory of a run with such parts."""

    def go(**parts: str) -> tuple[list[tuple[Any, ...]], str, Path]:
        out = tmp_path_factory.mktemp("run") / "out"
        summary = run(load_config("lab", settings(**parts)), out)
        return lived(out, parts["selection.rule"]), summary["policy_checksum"], out

    return go


@pytest.fixture(scope="module")
def built_in(ran: Callable) -> tuple[list[tuple[Any, ...]], str, Path]:
    return ran(**BUILT_IN)


def test_built_in_parts_written_once_more_make_the_same_run(
    ran: Callable, parts: dict[str, str], built_in: tuple[list, str, Path]
) -> None:
    duels, checksum, out = ran(**parts)
    assert duels == built_in[0]
    assert checksum == built_in[1]
    recorded = load_config(str(out / "config.yaml"))
    assert recorded.selection.rule == parts["selection.rule"]
    assert recorded.learner.loss == parts["learner.loss"]
    assert recorded.posterior.features == parts["posterior.features"]


@pytest.mark.parametrize(
    ("key", "name", "body"),
    [
        ("selection.rule", "last", "def last(r, valid, c):\n    return valid.int().argsort(1, descending=True)[:, :2]"),
        ("learner.loss", "steep", "def steep(pairs, beta):\n    return (-beta * pairs.gap()).exp()"),
        ("posterior.features", "short", "def short(texts):\n    return torch.tensor([[len(r)] for _, r in texts])"),
    ],
)
def test_another_one_makes_another_run(
    key: str, name: str, body: str, ran: Callable, built_in: tuple[list, str, Path], tmp_path: Path
) -> None:
    """Each part by itself reaches the run: the comparison above would see it missing."""
    (tmp_path / "other.py").write_text(f"import torch\n{body}\n")
    duels, checksum, _ = ran(**BUILT_IN | {key: f"{tmp_path}/other.py:{name}"})
    first, first_built_in = duels[:8], built_in[0][:8]
    assert (first == first_built_in) is (key == "learner.loss")  # the loss is felt from the first step on
    assert checksum != built_in[1]


def test_a_run_with_parts_of_ones_own_goes_on_after_a_stop(
    parts: dict[str, str], built_in: tuple[list, str, Path], tmp_path: Path
) -> None:
    rounds: list[Any] = []
    watch = Watch(on_round=rounds.append, stopping=lambda: len(rounds) > 1)
    with pytest.raises(Stopped):
        run(load_config("lab", settings(**parts)), tmp_path / "out", watch)
    summary = resume(resumed_config(tmp_path / "out"), tmp_path / "out")
    assert lived(tmp_path / "out", parts["selection.rule"]) == built_in[0]
    assert summary["policy_checksum"] == built_in[1]


@pytest.mark.parametrize("key", BUILT_IN)
def test_check_tries_each_part(key: str, sea_agent: Callable[..., Any], tmp_path: Path, parts: dict[str, str]) -> None:
    (tmp_path / "wrong.py").write_text("def wrong(*given):\n    return None\n")
    done = sea_agent("check", "lab", *(word for one in settings(**BUILT_IN) for word in ("--set", one)))
    assert done.code == 0, done.err
    wrong = settings(**parts | {key: "wrong.py:wrong"})
    done = sea_agent("check", "lab", *(word for one in wrong for word in ("--set", one)))
    assert done.code == 2
    assert f"{key}=wrong.py:wrong: returned NoneType; a " in done.err


@pytest.mark.parametrize("setting", ["learner.optimism=selm", "selection.rule=apl"])
def test_what_needs_a_reference_refuses_a_loss_that_says_it_has_none(
    setting: str, sea_agent: Callable[..., Any], tmp_path: Path
) -> None:
    body = "def mine(pairs):\n    return -pairs.gap(reference=False)\n"
    (tmp_path / "free.py").write_text(body + "mine.uses_reference = False\n")
    arguments = ("check", "lab", "--set", "learner.loss=free.py:mine")
    assert sea_agent(*arguments).code == 0
    done = sea_agent(*arguments, "--set", setting)
    assert done.code == 2
    assert f"{setting} needs a learner.loss with a reference; free.py:mine has none" in done.err


def test_a_rule_of_ones_own_has_a_posterior() -> None:
    tree = {"policy": {"path": "p"}, "prompts": {"path": "q"}, "oracle": {"kind": "world"}}
    tree |= {"budget": {"oracle_queries": 1}}
    assert parse_config(tree | {"selection": {"rule": "mine.py:rule"}}, "test").needs_posterior
    assert not parse_config(tree | {"selection": {"rule": "uniform"}}, "test").needs_posterior
