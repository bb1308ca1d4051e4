"""Whole runs that begin with imported preferences, and what they export."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.test_run import COUNTING_ORACLE, assert_same_run, world_config

from sea_agent.errors import RunFailure, UserError
from sea_agent.loop.selector import Selector
from sea_agent.persistence.ledger import Ledger
from sea_agent.run.lifecycle import resume, run
from sea_agent.run.resumption import resumed_config
from sea_agent.types import LabelSource, Outcome
from sea_agent.worlds import scorer
from sea_agent.worlds.lexicon import make_demonstrations

TEXT = {"family": "laplace", "features": "text", "members": 5}


@pytest.fixture
def preferences(write_jsonl: Callable[..., Path]) -> Path:
    """Forty pairs of the world, in which the hidden reward's favourite was chosen, and one pair of equal texts."""
    reward = scorer("lexicon", "reward")
    rows = []
    for prompt, text in make_demonstrations(40, seed=5):
        better, worse = sorted((text, f"{text} um"), key=lambda response: -reward(prompt, response))
        rows.append({"prompt": prompt, "chosen": better, "rejected": worse, "annotator": "ann"})
    return write_jsonl([*rows, rows[0] | {"rejected": rows[0]["chosen"]}], "mine.jsonl")


def counted(tmp_path: Path, **changes: Any) -> Any:
    """A run whose oracle writes down every duel it sees."""
    (tmp_path / "mine.py").write_text(COUNTING_ORACLE)
    oracle = {"kind": "python", "target": f"{tmp_path / 'mine.py'}:compare"}
    return world_config(oracle=oracle, evaluation={}, **changes)


def test_imported_preferences_are_in_the_ledger_and_no_queries(preferences: Path, tmp_path: Path) -> None:
    config = counted(tmp_path, posterior=TEXT | {"preferences_path": str(preferences)})
    summary = run(config, tmp_path / "out")
    seen = [json.loads(line) for line in (tmp_path / "mine.seen").read_text().splitlines()]
    with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
        assert len(seen) == ledger.oracle_queries == summary["oracle_queries"] == 20
        assert ledger.imported_preferences == summary["imported_preferences"] == 40
        entries = ledger.rows()
    assert summary["imported_preferences_skipped"] == 1
    brought = entries[:40]
    assert {duel.label_source for duel, _ in brought} == {LabelSource.DEMO}
    assert [duel.label_source for duel, _ in entries[40:]] == [LabelSource.ORACLE] * 20
    assert {duel["id"] for duel in seen}.isdisjoint(duel.id for duel, _ in brought)
    rows = [json.loads(line) for line in preferences.read_text().splitlines()][:40]
    assert [(duel.prompt.text, duel.first.text, duel.second.text) for duel, _ in brought] == [
        (row["prompt"], row["chosen"], row["rejected"]) for row in rows
    ]
    assert {(verdict.outcome, verdict.annotator) for _, verdict in brought if verdict} == {(Outcome.FIRST, "ann")}
    first_asked = entries[40][0]
    assert first_asked.posterior_version == 2, "the posterior learnt from both halves before the first round"


def test_the_policy_is_not_trained_on_them(preferences: Path, tmp_path: Path) -> None:
    """Where selection does not look at the posterior, the run is the same with and without them."""
    posterior = TEXT | {"preferences_path": str(preferences)}

    def checksum(name: str, rule: str, **changes: Any) -> str:
        config = world_config(selection__rule=rule, evaluation__best_of=2, evaluation__prompts=4, **changes)
        return run(config, tmp_path / name)["policy_checksum"]

    plain = checksum("plain", "passive", posterior=TEXT)
    assert checksum("passive", "passive", posterior=posterior) == plain
    asks = checksum("asks", "best_worst", posterior=TEXT)
    assert checksum("warm", "best_worst", posterior=posterior) != asks, "the control: they change what is asked"


