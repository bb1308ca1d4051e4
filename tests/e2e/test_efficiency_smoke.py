"""A small experiment from its description to its comparison: SEA is ahead of passive online DPO at equal queries."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sea_agent.lab.comparison import compare
from sea_agent.lab.reading import load_records
from sea_agent.persistence.ledger import Ledger

SPEC = Path(__file__).parent.parent.parent / "benchmarks" / "efficiency" / "smoke.yaml"
BUDGET = 96


def identities(out: Path) -> dict[str, tuple[int, int]]:
    """What cannot stay the same when a run is done again."""
    files = {str(file.relative_to(out)): file.stat() for file in out.rglob("summary.json")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in files.items()}


def test_sea_is_ahead_of_passive_at_equal_queries(tmp_path: Path, sea_agent: Callable[..., Any]) -> None:
    out = tmp_path / "smoke"
    first = sea_agent("experiment", SPEC, "--out", out)
    assert first.code == 0, first.err
    assert sea_agent("compare", out, "--out", "compared").code == 0
    runs = load_records([tmp_path / "compared" / "records.json"]).records
    assert sorted(run.method for run in runs) == ["passive", "sea"]

    (group,) = compare(runs, horizon=BUDGET).groups
    area = {row.method: row.area.mean for row in group.methods if row.area is not None}
    assert area["sea"] >= area["passive"] + 0.03

    for run in runs:
        assert run.summary["oracle_queries"] == run.curve.queries[-1] == BUDGET
        with Ledger(next(out.rglob(f"{run.method}/*/ledger.sqlite"))) as ledger:
            assert ledger.oracle_queries == BUDGET

    before = identities(out)
    assert len(before) == 2
    assert sea_agent("experiment", SPEC, "--out", out).code == 0
    assert identities(out) == before
