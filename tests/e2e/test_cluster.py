"""A Ray cluster of two nodes on this machine: actors are spread over both, one node dies, and the run ends the same."""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from e2e.test_run import COUNTING_ORACLE, assert_same_run, metrics, world_config
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from run_parts import actor_needs, sampler_pool

from actors import samplers as actors_samplers
from actors.cluster import Places
from actors.learners import LearnerGroup
from actors.placement import Need, needs_of
from actors.runtime import RayRuntime
from sea_agent.errors import ActorDied, RunFailure
from sea_agent.persistence.ledger import Ledger
from sea_agent.persistence.rounds import RoundMetrics
from sea_agent.run import preflight
from sea_agent.run.lifecycle import run
from sea_agent.run.session import Watch

pytestmark = pytest.mark.ray

# A node without an answer is dead after three seconds; by default Ray waits for fifteen.
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
BUDGET = 32
SETTINGS: dict[str, Any] = {
    "mixing": {"oracle_share": 0.7},
    "budget__oracle_queries": BUDGET,
    "checkpoint": {"every": 2},
    "evaluation__every": 100,
    "sampler__actors": 2,
}


class TwoNodes:
    """The head, where the run's own process is, with two GPUs that do not exist; and a worker that can be killed."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.head = self.cluster.add_node(num_cpus=5, num_gpus=2, include_dashboard=False, _system_config=HEALTH)
        self.worker = self.cluster.add_node(num_cpus=7)
        self.address = self.cluster.address

    def spread(self) -> dict[str, int]:
        """How many actors of the run there are on each node that is alive."""
        return {
            name: sum(child.name().startswith("ray::_Shell") for child in raylet_of(node).children())
            for name, node in (("head", self.head), ("worker", self.worker))
            if is_alive(node)
        }

    def lose_the_worker(self) -> None:
        """As when its power fails: all of its processes end at once."""
        raylet = raylet_of(self.worker)
        for process in [raylet, *raylet.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # it has already followed its raylet
                process.kill()

    def mend(self) -> None:
        """A new worker in the place of one that was lost."""
        if not is_alive(self.worker):
            self.cluster.remove_node(self.worker, allow_graceful=False)
            self.worker = self.cluster.add_node(num_cpus=7)


def is_alive(node: Any) -> bool:
    [info] = node.all_processes["raylet"]
    return info.process.poll() is None


def raylet_of(node: Any) -> psutil.Process:
    [info] = node.all_processes["raylet"]
    return psutil.Process(info.process.pid)


@pytest.fixture(scope="module")
def started() -> Iterator[TwoNodes]:
    # Actors cannot import a test module by its name.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    nodes = TwoNodes()
    yield nodes
    nodes.cluster.shutdown()


@pytest.fixture
def nodes(started: TwoNodes) -> Iterator[TwoNodes]:
    yield started
    started.mend()


# --- a node dies -----------------------------------------------------------------------------------------------------


class CountedRuns:
    """Runs whose Python oracle writes down what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._oracle = folder / "mine.py"
        self._oracle.write_text(COUNTING_ORACLE)

    def run(self, name: str, watch: Watch | None = None, **changes: Any) -> list[str]:
        """Runs to its end in ``folder/name``; the ids of the duels that were asked."""
        self._oracle.with_suffix(".seen").unlink(missing_ok=True)
        oracle = {"kind": "python", "target": f"{self._oracle}:compare"}
        config = world_config(**SETTINGS | {"oracle": oracle, "evaluation": {}} | changes)
        run(config, self.folder / name, watch or Watch())
        return self.asked()

    def asked(self) -> list[str]:
        seen = self._oracle.with_suffix(".seen").read_text().splitlines()
        return [json.loads(line)["id"] for line in seen]


@pytest.fixture
def runs(tmp_path: Path) -> CountedRuns:
    return CountedRuns(tmp_path)


class Loss:
    """The worker is lost after round 3, which comes after a checkpoint and before the next."""

    def __init__(self, nodes: TwoNodes) -> None:
        self._nodes = nodes
        self.before: dict[str, int] = {}
        self.after: dict[str, int] = {}

    def __call__(self, row: RoundMetrics) -> None:
        if row.round == 3 and not self.before:
            self.before = self._nodes.spread()
            self._nodes.lose_the_worker()
        elif row.round > 3:
            self.after = self._nodes.spread()


def repeated(asked: list[str]) -> list[str]:
    return [id_ for id_, times in Counter(asked).items() if times > 1]


def test_a_node_dies_and_the_run_ends_as_if_none_had(nodes: TwoNodes, runs: CountedRuns) -> None:
    """Ray spreads them; afterwards the head has them all."""
    loss, lines = Loss(nodes), []
    undisturbed = runs.run("quiet", sampler__actors=1)
    asked = runs.run("out", Watch(loss, lines.append), runtime="ray", ray_address=nodes.address)
    assert loss.before["worker"] in (2, 3)
    assert sum(loss.before.values()) == 4
    assert loss.after == {"head": 4}
    assert "going on from round-000002" in lines
    assert_same_run(runs.folder / "quiet", runs.folder / "out")
    assert asked == undisturbed
    assert repeated(asked) == []
    with Ledger(runs.folder / "out" / "ledger.sqlite") as ledger:
        assert ledger.oracle_queries == len(asked) == BUDGET


