"""Every preset under every promise: it counts what it asks, repeats itself, and goes on bit for bit after its death.

A preset that is added joins by itself. Worlds, budgets and batches are cut down; presets for GPUs keep their method and
their posterior, on the built-in world. The same promises with real processes, at the presets' own sizes:
``test_killed_presets``; with vLLM and DeepSpeed: ``test_resume_exactly``.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.test_killed_presets import PRESETS
from e2e.test_run import COUNTING_ORACLE, assert_same_run
from mortal_parts import MortalRuntime

from sea_agent.config import RunConfig
from sea_agent.config.files import load_config, presets
from sea_agent.loop.selector import Selector
from sea_agent.persistence.ledger import Ledger
from sea_agent.run.lifecycle import resume, run
from sea_agent.run.resumption import resumed_config
from sea_agent.run.session import Watch
from sea_agent.types import LabelSource

DOCS = Path(__file__).parents[2] / "docs" / "surviving.md"
ENCODER = "posterior.encoder_path=world://lexicon/encoder"
RECOMMENDED: dict[str, list[str]] = {
    "sea": [],
    "sea, sea_bai": ["selection.rule=sea_bai"],
    "sea, encoder": [ENCODER],
    "sea_ee, reference candidates": ["sampler.reference_candidates=2"],
}
"""What the README recommends beside the presets themselves."""
# What users of live mode ask and pick cannot be repeated: tests/live and test_live.py have what it promises.
CASES = {**{name: [] for name in presets() if not load_config(name).is_live}, **RECOMMENDED}
BUDGET, BATCH, EVERY = 12, 3, 2

SMALL = [f"batch_size={BATCH}", f"budget.oracle_queries={BUDGET}", f"checkpoint.every={EVERY}"]
SMALL += ["evaluation.prompts=4", "evaluation.every=6", "runtime=inline"]
SMALL += ["sampler.max_new_tokens=6", "sampler.chunk=15"]
ON_THE_WORLD = ["device=cpu", "policy.path=world://lexicon/policy", "policy.dtype=float32", "sampler.backend=hf"]
ON_THE_WORLD += ["prompts.path=world://lexicon/prompts.jsonl", "prompts.field=prompt"]
ON_THE_WORLD += ["evaluation.prompts_path=world://lexicon/heldout.jsonl"]
ON_THE_WORLD += ["sampler.actors=1", "learner.engine=torch", "learner.ranks=1"]
ON_THE_WORLD += ["learner.learning_rate=1.0e-3"]


def cut_down(case: str, oracle: Path, *settings: str) -> RunConfig:
    """The preset with a budget that is spent in a second, answered by a Python oracle that counts."""
    name, own = case.partition(",")[0], CASES[case]
    preset = load_config(name)
    small = [*SMALL, *own, f"sampler.candidates={min(preset.sampler.candidates, 5)}"]
    small += ["oracle.kind=python", f"oracle.target={oracle}:compare", "evaluation.judge=null"]
    if preset.evaluation.best_of:
        small.append("evaluation.best_of=3")
    if preset.mixing.oracle_share < 1.0:
        small.append("mixing.burn_in=3")
    if preset.imagination.rounds:
        small += ["imagination.rounds=2", "imagination.start=4", f"posterior.prior=[{oracle}:shortness]"]
    if not preset.policy.path.startswith("world://"):
        small += ON_THE_WORLD
    if preset.sampler.backend == "vllm":
        small.append("sampler.backend=hf")
    return load_config(name, [*small, *settings])


class Dead(Exception):
    """Ends a life without a checkpoint."""


def die_after(number: int) -> Watch:
    def on_round(row: Any) -> None:
        if row.round == number:
            raise Dead

    return Watch(on_round=on_round)


def asked(folder: Path) -> Counter[str]:
    """The duels that the oracle saw, without those of evaluations."""
    names = (json.loads(line)["id"] for line in (folder / "mine.seen").read_text().splitlines())
    return Counter(name for name in names if name.startswith("duel-"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``whole(case)``: the folder of a run that nothing disturbed, with its oracle; run once."""
    done: dict[str, Path] = {}

    def get(case: str) -> Path:
        if case not in done:
            done[case] = folder = tmp_path_factory.mktemp("whole")
            (folder / "mine.py").write_text(COUNTING_ORACLE)
            run(cut_down(case, folder / "mine.py"), folder / "out")
            (folder / "mine.seen").rename(folder / "whole.seen")
        return done[case]

    return get


each = pytest.mark.parametrize(
    "case",
    # In groups of their own, so that processes share the work.
    [pytest.param(case, marks=pytest.mark.xdist_group(f"promises {case}")) for case in CASES],
)


