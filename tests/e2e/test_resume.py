"""A run that is killed again and again ends as one that was not, and asks nothing twice."""

import json
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from e2e.killed_runs import PLACES, Lives
from e2e.test_run import COUNTING_ORACLE, assert_same_run, metrics, world_config

from sea_agent.config.files import load_config
from sea_agent.errors import Stopped, UserError
from sea_agent.persistence.ledger import Ledger
from sea_agent.run.lifecycle import resume, run
from sea_agent.run.resumption import resumed_config
from sea_agent.run.session import Watch
from sea_agent.worlds import resolve

KILLS = 20


@pytest.fixture(scope="module")
def lives() -> Lives:
    return Lives()


def tree_of(**changes: Any) -> dict[str, Any]:
    """A run of some twenty rounds with posterior labels and imagined rounds, as text features learn them."""
    settings = {
        "posterior": {"family": "laplace", "features": "text", "members": 5, "prior": ["world://lexicon/reward"]},
        "mixing": {"oracle_share": 0.7, "burn_in": 8},
        "imagination": {"rounds": 3, "start": 8},
        "checkpoint": {"every": 2, "keep": 2, "keep_best": True},
        "budget__oracle_queries": 28,
    }
    return world_config(**settings | changes).model_dump(mode="json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, lives: Lives) -> Path:
    """The run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert lives.end(lives.begin(tree_of(), out)) == 0
    return out


def deaths(seed: int) -> Iterator[tuple[str, int, bool]]:
    """Places to die at, each before and after a call that a life reaches."""
    draw = random.Random(seed)
    places = [(place, after) for place in PLACES for after in (False, True)]
    while True:
        draw.shuffle(places)
        yield from ((place, draw.randint(1, PLACES[place][2]), after) for place, after in places)


def kill_in_passing(process: BaseProcess, growing: Path, draw: random.Random) -> None:
    """Kill a process at any moment after some file has begun to change under it, if it has not ended by then."""
    before = growing.stat().st_mtime_ns if growing.exists() else 0
    while process.is_alive() and (not growing.exists() or growing.stat().st_mtime_ns == before):
        process.join(0.01)
    process.join(draw.uniform(0.0, 0.3))
    process.kill()


def test_a_run_killed_again_and_again_ends_bit_for_bit_as_one_that_was_not(
    whole: Path, tmp_path: Path, lives: Lives
) -> None:
    """At named places, half-written checkpoints among them, and at random moments in between."""
    out, draw, killed = tmp_path / "out", random.Random(7), Counter[str]()
    for number, death in zip(range(3 * KILLS), deaths(7), strict=False):
        at_random = number % 3 == 2
        process = lives.begin(tree_of(), out, None if at_random else death)
        if at_random:
            kill_in_passing(process, out / "metrics.jsonl", draw)
        if lives.end(process) == 0:
            break
        killed["anywhere" if at_random else death[0]] += 1
        if killed.total() == KILLS:
            assert lives.end(lives.begin(tree_of(), out)) == 0
            break
    assert killed.total() >= KILLS // 2, killed
    assert len(killed) >= 5, killed
    assert_same_run(whole, out)


def test_a_resume_that_forgets_the_posterior_is_seen(whole: Path, tmp_path: Path, lives: Lives) -> None:
    out = tmp_path / "out"
    assert lives.end(lives.begin(tree_of(), out, ("metrics", 12, True))) < 0
    assert lives.end(lives.begin(tree_of(), out, None, forget_the_posterior)) == 0
    with pytest.raises(AssertionError):
        assert_same_run(whole, out)


def forget_the_posterior() -> None:
    from sea_agent.loop.selector import Selector

    load = Selector.load_state
    Selector.load_state = lambda self, state: load(self, {**state, "posterior": None})  # type: ignore[method-assign]


def counting_tree(folder: Path) -> dict[str, Any]:
    (folder / "mine.py").write_text(COUNTING_ORACLE)
    return tree_of(oracle={"kind": "python", "target": f"{folder / 'mine.py'}:compare"}, evaluation={})


def in_flight(out: Path) -> set[str]:
    """Duels that are written but not answered: the oracle may have been asked when the process died."""
    file = out / "ledger.sqlite"
    if not file.exists():
        return set()
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT id FROM duels WHERE id NOT IN (SELECT duel_id FROM verdicts)").fetchall()
    database.close()
    return {row[0] for row in rows}


def assert_nothing_is_asked_again(folder: Path, lives: Lives, breaks: Any = None) -> None:
    """Kill a run with a counting oracle many times, most of all while its answers are written down."""
    tree, out = counting_tree(folder), folder / "out"
    excused = Counter[str]()
    for number in range(1, 12):
        place = ("ledger", 2 + number % 3, bool(number % 2)) if number % 2 else ("metrics", 1 + number % 4, False)
        code = lives.end(lives.begin(tree, out, place, breaks))
        assert code <= 0, "the run failed by itself"
        if code == 0:
            break
        excused.update(in_flight(out))
    else:
        assert lives.end(lives.begin(tree, out, None, breaks)) == 0
    seen = Counter(json.loads(line)["id"] for line in (folder / "mine.seen").read_text().splitlines())
    with Ledger(out / "ledger.sqlite") as ledger:
        assert ledger.oracle_queries == len(seen) == 28
    assert {duel_id for duel_id, count in seen.items() if count > 1 + excused[duel_id]} == set()


def test_no_answered_duel_is_asked_again(tmp_path: Path, lives: Lives) -> None:
    assert_nothing_is_asked_again(tmp_path, lives)


def test_a_ledger_that_is_written_after_training_is_seen(tmp_path: Path, lives: Lives) -> None:
    with pytest.raises(AssertionError):
        assert_nothing_is_asked_again(tmp_path, lives, write_verdicts_with_the_next_duels)


def write_verdicts_with_the_next_duels() -> None:
    """Break the order: verdicts reach the file only when the next round begins, and until then nobody misses them."""
    waiting: list[Any] = []
    add_duels, add_verdicts, rewind = Ledger.add_duels, Ledger.add_verdicts, Ledger.rewind

    def late(self: Ledger, duels: Any, verdicts: Any, number: int) -> None:
        waiting.append((list(duels), verdicts, number))
        for verdict in verdicts:
            self._count(next(duel for duel in waiting[-1][0] if duel.id == verdict.duel_id), verdict)

    def flushing(self: Ledger, duels: Any, number: int, weights: Any = None) -> Any:
        for arguments in waiting:
            counted = dict(self._answered)
            add_verdicts(self, *arguments)
            self._answered.clear()
            self._answered.update(counted)
        waiting.clear()
        return add_duels(self, duels, number, weights)

    def forgetful(self: Ledger, number: int) -> Any:
        waiting.clear()
        return rewind(self, number)

    Ledger.add_duels, Ledger.add_verdicts, Ledger.rewind = flushing, late, forgetful  # type: ignore[method-assign]


# --- in one process -------------------------------------------------------------------------------------------------


def stop_after(rounds: int) -> Watch:
    """Stop a run when it has ended so many rounds."""
    seen: list[int] = []
    return Watch(on_round=lambda row: seen.append(row.round), stopping=lambda: bool(seen) and seen[-1] >= rounds)


def test_a_stopped_run_goes_on_from_where_it_stopped(tmp_path: Path) -> None:
    config = world_config(checkpoint__every=100)
    run(config, tmp_path / "whole")
    with pytest.raises(Stopped):
        run(config, tmp_path / "out", stop_after(2))
    assert [row["round"] for row in metrics(tmp_path / "out")] == [0, 1, 2]
    lived: list[int] = []
    out = tmp_path / "out"
    resume(resumed_config(out), out, watch=Watch(on_round=lambda row: lived.append(row.round)))
    assert lived == [3]
    assert_same_run(tmp_path / "whole", out)


def test_a_finished_run_goes_on_with_a_larger_budget_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(world_config(), out)
    with pytest.raises(UserError, match=r"finished.*budget.oracle_queries=N above 20"):
        resumed_config(out)
    more = resume(resumed_config(out, ["budget.oracle_queries=28"]), out)
    assert more["oracle_queries"] == 28
    assert load_config(str(out / "config.yaml")).budget.oracle_queries == 28


@pytest.mark.parametrize("setting", ["learner.beta=0.5", "seed=3", "oracle.labels=threshold", "selection.rule=passive"])
def test_a_run_that_goes_on_keeps_its_settings(setting: str, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(world_config(), tmp_path / "out", stop_after(1))
    with pytest.raises(UserError, match=f"--set {setting.partition('=')[0]}: a run that goes on keeps its settings"):
        resumed_config(tmp_path / "out", [setting])


def test_a_run_whose_prompts_changed_does_not_go_on(tmp_path: Path) -> None:
    """The settings are the same; the fingerprint in the checkpoint tells."""
    prompts = tmp_path / "prompts.jsonl"
    lines = Path(resolve("world://lexicon/prompts.jsonl")).read_text().splitlines(keepends=True)
    prompts.write_text("".join(lines))
    with pytest.raises(Stopped):
        run(world_config(prompts__path=str(prompts)), tmp_path / "out", stop_after(1))
    prompts.write_text("".join(lines[1:]))
    with pytest.raises(UserError, match=r"the prompts, seed or prompts\.shuffle changed"):
        resume(resumed_config(tmp_path / "out"), tmp_path / "out")
    assert (tmp_path / "out" / "ledger.sqlite").exists()


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    for seed in (0, 1):
        with pytest.raises(Stopped):
            run(world_config(seed=seed), tmp_path / str(seed), stop_after(1))
    (tmp_path / "0" / "checkpoints" / "round-000001").rename(tmp_path / "0" / "own")
    (tmp_path / "1" / "checkpoints" / "round-000001").rename(tmp_path / "0" / "checkpoints" / "round-000001")
    with pytest.raises(
        UserError, match=r"round-000001: is of a run with other settings \(seed is 1 there and 0 here\)"
    ):
        resume(resumed_config(tmp_path / "0"), tmp_path / "0")
    assert (tmp_path / "0" / "ledger.sqlite").exists()


def test_a_damaged_checkpoint_is_told_in_one_line_and_the_one_before_goes_on(
    tmp_path: Path, sea_agent: Callable[..., Any]
) -> None:
    config = world_config(checkpoint={"every": 1})
    run(config, tmp_path / "whole")
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        run(config, out, stop_after(2))
    tensors = out / "checkpoints" / "round-000002" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    refused = sea_agent("resume", out)
    assert refused.code == 2
    assert "Traceback" not in refused.err
    line = refused.err.splitlines()[-1]
    assert "round-000002: tensors.safetensors is damaged" in line
    assert line.endswith("add --checkpoint round-000001.")
    done = sea_agent("resume", out, "--checkpoint", "round-000001")
    assert done.code == 0, done.err
    assert_same_run(tmp_path / "whole", out)


def test_two_processes_do_not_work_in_one_directory(tmp_path: Path, lives: Lives) -> None:
    out = tmp_path / "out"

    def second(row: dict[str, Any]) -> None:
        with pytest.raises(UserError, match=r"process \d+ works in it"):
            resume(resumed_config(out), out)
        raise Stopped

    with pytest.raises(Stopped):
        run(world_config(), out, Watch(on_round=second))


def test_starting_anew_over_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(world_config(), tmp_path / "out", stop_after(1))
    with pytest.raises(UserError, match="sea-agent resume"):
        run(world_config(), tmp_path / "out")