def test_actors_that_are_bound_to_a_dead_node_end_the_run(
    nodes: TwoNodes, runs: CountedRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they would be without a reservation that Ray moves."""
    options, homes = Places.options, {}

    def bound(self: Places, actor: str) -> dict[str, Any]:
        table = ray.util.placement_group_table(self._group)["bundles_to_node_id"]
        home = homes.setdefault(actor, table[self._bundle_of[actor]])
        return options(self, actor) | {"scheduling_strategy": NodeAffinitySchedulingStrategy(home, soft=False)}

    monkeypatch.setattr(Places, "options", bound)
    with pytest.raises(ActorDied, match="NodeAffinity"):
        runs.run("out", Watch(Loss(nodes)), runtime="ray", ray_address=nodes.address)


@pytest.mark.parametrize("remembers", [True, False])
def test_without_the_ledger_the_lost_rounds_would_be_asked_again(
    remembers: bool, runs: CountedRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learner dies in this process, without a cluster, and the ledger may forget what came after the checkpoint."""
    rewind, step, steps = Ledger.rewind, LearnerGroup.step, []

    def forget(self: Ledger, round_: int) -> Any:
        self._db.execute("DELETE FROM verdicts WHERE round > ?", (round_,))
        return rewind(self, round_)

    def stumble(self: LearnerGroup, preferences: Any) -> Any:
        steps.append(len(preferences))
        if len(steps) == 4:
            raise ActorDied("the learner's node died")
        return step(self, preferences)

    monkeypatch.setattr(LearnerGroup, "step", stumble)
    if remembers:
        asked = runs.run("out", sampler__actors=1)
        assert repeated(asked) == []
        assert len(asked) == BUDGET
    else:
        monkeypatch.setattr(Ledger, "rewind", forget)
        with pytest.raises(RunFailure, match="the oracle answered"):
            runs.run("out", sampler__actors=1)
        assert repeated(runs.asked()) != []


@pytest.mark.parametrize("deaths", [1, 3])
def test_a_part_may_die_while_others_are_replaced_but_not_again_and_again(
    deaths: int, runs: CountedRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when what a dead node held is started on a second one, and that dies as well."""
    step, load_state, calls = LearnerGroup.step, LearnerGroup.load_state, Counter[str]()

    def dies(self: LearnerGroup, preferences: Any) -> Any:
        calls["step"] += 1
        if calls["step"] == 4:
            raise ActorDied("the first node died")
        return step(self, preferences)

    def dies_again(self: LearnerGroup, state: Any) -> None:
        calls["load_state"] += 1
        if calls["load_state"] <= deaths:
            raise ActorDied("the second node died")
        load_state(self, state)

    undisturbed = runs.run("quiet", sampler__actors=1)
    monkeypatch.setattr(LearnerGroup, "step", dies)
    monkeypatch.setattr(LearnerGroup, "load_state", dies_again)
    if deaths == 1:
        assert runs.run("out", sampler__actors=1) == undisturbed
        assert_same_run(runs.folder / "quiet", runs.folder / "out")
    else:
        with pytest.raises(ActorDied, match="the second node died"):
            runs.run("out", sampler__actors=1)


# --- many processes over both nodes ----------------------------------------------------------------------------------


def test_deepspeed_ranks_on_two_nodes_learn_from_two_vllm_samplers(
    nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks that take four processors each do not fit on one node."""

    def wide(*sections: Any) -> list[Need]:
        return [replace(need, cpus=4.0) if need.role == "learner" else need for need in needs_of(*sections)]

    monkeypatch.setattr(preflight, "needs_of", wide)
    spread: list[dict[str, int]] = []
    config = world_config(
        runtime="ray",
        ray_address=nodes.address,
        sampler={"backend": "vllm", "actors": 2, "candidates": 4, "max_new_tokens": 8, "kv_cache_gb": 0.2},
        learner={"engine": "deepspeed", "ranks": 2, "zero_stage": 2, "learning_rate": 1e-3},
        budget__oracle_queries=16,
        evaluation={},
        checkpoint={"every": 100},
    )
    summary = run(
        config,
        tmp_path / "out",
        Watch(lambda row: spread.append(nodes.spread())),
    )
    assert sum(spread[-1].values()) == 5
    assert all(spread[-1].values())
    assert summary["oracle_queries"] == 16
    rows = [row for row in metrics(tmp_path / "out") if "logprob_gap" in row]
    assert len(rows) == summary["rounds"] == summary["policy_version"] == 2
    assert max(row["logprob_gap"] for row in rows) < 1e-4
    assert all(row["grad_norm"] > 0 for row in rows)


class Part:
    """Something to host."""

    def sees(self) -> tuple[str | None, list[str]]:
        return os.environ.get("CUDA_VISIBLE_DEVICES"), ray.get_runtime_context().get_accelerator_ids()["GPU"]

    def large(self) -> list[float]:
        """Too large to travel with the answer: it stays in the object store of this node until it is asked for."""
        return [float(number) for number in range(200_000)]

    def total(self, numbers: list[float]) -> float:
        return sum(numbers)

    def load_weights(self, update: object) -> str:
        if update == "slow":
            signal.pause()
        return "held"


def test_actors_see_the_gpus_they_were_given_and_no_others(nodes: TwoNodes) -> None:
    needs = [
        *(Need(f"sampler-{index}", "sampler", 1.0, 0.5) for index in range(2)),
        Need("learner-0", "learner", 1.0, 1.0),
        Need("posterior", "posterior", 1.0),
    ]
    with RayRuntime(nodes.address, needs, threads=1, deadline_seconds=60) as runtime:
        parts = {need.actor: runtime.spawn(need.actor, Part) for need in needs}
        seen = {name: part.call("sees").result() for name, part in parts.items()}
    assert seen["posterior"] == ("", [])
    assert seen["sampler-0"] == seen["sampler-1"]
    assert {seen["sampler-0"][0], seen["learner-0"][0]} == {"0", "1"}
    assert all(visible == ",".join(given) for visible, given in seen.values())


def test_what_only_a_dead_node_held_is_told_as_a_death_and_the_actor_comes_back_elsewhere(nodes: TwoNodes) -> None:
    """The sampler needs the head's GPU, so that the learner is spread to the worker."""
    needs = [Need("learner-0", "learner", 1.0), Need("sampler-0", "sampler", 1.0, 1.0)]
    with RayRuntime(nodes.address, needs, threads=1, deadline_seconds=60) as runtime:
        learner, sampler = (runtime.spawn(need.actor, Part) for need in needs)
        published = learner.call("large")
        assert sampler.call("total", learner.call("large")).result() == sum(range(200_000))
        assert learner.call("sees").result() == ("", [])  # so that the first answer is there, too
        nodes.lose_the_worker()
        with pytest.raises(ActorDied, match=r"sampler-0\.total"):
            sampler.call("total", published).result()
        assert not sampler.is_dead()
        assert learner.is_dead()
        learner.restart()
        assert sampler.call("total", learner.call("large")).result() == sum(range(200_000))


def test_a_sampler_that_takes_no_weights_before_the_deadline_is_named(
    nodes: TwoNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors_samplers, "make_sampler", lambda *arguments, **options: Part())
    config = world_config(runtime="ray", ray_address=nodes.address, sampler__actors=2)
    with RayRuntime(nodes.address, actor_needs(config), threads=1, deadline_seconds=60) as runtime:
        samplers = sampler_pool(runtime, config)
        samplers.load_weights("quick", "held")  # type: ignore[arg-type]
        runtime._deadline = 1.0
        with pytest.raises(RunFailure, match=r"sampler-0\.load_weights gave no answer within 1 s"):
            samplers.load_weights("slow", "held")  # type: ignore[arg-type]


# --- before anything starts ------------------------------------------------------------------------------------------


def settings(nodes: TwoNodes, *more: str) -> list[str]:
    return [part for one in ("runtime=ray", f"ray_address={nodes.address}", *more) for part in ("--set", one)]


def test_check_tells_the_placement_and_refuses_what_does_not_fit(
    nodes: TwoNodes, sea_agent: Callable[..., Any]
) -> None:
    fits = sea_agent("check", "passive", *settings(nodes, "sampler.actors=2"))
    assert fits.code == 0
    assert fits.out.count("sampler-") == 2
    large = sea_agent("check", "passive", *settings(nodes, "sampler.actors=20"))
    assert large.code == 2
    assert "this run needs 22 CPUs" in large.err
    assert "It fits with sampler.actors=10; or add nodes" in large.err
    assert "Traceback" not in large.err


def test_a_run_that_does_not_fit_leaves_nothing(nodes: TwoNodes, sea_agent: Callable[..., Any]) -> None:
    refused = sea_agent("run", "passive", "--out", "out", *settings(nodes, "device=cuda", "sampler.actors=3"))
    assert refused.code == 2
    assert "needs 4 GPUs" in refused.err
    assert not Path("out").exists()


def test_doctor_shows_the_nodes_of_the_cluster(nodes: TwoNodes, sea_agent: Callable[..., Any]) -> None:
    shown = sea_agent("doctor", "--address", nodes.address).out
    assert "2 nodes" in " ".join(shown.split())
    assert shown.count("CPUs") == 2


def test_a_silent_address_is_told_at_once(sea_agent: Callable[..., Any]) -> None:
    refused = sea_agent("check", "passive", "--set", "runtime=ray", "--set", "ray_address=127.0.0.1:1")
    assert refused.code == 2
    assert "ray_address=127.0.0.1:1: no Ray cluster answers there" in refused.err
    assert "no Ray cluster answers" in " ".join(sea_agent("doctor", "--address", "127.0.0.1:1").out.split())
