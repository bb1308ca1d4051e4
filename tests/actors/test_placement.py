"""Whether a run fits its nodes, what is reserved together, and what is said where there is no room."""

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import chain, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_parts import actor_needs

from actors.placement import ROLES, Need, Node, Shortage, bundles, describe, engine_needs, require_room, total
from sea_agent.config import RunConfig
from sea_agent.config.files import parse_config

Check = Callable[[Sequence[Need], Sequence[Node]], None]
SHARES = (0.0, 0.25, 0.3, 0.5, 1.0)


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
        Node(f"10.0.0.{draw(st.integers(1, 3))}", draw(st.integers(0, 8)), draw(st.integers(0, 4)))
        for _ in range(count)
    ]


def fits(check: Check, needs: Sequence[Need], nodes: Sequence[Node]) -> bool:
    try:
        check(needs, nodes)
    except Shortage:
        return False
    return True


def could_fit(needs: Sequence[Need], nodes: Sequence[Node]) -> bool:
    """Whether there is room in all for what the actors take in all: sums alone, without the check's own books."""
    devices = sum(int(node.gpus) for node in nodes)
    cpus, gpus = (
        sum(Fraction(str(amount)) for amount in amounts)
        for amounts in ([n.cpus for n in needs], [n.gpus for n in needs])
    )
    return cpus <= sum(Fraction(node.cpus) for node in nodes) and gpus <= devices


@given(runs(), clusters(), st.data())
def test_what_is_said_to_fit_is_no_more_than_there_is_in_whatever_order_the_nodes_come(
    needs: list[Need], nodes: list[Node], data: st.DataObject
) -> None:
    found = fits(require_room, needs, nodes)
    assert found == fits(require_room, needs, data.draw(st.permutations(nodes)))
    assert not found or could_fit(needs, nodes)


