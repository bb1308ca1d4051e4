"""The plan keeps to what the nodes have, places every actor or says what is missing, and groups and spreads."""

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.placement import ROLES, Need, Node, Plan, Shortage, describe, needs_of, plan, require_room
from sea_agent.config import RunConfig
from sea_agent.config.files import parse_config

Planner = Callable[..., Plan]
SHARES = (0.0, 0.25, 0.5, 1.0)


def config(**changes: object) -> RunConfig:
    tree: dict[str, object] = {
        "runtime": "ray",
        "ray_address": "10.0.0.1:6379",
        "policy": {"path": "unused"},
        "prompts": {"path": "unused.jsonl"},
        "oracle": {"kind": "world"},
        "budget": {"oracle_queries": 1},
    }
    return parse_config(tree | changes, where="test")


def role_needs(role: str, count: int, cpus: float, gpus: float) -> list[Need]:
    return [Need(f"{role}-{index}", role, cpus, gpus) for index in range(count)]


@st.composite
def runs(draw: st.DrawFn, shares: Sequence[float] = SHARES) -> list[Need]:
    cpus = draw(st.sampled_from([0.0, 1.0, 2.0]))
    counts = {role: draw(st.integers(0, 4)) for role in ROLES}
    return [
        need
        for role, count in counts.items()
        # Several ranks never share a GPU, and there is one posterior.
        for need in role_needs(
            role,
            min(count, 1) if role == "posterior" else count,
            cpus,
            draw(st.sampled_from([s for s in shares if s in (0.0, 1.0) or role != "learner"])),
        )
    ]


@st.composite
def clusters(draw: st.DrawFn) -> list[Node]:
    count = draw(st.integers(0, 4))
    return [
        Node(f"id{index}", f"10.0.0.{draw(st.integers(1, 3))}", draw(st.integers(0, 8)), draw(st.integers(0, 4)))
        for index in range(count)
    ]


def overload(needs: Sequence[Need], nodes: Sequence[Node], places: Plan) -> list[str]:
    """What is taken beyond what a node has, counted exactly and without the planner's own books."""
    found = []
    for node in nodes:
        here = [need for need in needs if places.get(need.actor) == node.id]
        if sum(Fraction(need.cpus) for need in here) > Fraction(node.cpus):
            found.append(f"{node.id}: CPUs")
        if not fits_devices([need.gpus for need in here if need.gpus], [Fraction(1)] * int(node.gpus)):
            found.append(f"{node.id}: GPUs")
    return found


def fits_devices(shares: list[float], devices: list[Fraction]) -> bool:
    """Whether some assignment puts each share on one device: all are tried. The largest first, equal devices once."""
    if not shares:
        return True
    largest, *rest = sorted(map(Fraction, shares), reverse=True)
    for left in {device for device in devices if device >= largest}:
        after = [*devices]
        after[after.index(left)] = left - largest
        if fits_devices([float(share) for share in rest], after):
            return True
    return False


def faults(planner: Planner, needs: list[Need], nodes: list[Node], order: list[Node]) -> list[str]:
    """What is wrong with a planner's answer for these nodes, given in two orders."""
    answers: list[Plan | None] = []
    for one in (nodes, order):
        try:
            answers.append(planner(needs, one))
        except Shortage:
            answers.append(None)
    first, second = answers
    found = ["another answer for another order"] if first != second else []
    if first is not None:
        found += overload(needs, nodes, first)
        if first.keys() != {need.actor for need in needs}:
            found.append("not all are placed")
    return found


@given(st.data(), runs(), clusters())
def test_nothing_is_over_capacity_and_all_are_placed_alike_in_whatever_order_the_nodes_come(
    data: st.DataObject, needs: list[Need], nodes: list[Node]
) -> None:
    assert faults(plan, needs, nodes, data.draw(st.permutations(nodes))) == []


def first_node(needs: Sequence[Need], nodes: Sequence[Node]) -> Plan:
    """A planner that neither counts nor sorts."""
    if not nodes:
        raise Shortage
    return {need.actor: nodes[0].id for need in needs}


