"""Sampling ahead of the learner: the same wherever the parts live, as old as allowed, and really at the same time."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.test_run import assert_same_run, metrics, world_config
from mortal_parts import MortalRuntime

from actors import samplers as samplers_module
from actors.hf_sampler import HfSampler
from actors.runtime import InlineRuntime
from sea_agent.errors import RunFailure, UserError
from sea_agent.loop.candidates import CandidateSource
from sea_agent.persistence.ledger import Ledger
from sea_agent.persistence.rounds import RoundMetrics
from sea_agent.run import assembly
from sea_agent.run import lifecycle as run_module
from sea_agent.run.lifecycle import resume, run
from sea_agent.run.resumption import resumed_config
from sea_agent.run.session import Watch


def ahead(rounds: int, **changes: Any) -> Any:
    settings = {
        "sampler__ahead": rounds,
        "learner__max_staleness": rounds,
        "imagination": {"rounds": 2, "start": 8},
        "budget__oracle_queries": 32,
        "evaluation__every": 8,
    }
    return world_config(**settings | changes)


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the runs that sample 0, 1 and 2 rounds ahead."""
    folder = tmp_path_factory.mktemp("inline")
    for rounds in range(3):
        run(ahead(rounds), folder / str(rounds))
    return folder


@pytest.mark.parametrize("rounds", [1, 2])
def test_any_number_of_samplers_gives_the_inline_run(
    rounds: int, inline: Path, tmp_path: Path, mortal: MortalRuntime
) -> None:
    """On Ray, too: ``test_dying_actors``."""
    run(ahead(rounds, runtime="ray", sampler__actors=2), tmp_path / "two")
    assert "sampler-1" in mortal.parts
    assert_same_run(inline / str(rounds), tmp_path / "two")
    with pytest.raises(AssertionError):
        assert_same_run(inline / "0", tmp_path / "two")


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_responses_are_learnt_from_exactly_as_many_versions_later(rounds: int, inline: Path) -> None:
    with Ledger(inline / str(rounds) / "ledger.sqlite") as ledger:
        versions = {
            (duel.round, side.policy_version) for duel, _ in ledger.rows() for side in (duel.first, duel.second)
        }
    assert versions == {(number, max(0, number - 1 - rounds)) for number, _ in versions}
    assert len(versions) >= 4


def test_what_is_sampled_ahead_does_not_change_which_prompts_a_round_has(inline: Path) -> None:
    """Rounds that imagine and rounds that ask come as they do without, and so do their prompts."""
    prompts = []
    for rounds in (0, 2):
        with Ledger(inline / str(rounds) / "ledger.sqlite") as ledger:
            prompts.append([(duel.round, duel.prompt.id) for duel, _ in ledger.rows()])
    common = [[one for one in rows if one in prompts[1 - place]] for place, rows in enumerate(prompts)]
    assert common[0] == common[1]
    assert len(common[0]) >= 0.9 * len(prompts[0])  # a prompt whose candidates are all equal gives no duel


def test_a_learner_that_may_not_be_so_stale_is_refused_before_the_start() -> None:
    with pytest.raises(UserError, match=r"sampler\.ahead=2 needs learner\.max_staleness=2"):
        ahead(2, learner__max_staleness=1)


def test_a_learner_refuses_responses_that_are_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "CandidateSource", one_round_too_early(assembly.CandidateSource))
    with pytest.raises(RunFailure, match=r"learner\.max_staleness=1 allows no more than 1 versions"):
        run(ahead(1), tmp_path / "out")


def one_round_too_early(source: Any) -> Any:
    def make(sampler: Any, *parts: Any, **options: Any) -> Any:
        return source(sampler.model_copy(update={"ahead": 2}), *parts, **options)

    return make


class Watched(InlineRuntime):
    """Notes in which order the calls are made."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def spawn(self, name: str, factory: Callable[..., Any], *args: Any) -> Any:
        remote = super().spawn(name, factory, *args)
        call = remote.call

        def noted(method: str, *arguments: Any) -> Any:
            key = arguments[0][0].id if method == "sample" else ""
            self.calls.append(f"{method} {key}".strip())
            return call(method, *arguments)

        remote.call = noted  # type: ignore[method-assign]
        return remote


@pytest.mark.parametrize(("rounds", "sampled_before_a_step"), [(0, 1), (1, 2), (2, 3)])
def test_the_next_rounds_are_being_sampled_while_the_learner_works(
    rounds: int, sampled_before_a_step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samplers have their work before the learner has its, and weights wait for both."""
    watched = Watched()
    monkeypatch.setattr(run_module, "make_runtime", lambda *arguments: watched)
    monkeypatch.setattr(samplers_module, "id_for", lambda *parts: "/".join(map(str, parts)))
    run(ahead(rounds, imagination={}, evaluation={}), tmp_path / "out")
    before = watched.calls[: watched.calls.index("step")]
    begun = {call.split("/")[3] for call in before if call.startswith("sample response/0/round")}
    assert begun == {str(number) for number in range(1, sampled_before_a_step + 1)}


def test_a_sampler_that_disagrees_about_the_present_policy_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No response that is learnt from is of a present version, so the versions are compared on their own."""
    run(ahead(1, budget__oracle_queries=16), tmp_path / "sound")
    gaps = [row["logprob_gap"] for row in metrics(tmp_path / "sound") if row["round"]]
    assert all(0 <= gap < 1e-4 for gap in gaps)
    score = HfSampler.logprobs

    def off(self: HfSampler, rows: Any) -> Any:
        return [[one - 0.1 * (self.version > 0) for one in row] for row in score(self, rows)]

    monkeypatch.setattr(HfSampler, "logprobs", off)
    with pytest.raises(RunFailure, match=r"sampler and learner disagree by 0\.1"):
        run(ahead(1, budget__oracle_queries=16), tmp_path / "unsound")


class Death(Exception):
    """Ends a run between a round and its checkpoint."""


def dies_after(rounds: int) -> Watch:
    """A run that dies when it has lived so many rounds."""
    lived: list[int] = []

    def on_round(row: RoundMetrics) -> None:
        lived.append(row.round)
        if len(lived) == rounds:
            raise Death

    return Watch(on_round=on_round)


def test_a_run_that_died_goes_on_with_what_was_sampled_ahead(
    inline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(Death):
        run(ahead(2, checkpoint={"every": 2}), out, dies_after(5))
    shutil.copytree(out, tmp_path / "again")
    with pytest.raises(Death):
        resume(resumed_config(out), out, watch=dies_after(4))
    resume(resumed_config(out), out)
    assert_same_run(inline / "2", out)

    load = CandidateSource.load_state
    monkeypatch.setattr(CandidateSource, "load_state", lambda self, state: load(self, {**state, "ahead": []}))
    resume(resumed_config(tmp_path / "again"), tmp_path / "again")
    with pytest.raises(AssertionError):
        assert_same_run(inline / "2", tmp_path / "again")