def exists(needs: Sequence[Need], nodes: Sequence[Node]) -> bool:
    """Whether whole GPUs and equal CPUs have room: every actor takes a slot, those with a GPU a slot that has one."""
    needs = [need for need in needs if need.cpus or need.gpus]
    cpus = max((need.cpus for need in needs), default=0.0)
    slots = [int(node.cpus // cpus) if cpus else len(needs) for node in nodes]
    with_gpu = sum(min(slot, int(node.gpus)) for slot, node in zip(slots, nodes, strict=True))
    return len(needs) <= sum(slots) and sum(need.gpus for need in needs) <= with_gpu


@given(runs(shares=(0.0, 1.0)), clusters())
def test_whole_gpus_fit_exactly_where_an_assignment_exists(needs: list[Need], nodes: list[Node]) -> None:
    assert fits(require_room, needs, nodes) == exists(needs, nodes)


def test_a_check_of_the_sums_alone_would_be_found_wrong() -> None:
    """The control: an actor is never split over two nodes, nor a share over two GPUs."""
    needs = role_needs("sampler", 2, 2.0, 0.0)
    nodes = [Node("a", 3), Node("b", 1)]
    assert could_fit(needs, nodes)
    assert not exists(needs, nodes)
    assert not fits(require_room, needs, nodes)
    shares = [*role_needs("sampler", 2, 0.0, 0.6), *role_needs("posterior", 1, 0.0, 0.5)]
    assert could_fit(shares, [Node("a", 8, 2)])
    assert not fits(require_room, shares, [Node("a", 8, 2)])
    tenths = [*role_needs("sampler", 2, 0.0, 0.3), *role_needs("posterior", 1, 0.0, 0.4)]
    assert fits(require_room, tenths, [Node("a", 8, 1)]), "shares of one GPU, whose sum a float misses"


def names(reserved: Sequence[Sequence[Need]]) -> list[list[str]]:
    return [[need.actor for need in bundle] for bundle in reserved]


@pytest.mark.parametrize(
    ("nodes", "ranks"),
    [
        ([Node("a", 8, 2), Node("b", 8, 4)], [[0, 1, 2, 3]]),
        ([Node("a", 8, 2), Node("b", 8, 2)], [[0, 1], [2, 3]]),
        ([Node("a", 8, 1), Node("b", 8, 3), Node("c", 8)], [[0, 1, 2], [3]]),
        ([], [[0], [1], [2], [3]]),
    ],
)
def test_learner_ranks_are_together_on_as_few_nodes_as_are_large_enough(
    nodes: list[Node], ranks: list[list[int]]
) -> None:
    needs = [*role_needs("sampler", 2, 1.0, 1.0), *role_needs("learner", 4, 1.0, 1.0), Need("posterior", "posterior")]
    expected = [[f"learner-{rank}" for rank in bundle] for bundle in ranks]
    assert names(bundles(needs, nodes)) == [*expected, ["sampler-0"], ["sampler-1"]]


@given(runs(), clusters())
def test_each_actor_that_takes_something_is_in_one_bundle(needs: list[Need], nodes: list[Node]) -> None:
    reserved = bundles(needs, nodes)
    assert Counter(chain(*names(reserved))) == Counter(need.actor for need in needs if need.cpus or need.gpus)
    assert all(total(bundle) != (0.0, 0.0) for bundle in reserved), "Ray refuses an empty bundle"


def test_a_run_tells_what_each_actor_takes() -> None:
    run = config(device="cuda", learner={"engine": "deepspeed", "ranks": 2}, selection={"rule": "uniform"}, threads=2)
    assert describe(actor_needs(run)) == [
        "learner-0, learner-1: 1 GPU and 2 CPUs each",
        "sampler-0: 1 GPU and 2 CPUs",
        "posterior: 2 CPUs",
    ]


def test_samplers_share_a_gpu_where_the_configuration_says() -> None:
    nodes = [Node("10.0.0.1", 8, 1)]
    shared = config(device="cuda", selection={"rule": "uniform"}, placement={"sampler_gpus": 0.5, "learner_gpus": 0.5})
    assert fits(require_room, actor_needs(shared), nodes)
    assert not fits(require_room, actor_needs(config(device="cuda", selection={"rule": "uniform"})), nodes)


def test_the_shortage_says_what_is_needed_what_there_is_and_what_would_fit() -> None:
    run = config(device="cuda", sampler={"actors": 2}, selection={"rule": "uniform"})
    with pytest.raises(Shortage) as caught:
        require_room(actor_needs(run), [Node("10.0.0.7", 16, 2)])
    assert str(caught.value) == (
        "this run needs 3 GPUs and 4 CPUs: 1 learner rank of 1 GPU and 1 CPU, 2 samplers of 1 GPU and 1 CPU each, "
        "1 posterior of 1 CPU. Of 1 node 10.0.0.7 has 2 GPUs and 16 CPUs, which does not hold it. It fits with "
        "sampler.actors=1; or add nodes"
    )


@pytest.mark.parametrize(
    ("changes", "nodes", "advice"),
    [
        ({"learner": {"engine": "deepspeed", "ranks": 4}}, [Node("a", 4)], "learner.ranks=2;"),
        (
            {"learner": {"engine": "deepspeed", "ranks": 2}, "sampler": {"actors": 2}},
            [Node("a", 3)],
            "sampler.actors=1 and learner.ranks=1;",
        ),
        ({"sampler": {"actors": 3, "reference_candidates": 1}}, [Node("a", 6)], "sampler.actors=2;"),
        ({"threads": 4}, [Node("a", 8)], "lower threads"),
        ({"device": "cuda"}, [Node("a", 8)], "let actors share one: see placement"),
        ({}, [], "none is there"),
    ],
)
def test_the_advice_fits_the_shortage(changes: dict[str, object], nodes: list[Node], advice: str) -> None:
    with pytest.raises(Shortage, match=advice):
        require_room(actor_needs(config(**changes)), nodes)


def test_engines_of_live_mode_take_what_samplers_do_on_a_cluster_and_nothing_elsewhere() -> None:
    run = config(device="cuda", placement={"sampler_gpus": 0.5}, threads=2)
    engines = engine_needs(2, run.placement, run.compute)
    assert describe([*actor_needs(run), *engines])[-1] == "engine-0, engine-1: 0.5 GPUs and 2 CPUs each"
    nodes = [Node("a", 10, 3)]
    assert fits(require_room, [*actor_needs(run), *engines[:1]], nodes)
    assert not fits(require_room, [*actor_needs(run), *engines], nodes)
    local = config(ray_address=None, device="cuda")
    assert engine_needs(2, local.placement, local.compute) == []


def test_a_local_instance_counts_gpus_only() -> None:
    needs = actor_needs(config(ray_address=None, device="cuda", sampler={"actors": 3}))
    assert {(need.cpus, need.gpus) for need in needs} == {(0.0, 1.0)}
    assert fits(require_room, needs, [Node("this machine", 1, 5)])
    assert bundles(actor_needs(config(ray_address=None))) == []


def test_needs_name_every_actor_of_a_run_once() -> None:
    for frozen, actors, ranks in product((0, 3), (1, 2), (1, 2)):
        run = config(
            sampler={"actors": actors, "reference_candidates": frozen},
            learner={"engine": "deepspeed", "ranks": ranks},
            threads=2,
        )
        needs = actor_needs(run)
        assert len({need.actor for need in needs}) == len(needs) == actors * (1 + (frozen > 0)) + ranks + 1
        assert {need.cpus for need in needs} == {2.0}


def test_ranks_do_not_share_a_gpu() -> None:
    with pytest.raises(Exception, match=r"placement\.learner_gpus below 1 needs learner\.ranks=1"):
        config(device="cuda", learner={"engine": "deepspeed", "ranks": 2}, placement={"learner_gpus": 0.5})
