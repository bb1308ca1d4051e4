"""Sampling ahead of the learner: the same wherever the parts live, as old as allowed, and really at the same time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.killed_runs import Lives
from e2e.test_run import assert_same_run, metrics, world_config

from actors import samplers as samplers_module
from actors.hf_sampler import HfSampler
from actors.runtime import InlineRuntime
from sea_agent.errors import RunFailure, UserError
from sea_agent.persistence.ledger import Ledger
from sea_agent.run import lifecycle as run_module
from sea_agent.run.lifecycle import run


def ahead(rounds: int, **changes: Any) -> Any:
    settings = {
        "sampler__ahead": rounds,
        "learner__max_staleness": rounds,
        "imagination": {"rounds": 2, "start": 8},
        "budget__oracle_queries": 32,
        "evaluation__every": 8,
    }
    return world_config(**settings | changes)


@pytest.mark.parametrize("rounds", [1, 2])
def test_ray_and_any_number_of_samplers_give_the_inline_run(rounds: int, tmp_path: Path) -> None:
    run(ahead(rounds), tmp_path / "inline")
    run(ahead(rounds, runtime="ray", sampler__actors=2), tmp_path / "ray")
    assert_same_run(tmp_path / "inline", tmp_path / "ray")
    run(ahead(0), tmp_path / "synchronous")
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "inline", tmp_path / "synchronous")


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_responses_are_learnt_from_exactly_as_many_versions_later(rounds: int, tmp_path: Path) -> None:
    run(ahead(rounds), tmp_path / "out")
    with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
        versions = {
            (duel.round, side.policy_version) for duel, _ in ledger.rows() for side in (duel.first, duel.second)
        }
    assert versions == {(number, max(0, number - 1 - rounds)) for number, _ in versions}
    assert len(versions) >= 4


def test_what_is_sampled_ahead_does_not_change_which_prompts_a_round_has(tmp_path: Path) -> None:
    """Rounds that imagine and rounds that ask come as they do without, and so do their prompts."""
    prompts = []
    for rounds in (0, 2):
        run(ahead(rounds), tmp_path / str(rounds))
        with Ledger(tmp_path / str(rounds) / "ledger.sqlite") as ledger:
            prompts.append([(duel.round, duel.prompt.id) for duel, _ in ledger.rows()])
    common = [[one for one in rows if one in prompts[1 - place]] for place, rows in enumerate(prompts)]
    assert common[0] == common[1]
    assert len(common[0]) >= 0.9 * len(prompts[0])  # a prompt whose candidates are all equal gives no duel


def test_a_learner_that_may_not_be_so_stale_is_refused_before_the_start() -> None:
    with pytest.raises(UserError, match=r"sampler\.ahead=2 needs learner\.max_staleness=2"):
        ahead(2, learner__max_staleness=1)


def test_a_learner_refuses_responses_that_are_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "CandidateSource", one_round_too_early(run_module.CandidateSource))
    with pytest.raises(RunFailure, match=r"learner\.max_staleness=1 allows no more than 1 versions"):
        run(ahead(1), tmp_path / "out")


def one_round_too_early(source: Any) -> Any:
    def make(config: Any, *parts: Any) -> Any:
        early = config.sampler.model_copy(update={"ahead": 2})
        return source(config.model_copy(update={"sampler": early}), *parts)

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
    monkeypatch.setattr(
        HfSampler, "logprobs", lambda self, rows: [[one - 0.1 for one in row] for row in score(self, rows)]
    )
    with pytest.raises(RunFailure, match=r"sampler and learner disagree by 0\.1"):
        run(ahead(1, budget__oracle_queries=16), tmp_path / "unsound")


def test_a_run_that_died_goes_on_with_what_was_sampled_ahead(tmp_path: Path) -> None:
    lives = Lives()
    tree = ahead(2, checkpoint={"every": 2}).model_dump(mode="json")
    assert lives.end(lives.begin(tree, tmp_path / "whole")) == 0
    out = tmp_path / "out"
    for call in (5, 4, 3):
        assert lives.end(lives.begin(tree, out, ("metrics", call, True))) < 0
    assert lives.end(lives.begin(tree, out)) == 0
    assert_same_run(tmp_path / "whole", out)
    assert lives.end(lives.begin(tree, tmp_path / "again", ("metrics", 5, True))) < 0
    assert lives.end(lives.begin(tree, tmp_path / "again", None, forget_what_is_ahead)) == 0
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "whole", tmp_path / "again")


def forget_what_is_ahead() -> None:
    from sea_agent.loop.candidates import CandidateSource

    load = CandidateSource.load_state
    CandidateSource.load_state = lambda self, state: load(self, {**state, "ahead": []})  # type: ignore[method-assign]
