"""Runs reserve all they need at once or nothing, and follow their reservation when nodes die."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group, placement_group_table, remove_placement_group

from actors import cluster as actors_cluster
from actors import learners
from actors.cluster import Places, connected
from actors.placement import Need, Shortage
from sea_agent.errors import RunFailure

pytestmark = pytest.mark.ray

# A node without an answer is dead after three seconds; by default Ray waits for fifteen.
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
PATIENCE = 60.0
THREE = [Need(f"sampler-{index}", "sampler", 1.0) for index in range(3)]


@pytest.fixture(scope="module")
def started() -> Iterator[Cluster]:
    """A head with four CPUs, and two GPUs that do not exist."""
    nodes = Cluster()
    nodes.add_node(num_cpus=4, num_gpus=2, include_dashboard=False, _system_config=HEALTH)
    yield nodes
    nodes.shutdown()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def groups(state: str) -> list[dict[str, Any]]:
    return [one for one in placement_group_table().values() if one["state"] == state]


@pytest.fixture
def nodes(started: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The head alone, with all that earlier tests reserved free again; this process is connected to it."""
    monkeypatch.setattr(actors_cluster, "_FREE_SECONDS", 5.0)
    with connected(started.address):
        until(lambda: ray.available_resources().get("CPU") == 4)
        yield started
    for node in [*started.worker_nodes]:
        started.remove_node(node)


def homes(places: Places) -> dict[str, str]:
    """The node of each actor that is in a bundle."""
    table = placement_group_table(places._group)["bundles_to_node_id"]
    return {actor: table[index] for actor, index in places._bundle_of.items()}


# --- two runs on a cluster that holds one ----------------------------------------------------------------------------


def test_of_two_runs_that_start_together_one_gets_all_it_needs_and_the_other_nothing(nodes: Cluster) -> None:
    gate = Barrier(2)

    def start(_: int) -> Places | Shortage:
        gate.wait(PATIENCE)
        try:
            return Places(THREE, PATIENCE)
        except Shortage as shortage:
            return shortage

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(start, range(2)))
    [winner], [loser] = ([one for one in runs if isinstance(one, kind)] for kind in (Places, Shortage))
    assert isinstance(winner, Places)
    assert len(homes(winner)) == 3
    assert "this run needs 3 CPUs" in str(loser)
    assert "others use a part of it. Wait" in str(loser)
    until(lambda: ray.available_resources()["CPU"] == 1)
    assert groups("PENDING") == []


def test_runs_that_reserve_for_one_actor_after_the_other_can_both_get_a_part(nodes: Cluster) -> None:
    """The control: four of the six have room, and neither run has all of its three."""
    mine, yours = zip(*[[placement_group([{"CPU": 1}]) for _ in range(2)] for _ in THREE], strict=True)
    until(lambda: len(groups("CREATED")) == 4)
    assert all(
        0 < len(ray.wait([one.ready() for one in run], num_returns=3, timeout=0.5)[0]) < 3 for run in (mine, yours)
    )


