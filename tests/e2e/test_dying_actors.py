"""Samplers of a run on Ray are killed, then a node, then every part, and it ends bit for bit as if none had died."""

import json
from pathlib import Path
from typing import Any

import pytest
from e2e.test_chaos import Chaos, assert_survives
from e2e.test_run import COUNTING_ORACLE, assert_same_run, world_config
from e2e.two_nodes import TwoNodes, kill, parts

from sea_agent.persistence.ledger import Ledger
from sea_agent.persistence.rounds import RoundMetrics
from sea_agent.run.lifecycle import run
from sea_agent.run.session import Watch

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("nodes")]

BUDGET = 24
SETTINGS: dict[str, Any] = {
    "posterior": {"family": "laplace", "features": "text"},
    "mixing": {"oracle_share": 0.7},
    "imagination": {"rounds": 1, "start": 8},
    "sampler__ahead": 1,
    "sampler__reference_candidates": 2,
    "learner__max_staleness": 1,
    "budget__oracle_queries": BUDGET,
    "checkpoint": {"every": 2},
    "evaluation": {},
}


class Deaths:
    """After round 1 both samplers are killed, after round 3 the worker is lost with what is on it, after round 5 every
    part is killed."""

    def __init__(self, nodes: TwoNodes) -> None:
        self._nodes = nodes
        self.victims: list[int] = []
        self.before: dict[str, int] = {}
        self.after: dict[str, int] = {}

    def __call__(self, row: RoundMetrics) -> None:
        match row.round:
            case 1 if not self.victims:
                self.victims = parts()
                for sampler in self.victims[:2]:
                    kill(sampler)
            case 3 if not self.before:
                self.before = self._nodes.spread()
                self._nodes.lose_the_worker()
            case 5 if not self.after:
                self.after = self._nodes.spread()
                for part in parts():
                    kill(part)


def test_samplers_die_then_a_node_then_every_part_and_nothing_changes(nodes: TwoNodes, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(COUNTING_ORACLE)
    settings = SETTINGS | {"oracle": {"kind": "python", "target": f"{tmp_path / 'mine.py'}:compare"}}
    settings["posterior"] = settings["posterior"] | {"prior": [f"{tmp_path / 'mine.py'}:shortness"]}

    def asked_by(out: str, watch: Watch, **changes: Any) -> list[str]:
        run(world_config(**settings, **changes), tmp_path / out, watch)
        rows = (tmp_path / "mine.seen").read_text().splitlines()
        (tmp_path / "mine.seen").unlink()
        return [json.loads(row)["id"] for row in rows]

    quiet = asked_by("quiet", Watch())
    deaths, lines = Deaths(nodes), []
    asked = asked_by("out", Watch(deaths, lines.append), runtime="ray", ray_address=nodes.address)
    assert len(deaths.victims) == 4  # the sampler, the one of the reference, the learner, the posterior
    assert sum(deaths.before.values()) == 4
    assert deaths.before["worker"] > 0
    assert deaths.after == {"head": 4}
    assert [line for line in lines if line.startswith("resuming from round-")][-1] == "resuming from round-000004"
    assert_same_run(tmp_path / "quiet", tmp_path / "out")
    assert asked == quiet
    assert len(asked) == len(set(asked)) == BUDGET
    with Ledger(tmp_path / "out" / "ledger.sqlite") as ledger:
        assert ledger.oracle_queries == BUDGET


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_rounds_in_which_a_part_dies_every_fourth(tmp_path: Path) -> None:
    chaos = Chaos(4, 100, parts, kill)
    assert_survives(tmp_path, 100, chaos)
    recoveries = sorted(chaos.recoveries)
    assert len(recoveries) == 24
    median = recoveries[len(recoveries) // 2]
    print(f"\na new round after a kill: {median:.1f} s in the median, {recoveries[-1]:.1f} s at most")