@pytest.mark.parametrize("method", ["warm", "select"])
def test_a_run_that_failed_before_its_first_checkpoint_goes_on_with_them(
    method: str, preferences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world_config(posterior=TEXT | {"preferences_path": str(preferences)}, budget__oracle_queries=8)
    run(config, tmp_path / "whole")

    def stumble(*arguments: object) -> None:
        raise RunFailure("the posterior died")

    with monkeypatch.context() as broken:
        broken.setattr(Selector, method, stumble)
        with pytest.raises(RunFailure, match="the posterior died"):
            run(config, tmp_path / "out")
    summary = resume(resumed_config(tmp_path / "out"), tmp_path / "out")
    assert summary["imported_preferences"] == 40
    assert_same_run(tmp_path / "whole", tmp_path / "out")


def test_a_file_that_changed_before_the_first_checkpoint_is_noticed(
    preferences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*arguments: object) -> None:
        raise RunFailure("the posterior died")

    with monkeypatch.context() as broken:
        broken.setattr(Selector, "warm", stumble)
        with pytest.raises(RunFailure):
            run(world_config(posterior=TEXT | {"preferences_path": str(preferences)}), tmp_path / "out")
    preferences.write_text("\n".join(preferences.read_text().splitlines()[1:]))
    with pytest.raises(UserError, match=r"posterior\.preferences_path: the file changed since the run began"):
        resume(resumed_config(tmp_path / "out"), tmp_path / "out")


def test_what_one_run_exports_another_can_begin_with(tmp_path: Path, sea_agent: Callable[..., Any]) -> None:
    """Every end in one circle: the command line, the file, and the tokens of each response that had ended."""
    run(world_config(mixing={"oracle_share": 0.7}), tmp_path / "one")
    done = sea_agent("export", "one", "--out", "one.parquet", "--source", "all")
    assert done.code == 0, done.err
    exported = int(done.out.split(": ")[1].split()[0])
    config = world_config(posterior=TEXT | {"preferences_path": str(tmp_path / "one.parquet")})
    run(config, tmp_path / "two")
    with Ledger(tmp_path / "one" / "ledger.sqlite") as ledger:
        labelled = [
            duel if verdict.outcome is Outcome.FIRST else duel.swap()
            for duel, verdict in ledger.rows()
            if verdict and verdict.outcome in (Outcome.FIRST, Outcome.SECOND)
        ]
    with Ledger(tmp_path / "two" / "ledger.sqlite") as ledger:
        brought = [duel for duel, _ in ledger.rows() if duel.label_source is LabelSource.DEMO]
    assert len(labelled) == len(brought) == exported > 20
    end = labelled[0].first.token_ids[-1]
    for before, after in zip(labelled, brought, strict=True):
        assert before.prompt.token_ids == after.prompt.token_ids
        for one, other in ((before.first, after.first), (before.second, after.second)):
            assert other.token_ids == (one.token_ids if one.token_ids[-1] == end else (*one.token_ids, end))


def test_a_configuration_in_which_they_have_no_effect_is_refused(sea_agent: Callable[..., Any]) -> None:
    done = sea_agent("check", "passive", "--set", "posterior.preferences_path=mine.jsonl")
    assert done.code == 2
    assert "posterior.preferences_path has no effect: with selection.rule=passive" in done.err


def test_a_bad_file_is_named_before_anything_starts(
    sea_agent: Callable[..., Any], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    write_jsonl([{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": "a"}], "mine.jsonl")
    done = sea_agent("run", "sea", "--out", "out", "--set", "posterior.preferences_path=mine.jsonl")
    assert done.code == 2
    assert "mine.jsonl:2: no field 'rejected'" in done.err
    assert not (tmp_path / "out").exists()


def test_check_tells_how_many_there_are(preferences: Path, sea_agent: Callable[..., Any]) -> None:
    done = sea_agent("check", "sea", "--set", f"posterior.preferences_path={preferences}")
    assert done.code == 0, done.err
    assert "40 imported preferences; 1 skipped" in done.out


@pytest.mark.parametrize("told", [True, False])
def test_check_says_how_many_preferences_the_posterior_foretells_after_others(
    told: bool, write_jsonl: Callable[..., Path], sea_agent: Callable[..., Any]
) -> None:
    """The control: preferences of which every second one is turned round are not foretold."""
    rows = []
    for index, (prompt, text) in enumerate(make_demonstrations(120, seed=5)):
        pair = [text, f"{text} um"]
        if not told and index % 2:
            pair.reverse()
        rows.append({"prompt": prompt, "chosen": pair[0], "rejected": pair[1]})
    write_jsonl(rows, "mine.jsonl")
    done = sea_agent("check", "sea", "--set", "posterior.preferences_path=mine.jsonl", "--foretell")
    assert done.code == 0, done.err
    found = re.search(
        r"After 60 .* foretells (\d+)% of 60 others \(95 % interval (\d+)% to (\d+)%", " ".join(done.out.split())
    )
    assert found is not None, done.out
    share, low, high = map(int, found.groups())
    assert low <= share <= high
    assert (share > 95) if told else (low < 50 < high)


@pytest.mark.parametrize("rows", [0, 19])
def test_too_few_preferences_foretell_nothing(
    rows: int, write_jsonl: Callable[..., Path], sea_agent: Callable[..., Any]
) -> None:
    pairs = [
        {"prompt": prompt, "chosen": text, "rejected": f"{text} um"} for prompt, text in make_demonstrations(19, 5)
    ]
    settings = ["--set", "posterior.preferences_path=mine.jsonl"] if rows else []
    write_jsonl(pairs, "mine.jsonl")
    done = sea_agent("check", "sea", *settings, "--foretell")
    assert done.code == 2
    assert f"at least 20: set posterior.preferences_path; found {rows}" in " ".join(done.err.split())