def test_what_another_run_leaves_is_waited_for(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Places(THREE, PATIENCE)
    monkeypatch.setattr(actors_cluster, "_FREE_SECONDS", PATIENCE)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(Places, THREE, PATIENCE)
        until(lambda: groups("PENDING"))
        assert not second.done()
        remove_placement_group(first._group)
        assert len(homes(second.result(PATIENCE))) == 3


def test_more_than_the_cluster_has_is_refused_without_waiting(nodes: Cluster) -> None:
    with pytest.raises(
        Shortage, match=r"has 2 GPUs and 4 CPUs, which does not hold it\. It fits with sampler\.actors=4"
    ):
        Places([Need(f"sampler-{index}", "sampler", 1.0) for index in range(5)], PATIENCE)
    assert placement_group_table() == {} or groups("PENDING") == []


def test_a_killed_run_leaves_its_reservation(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
from actors.cluster import Places, connected
from actors.placement import Need
with connected({nodes.address!r}):
    places = Places([Need(f"sampler-{{index}}", "sampler", 1.0) for index in range(3)], 60.0)
    print("reserved", flush=True)
    input()
"""
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "reserved\n"
        with pytest.raises(Shortage, match="others use a part of it"):
            Places(THREE, PATIENCE)
        other.kill()
    monkeypatch.setattr(actors_cluster, "_FREE_SECONDS", PATIENCE)
    assert len(homes(Places(THREE, PATIENCE))) == 3


# --- where actors are ------------------------------------------------------------------------------------------------


def test_ranks_are_together_samplers_are_spread_and_who_takes_nothing_is_in_no_bundle(nodes: Cluster) -> None:
    nodes.add_node(num_cpus=4)
    ranks = [Need(f"learner-{index}", "learner", 1.0) for index in range(3)]
    places = Places([*ranks, Need("posterior", "posterior")], PATIENCE)
    found = homes(places)
    assert found.keys() == {rank.actor for rank in ranks}
    assert len({*found.values()}) == 1
    assert "scheduling_strategy" not in places.options("posterior")
    remove_placement_group(places._group)
    found = homes(Places([*ranks[:1], *THREE], PATIENCE))
    assert len({found[need.actor] for need in THREE}) == 2


def test_ranks_that_others_left_no_room_together_are_apart(nodes: Cluster) -> None:
    nodes.add_node(num_cpus=4)
    others = placement_group([{"CPU": 2}] * 2, "STRICT_SPREAD")
    assert others.wait(30)
    found = homes(Places([Need(f"learner-{index}", "learner", 1.0) for index in range(4)], PATIENCE))
    assert len({*found.values()}) == 2


@pytest.mark.parametrize("beside", ["learner-0", ""])
def test_halves_of_a_gpu_that_belong_together_are_on_one(beside: str, nodes: Cluster) -> None:
    """Others have a half of a GPU; there Ray puts one that belongs nowhere."""
    assert placement_group([{"GPU": 0.5}]).wait(30)
    pair = [Need("learner-0", "learner", 1.0, 0.5), Need("sampler-0", "sampler", 1.0, 0.5, beside)]
    places = Places([*pair, Need("posterior", "posterior", 1.0)], PATIENCE)
    look = ray.remote(lambda: ray.get_gpu_ids())
    learner, sampler, posterior = (
        ray.get(look.options(**places.options(actor)).remote(), timeout=PATIENCE)
        for actor in ("learner-0", "sampler-0", "posterior")
    )
    assert len(learner) == len(sampler) == 1
    assert (learner == sampler) == bool(beside)
    assert posterior == []


# --- a node dies -----------------------------------------------------------------------------------------------------


def test_actors_of_a_dead_node_go_to_another_and_the_others_stay_or_the_shortage_is_told(nodes: Cluster) -> None:
    worker = nodes.add_node(num_cpus=4)
    places = Places([Need(f"sampler-{index}", "sampler", 2.0) for index in range(4)], 1.0)
    before = homes(places)
    nodes.remove_node(worker, allow_graceful=False)
    until(lambda: groups("RESCHEDULING"))
    told = r"sampler-0 has lost its node.*within 1 s: this run needs 8 CPUs.*Of 1 node .* has 2 GPUs and 4 CPUs\. Add a"
    with pytest.raises(RunFailure, match=told):
        places.options("sampler-0")
    nodes.add_node(num_cpus=4)
    until(lambda: groups("CREATED"))
    places.options("sampler-0")
    after = homes(places)
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    assert {*after.values()} == alive
    assert all(after[actor] == home for actor, home in before.items() if home in alive)


def test_the_interface_of_an_address_is_found_or_the_remedy_is_told() -> None:
    assert learners._interface("127.0.0.1") == "lo"
    with pytest.raises(RunFailure, match="node-ip-address"):
        learners._interface("192.0.2.254")