def forgetful(needs: Sequence[Need], nodes: Sequence[Node]) -> Plan:
    return dict(list(plan(needs, nodes).items())[1:])


def test_a_planner_that_is_wrong_is_found() -> None:
    needs = role_needs("sampler", 3, 1.0, 1.0)
    nodes = [Node("a", "10.0.0.1", 8, 2), Node("b", "10.0.0.2", 8, 2)]
    assert faults(plan, needs, nodes, nodes[::-1]) == []
    assert faults(first_node, needs, nodes, nodes[::-1]) == ["another answer for another order", "a: GPUs"]
    assert faults(forgetful, needs, nodes, nodes[::-1]) == ["not all are placed"]


@given(runs(shares=(0.0, 1.0)), clusters())
def test_whole_gpus_are_refused_only_where_no_assignment_exists(needs: list[Need], nodes: list[Node]) -> None:
    """Every actor takes a slot of equal CPUs; those with a GPU a slot that has one."""
    cpus = max((need.cpus for need in needs), default=0.0)
    slots = {node.id: int(node.cpus // cpus) if cpus else len(needs) for node in nodes}
    with_gpu = sum(min(slots[node.id], int(node.gpus)) for node in nodes)
    exists = len(needs) <= sum(slots.values()) and sum(need.gpus for need in needs) <= with_gpu
    try:
        plan(needs, nodes)
        assert exists
    except Shortage:
        assert not exists


@given(runs(), clusters())
def test_learner_ranks_are_together_where_any_node_holds_them_all(needs: list[Need], nodes: list[Node]) -> None:
    try:
        places = plan(needs, nodes)
    except Shortage:
        return
    ranks = [need for need in needs if need.role == "learner"]
    # What others with a GPU take first can be in the way of ranks without one; no run is so.
    if ranks and ranks[0].gpus == max(need.gpus for need in needs):
        together = any(not overload(ranks, [node], {rank.actor: node.id for rank in ranks}) for node in nodes)
        assert (len({places[rank.actor] for rank in ranks}) == 1) or not together


@given(runs(), clusters(), st.data())
def test_when_nodes_die_the_others_keep_their_actors(needs: list[Need], nodes: list[Node], data: st.DataObject) -> None:
    try:
        before = plan(needs, nodes)
        left = data.draw(st.lists(st.sampled_from(nodes), unique=True)) if nodes else []
        after = plan(needs, left, before)
    except Shortage:
        return
    alive = {node.id for node in left}
    assert all(after[actor] == node for actor, node in before.items() if node in alive)
    assert {*after.values()} <= alive
    assert overload(needs, left, after) == []


def test_a_run_is_laid_out_as_one_would_by_hand() -> None:
    """Two GPU machines and one without: ranks together, samplers apart, the posterior on the processors."""
    run = config(
        device="cuda",
        learner={"engine": "deepspeed", "ranks": 2},
        sampler={"actors": 2},
        selection={"rule": "uniform"},
    )
    nodes = [Node("c", "10.0.0.3", 32), Node("b", "10.0.0.2", 16, 2), Node("a", "10.0.0.1", 16, 4)]
    places = require_room(run, nodes)
    assert places == {"learner-0": "b", "learner-1": "b", "sampler-0": "a", "sampler-1": "a", "posterior": "c"}
    assert describe(needs_of(run), places, nodes) == [
        "10.0.0.1: sampler-0, sampler-1 (2 GPUs and 2 CPUs)",
        "10.0.0.2: learner-0, learner-1 (2 GPUs and 2 CPUs)",
        "10.0.0.3: posterior (1 CPU)",
    ]


def test_samplers_and_references_are_each_spread_over_the_nodes() -> None:
    run = config(sampler={"actors": 4, "reference_candidates": 2})
    nodes = [Node(name, name, 8) for name in ("a", "b")]
    places = require_room(run, nodes)
    by_role = {role: Counter(node for actor, node in places.items() if actor.startswith(role)) for role in ROLES}
    assert by_role["sampler"] == by_role["reference-sampler"] == {"a": 2, "b": 2}


def test_a_rank_that_lost_its_node_goes_where_the_other_ranks_are() -> None:
    needs = role_needs("learner", 2, 1.0, 1.0)
    nodes = [Node("a", "a", 8, 1), Node("b", "b", 8, 1), Node("c", "c", 8, 8)]
    before = {"learner-0": "c", "learner-1": "a"}
    assert plan(needs, nodes[1:], before) == {"learner-0": "c", "learner-1": "c"}


def test_samplers_share_a_gpu_where_the_configuration_says() -> None:
    nodes = [Node("a", "10.0.0.1", 8, 1)]
    shared = config(device="cuda", selection={"rule": "uniform"}, placement={"sampler_gpus": 0.5, "learner_gpus": 0.5})
    assert require_room(shared, nodes).keys() == {"learner-0", "sampler-0", "posterior"}
    with pytest.raises(Shortage):
        require_room(config(device="cuda", selection={"rule": "uniform"}), nodes)


def test_halves_of_two_gpus_hold_no_larger_share() -> None:
    nodes = [Node("a", "10.0.0.1", 8, 2)]
    needs = [*role_needs("sampler", 2, 0.0, 0.6), *role_needs("posterior", 1, 0.0, 0.5)]
    with pytest.raises(Shortage):
        plan(needs, nodes)


def test_the_shortage_says_what_is_needed_what_there_is_and_what_would_fit() -> None:
    run = config(device="cuda", sampler={"actors": 2}, selection={"rule": "uniform"})
    with pytest.raises(Shortage) as caught:
        require_room(run, [Node("a", "10.0.0.7", 16, 2)])
    assert str(caught.value) == (
        "this run needs 3 GPUs and 4 CPUs: 1 learner rank of 1 GPU and 1 CPU, 2 samplers of 1 GPU and 1 CPU each, "
        "1 posterior of 1 CPU. Of 1 node 10.0.0.7 has 2 GPUs and 16 CPUs, which does not hold it. It fits with "
        "sampler.actors=1; or add nodes"
    )


@pytest.mark.parametrize(
    ("changes", "nodes", "advice"),
    [
        ({"learner": {"engine": "deepspeed", "ranks": 4}}, [Node("a", "a", 4)], "learner.ranks=2"),
        (
            {"learner": {"engine": "deepspeed", "ranks": 2}, "sampler": {"actors": 2}},
            [Node("a", "a", 3)],
            "sampler.actors=1 and learner.ranks=1",
        ),
        ({"threads": 4}, [Node("a", "a", 8)], "lower threads"),
        ({"device": "cuda"}, [Node("a", "a", 8)], "let actors share one: see placement"),
        ({}, [], "none is there"),
    ],
)
def test_the_advice_fits_the_shortage(changes: dict[str, object], nodes: list[Node], advice: str) -> None:
    with pytest.raises(Shortage, match=advice):
        require_room(config(**changes), nodes)


def test_a_local_instance_counts_gpus_only() -> None:
    local = config(ray_address=None, device="cuda", sampler={"actors": 3})
    assert {(need.cpus, need.gpus) for need in needs_of(local)} == {(0.0, 1.0)}
    assert len(require_room(local, [Node("local", "this machine", 1, 5)])) == 5


def test_needs_name_every_actor_of_a_run_once() -> None:
    for frozen, actors, ranks in product((0, 3), (1, 2), (1, 2)):
        run = config(
            sampler={"actors": actors, "reference_candidates": frozen},
            learner={"engine": "deepspeed", "ranks": ranks},
            threads=2,
        )
        needs = needs_of(run)
        assert len({need.actor for need in needs}) == len(needs) == actors * (1 + (frozen > 0)) + ranks + 1
        assert {need.cpus for need in needs} == {2.0}


def test_ranks_do_not_share_a_gpu() -> None:
    with pytest.raises(Exception, match=r"placement\.learner_gpus below 1 needs learner\.ranks=1"):
        config(device="cuda", learner={"engine": "deepspeed", "ranks": 2}, placement={"learner_gpus": 0.5})
