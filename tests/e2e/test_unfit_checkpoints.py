"""A checkpoint whose checksums are right and whose content is not is refused by name, and the one before goes on."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from e2e.test_resume import stop_after
from e2e.test_run import assert_same_run, world_config

from sea_agent.config import CheckpointConfig
from sea_agent.errors import Stopped, UserError
from sea_agent.persistence.checkpoint import Checkpoints, read_checkpoint
from sea_agent.run.lifecycle import resume, run
from sea_agent.run.resumption import resumed_config

SETTINGS: dict[str, Any] = {"checkpoint": {"every": 1}, "sampler__ahead": 1, "learner__max_staleness": 1}
STOPPED_AFTER = 2
NOTHING: dict[str, Any] = {}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(world_config(**SETTINGS), out)
    return out


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stopped") / "out"
    with pytest.raises(Stopped):
        run(world_config(**SETTINGS), out, stop_after(STOPPED_AFTER))
    return out


@pytest.fixture
def out(stopped: Path, tmp_path: Path) -> Path:
    """A run that was stopped after its second round, in a directory of its own."""
    return shutil.copytree(stopped, tmp_path / "out")


def deranged(out: Path, derange: Callable[[Any], None], settings: Mapping[str, Any] = NOTHING) -> None:
    """Write the newest checkpoint anew with something else in it."""
    directory = out / "checkpoints"
    found = read_checkpoint(directory, {})
    assert found is not None
    derange(found.state)
    manifest = json.loads((directory / found.name / "manifest.json").read_text())
    with Checkpoints(directory, CheckpointConfig(), {**manifest["settings"], **settings}) as checkpoints:
        checkpoints.save(STOPPED_AFTER, found.state, None)


def at(*keys: Any, becomes: Any = None, goes: bool = False) -> Callable[[Any], None]:
    """Something else, what a function makes of it, or nothing at a place of a state."""

    def derange(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        if goes:
            del state[keys[-1]]
        else:
            state[keys[-1]] = becomes(state[keys[-1]]) if callable(becomes) else becomes

    return derange


LEARNER = ("agent", "learner", "training")
POSTERIOR = ("agent", "selector", "posterior")
NORM = "model.norm.weight"
DERANGED: dict[str, tuple[Callable[[Any], None], str]] = {
    "nothing in it": (dict.clear, "state: missing"),
    "no agent": (at("agent", becomes=[]), "state.agent: is list and not dict"),
    "a counter is a text": (
        at("agent", "counters", "rounds", becomes="two"),
        "agent.counters.rounds: is 'two' and not int",
    ),
    "a part is missing": (at("agent", "learner", goes=True), "agent: missing ['learner']"),
    "a part too many": (at("agent", "critic", becomes={}), "unknown ['critic']"),
    "a weight is missing": (at(*LEARNER, "weights", NORM, goes=True), f"learner.training.weights: missing ['{NORM}']"),
    "a weight too many": (
        at(*LEARNER, "weights", "bias", becomes=torch.ones(1)),
        "weights: missing [], unknown ['bias']",
    ),
    "a weight of one number": (at(*LEARNER, "weights", NORM, becomes=torch.ones(1)), "is torch.float32 of shape (1,)"),
    "a weight that is none": (at(*LEARNER, "weights", NORM, becomes=3), f"weights.{NORM}: is int and not"),
    "a moment of doubles": (at(*LEARNER, "exp_avg", NORM, becomes=torch.Tensor.double), "is torch.float64 of shape"),
    "no scales": (at("agent", "selector", "features", becomes=[]), "features: holds 0 items and not 1"),
    "other scales": (at("agent", "selector", "features", 0, "mean", becomes=torch.ones(3)), "features.mean: is"),
    "another posterior": (at(*POSTERIOR, "family", becomes="laplace"), "is 'laplace' and not 'ensemble'"),
    "a head too few": (
        at(*POSTERIOR, "members", "weight_1", becomes=lambda w: w[1:]),
        "posterior.members.weight_1: is",
    ),
    "heads with other moments": (
        at(*POSTERIOR, "optimiser", "state", 0, "exp_avg", becomes=lambda w: w[1:]),
        "posterior.optimiser.state.0.exp_avg: is",
    ),
    "a label too few": (at(*POSTERIOR, "replay", "wins", becomes=lambda w: w[1:]), "posterior.replay: labels of"),
    "a label that is no number": (at(*POSTERIOR, "replay", "wins", becomes=lambda w: w * torch.nan), "not finite"),
    "prompts are a number": (at("agent", "source", "prompts", becomes=7), "source.prompts: is int"),
    "a response without tokens": (
        at("agent", "source", "ahead", 0, "rows", 0, 0, 0, "token_ids", goes=True),
        "source.ahead.0.rows.0.0.0: missing ['token_ids']",
    ),
    "the reference's responses gone": (
        at("agent", "evaluator", "reference", becomes=[]),
        "evaluator.reference: holds 0",
    ),
    "more metrics than there are": (at("metrics_bytes", becomes=10**6), "the checkpoint speaks of 1000000"),
}


def refusal(out: Path) -> str:
    with pytest.raises(UserError) as caught:
        resume(resumed_config(out), out)
    return str(caught.value)


@pytest.mark.parametrize("case", DERANGED)
def test_a_state_that_does_not_fit_is_refused_by_name_and_the_one_before_offered(case: str, out: Path) -> None:
    derange, complaint = DERANGED[case]
    deranged(out, derange)
    told = refusal(out)
    assert told.startswith(f"{out / 'checkpoints' / 'round-000002'}: does not fit this run (")
    assert complaint in told
    assert told.endswith("The one before is whole: add --checkpoint round-000001.")


def test_a_checkpoint_of_other_settings_is_refused_and_the_one_before_goes_on(whole: Path, out: Path) -> None:
    deranged(out, lambda state: None, {"learner.beta": 0.7})
    told = refusal(out)
    assert "round-000002: is of a run with other settings (learner.beta is 0.7 there and 0.3 here)" in told
    assert told.endswith("add --checkpoint round-000001.")
    resume(resumed_config(out), out, "round-000001")
    assert_same_run(whole, out)


def test_a_checkpoint_that_was_written_anew_as_it_was_goes_on(whole: Path, out: Path) -> None:
    deranged(out, lambda state: None)
    resume(resumed_config(out), out)
    assert_same_run(whole, out)


def test_a_learner_that_does_not_look_is_seen(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deranged(out, DERANGED["a weight is missing"][0])
    monkeypatch.setattr("learner.engine.require", lambda *arguments: None)
    with pytest.raises(KeyError, match=NORM):
        resume(resumed_config(out), out)
