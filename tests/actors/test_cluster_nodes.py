"""Actors follow their plan when nodes come and go, and nobody waits for a node for ever."""

from collections.abc import Callable

import pytest

from actors import cluster, learners
from actors.cluster import Places
from actors.placement import Need, Node, Shortage
from sea_agent.errors import RunFailure

NEEDS = [Need("learner-0", "learner", 1.0), *(Need(f"sampler-{index}", "sampler", 1.0) for index in range(2))]


def node(name: str, cpus: float) -> Node:
    """A node whose id is as long as Ray's."""
    return Node(name * 56, name, cpus)


A, B, C = (node(name, 3.0) for name in "abc")


class Cluster:
    """Nodes that come and go; each look at them is one more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = 0
        self.nodes: Callable[[], list[Node]] = list
        monkeypatch.setattr(cluster, "living_nodes", self._look)
        monkeypatch.setattr(cluster, "_POLL_SECONDS", 0.0)

    def _look(self, *, free: bool) -> list[Node]:
        self.looks += 1
        return self.nodes()


@pytest.fixture
def ray_cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def nodes_of(places: Places) -> dict[str, str]:
    return {need.actor: places.options(need.actor)["scheduling_strategy"].node_id[0] for need in NEEDS}


def test_actors_of_a_dead_node_go_to_one_that_is_alive_and_the_others_stay(ray_cluster: Cluster) -> None:
    ray_cluster.nodes = lambda: [A, B]
    places = Places(NEEDS, 60.0)
    before = nodes_of(places)
    assert sorted({*before.values()}) == ["a", "b"]
    dead = before["learner-0"]
    ray_cluster.nodes = lambda: [one for one in (A, B, C) if one.name != dead]
    after = nodes_of(places)
    assert dead not in after.values()
    assert all(after[actor] == home for actor, home in before.items() if home != dead)


def test_a_node_keeps_counting_as_it_was_before_this_run_took_from_it(ray_cluster: Cluster) -> None:
    """What is free of a node falls as this run's own actors start; that is not another's use."""
    ray_cluster.nodes = lambda: [A, B]
    places = Places(NEEDS, 60.0)
    before = nodes_of(places)
    left = "b" if before["learner-0"] == "a" else "a"
    ray_cluster.nodes = lambda: [node(left, 2.0)]  # one of three CPUs is taken, by the sampler there
    assert set(nodes_of(places).values()) == {left}


def test_a_lost_actor_waits_for_a_new_node(ray_cluster: Cluster) -> None:
    small = [node("a", 2.0), node("b", 1.0)]
    ray_cluster.nodes = lambda: small
    places = Places(NEEDS, 60.0)
    began = ray_cluster.looks
    ray_cluster.nodes = lambda: [small[1]] if ray_cluster.looks < began + 5 else [small[1], C]
    assert "c" in nodes_of(places).values()
    assert ray_cluster.looks >= began + 5


def test_a_lost_actor_without_a_new_node_is_named_at_the_deadline(ray_cluster: Cluster) -> None:
    ray_cluster.nodes = lambda: [A, B]
    places = Places(NEEDS, 0.0)
    ray_cluster.nodes = list
    with pytest.raises(RunFailure, match=r"learner-0 has lost its node.*needs 3 CPUs.*sea-agent resume"):
        places.options("learner-0")


def test_more_than_the_cluster_has_is_refused_without_waiting(ray_cluster: Cluster) -> None:
    ray_cluster.nodes = lambda: [node("a", 2.0)]
    with pytest.raises(Shortage, match="a has 2 CPUs"):
        Places(NEEDS, 60.0)
    assert ray_cluster.looks == 2


def test_what_another_run_has_just_left_is_waited_for(ray_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*, free: bool) -> list[Node]:
        ray_cluster.looks += 1
        return [node("a", 1.0 if free and ray_cluster.looks < 7 else 3.0)]

    monkeypatch.setattr(cluster, "living_nodes", look)
    assert set(nodes_of(Places(NEEDS, 60.0)).values()) == {"a"}


def test_the_interface_of_an_address_is_found_or_the_remedy_is_told() -> None:
    assert learners._interface("127.0.0.1") == "lo"
    with pytest.raises(RunFailure, match="node-ip-address"):
        learners._interface("192.0.2.254")