@each
def test_ledger_oracle_and_summary_count_the_same(case: str, whole: Callable[[str], Path]) -> None:
    out = whole(case) / "out"
    lines = [json.loads(line)["id"] for line in (out.parent / "whole.seen").read_text().splitlines()]
    summary = json.loads((out / "summary.json").read_text())
    with Ledger(out / "ledger.sqlite") as ledger:
        rows = ledger.rows()
        assert ledger.oracle_queries == summary["oracle_queries"] == BUDGET
    duels = [duel.id for duel, _ in rows if duel.label_source is LabelSource.ORACLE]
    assert sorted(duels) == sorted(name for name in lines if name.startswith("duel-")), "a posterior's pair was asked"
    assert len(lines) == BUDGET + summary["evaluation_queries"]
    assert all(duel.first.text != duel.second.text and verdict is not None for duel, verdict in rows)
    preset = load_config(case.partition(",")[0])
    assert (len(rows) > BUDGET) == (summary["posterior_labels"] > 0) == (preset.mixing.oracle_share < 1.0)
    assert (summary["imagined_pairs"] > 0) == (preset.imagination.rounds > 0)


@each
def test_it_repeats_itself_on_two_samplers_with_its_parts_elsewhere(
    case: str, whole: Callable[[str], Path], tmp_path: Path, mortal: MortalRuntime
) -> None:
    run(cut_down(case, whole(case) / "mine.py", "runtime=ray", "sampler.actors=2"), tmp_path / "out")
    assert "sampler-1" in mortal.parts
    assert_same_run(whole(case) / "out", tmp_path / "out")


@each
def test_it_goes_on_bit_for_bit_after_its_death_and_asks_nothing_twice(
    case: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """It dies a round after a checkpoint, and again two rounds after the next."""
    folder = whole(case)
    assert_survives(cut_down(case, folder / "mine.py"), folder, tmp_path / "out")


def assert_survives(config: RunConfig, folder: Path, out: Path, otherwise: Callable[[], None] = lambda: None) -> None:
    (folder / "mine.seen").unlink(missing_ok=True)
    with pytest.raises(Dead):
        run(config, out, die_after(EVERY + 1))
    otherwise()
    with pytest.raises(Dead):
        resume(resumed_config(out), out, watch=die_after(EVERY + 2))
    resume(resumed_config(out), out)
    assert_same_run(folder / "out", out)
    assert set(asked(folder).values()) == {1}


def test_a_resume_that_forgets_the_posterior_is_seen(
    whole: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, load = whole("sea"), Selector.load_state

    def forget() -> None:
        monkeypatch.setattr(Selector, "load_state", lambda self, state: load(self, {**state, "posterior": None}))

    with pytest.raises(AssertionError):
        assert_survives(cut_down("sea", folder / "mine.py"), folder, tmp_path / "out", forget)


@pytest.mark.ray
@pytest.mark.soak
@each
def test_it_is_the_same_run_on_ray(case: str, whole: Callable[[str], Path], tmp_path: Path) -> None:
    run(cut_down(case, whole(case) / "mine.py", "runtime=ray"), tmp_path / "out")
    assert_same_run(whole(case) / "out", tmp_path / "out")


# --- the table in docs/surviving.md ----------------------------------------------------------------------------------

PROMISES = {
    "counts agree": test_ledger_oracle_and_summary_count_the_same,
    "same run on two samplers": test_it_repeats_itself_on_two_samplers_with_its_parts_elsewhere,
    "dies and goes on": test_it_goes_on_bit_for_bit_after_its_death_and_asks_nothing_twice,
    "same run on Ray": test_it_is_the_same_run_on_ray,
}
KILLED = "killed 20 times"
SHARES = "its parts, above"  # why a preset is not killed at its own size


def tier(test: Callable[..., None]) -> str:
    marks: list[pytest.Mark] = test.pytestmark  # type: ignore[attr-defined]
    return "soak" if "soak" in {mark.name for mark in marks} else "test"


def table() -> str:
    """Which promise each case is held to, by ``make test`` or ``make soak``."""
    columns = [*PROMISES, KILLED]
    lines = [f"| preset | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for case in sorted(CASES, key=lambda case: case not in RECOMMENDED):
        killed = "soak" if case in RECOMMENDED else SHARES
        name, *own = case.split(", ")
        lines.append(f"| {', '.join([f'`{name}`', *own])} | {' | '.join([*map(tier, PROMISES.values()), killed])} |")
    return "\n".join(lines)


def test_the_table_of_promises_is_the_one_in_the_docs() -> None:
    """The page has the cases and tiers of the tests above, and the presets that ``test_killed_presets`` kills."""
    assert table() in DOCS.read_text(encoding="utf-8"), f"{DOCS.name} needs this table:\n{table()}"
    assert {*RECOMMENDED} == {*PRESETS}
