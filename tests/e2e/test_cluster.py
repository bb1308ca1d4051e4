"""A Ray cluster of two nodes on this machine: actors are spread over both, and told apart from those of others."""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from e2e.ray_head import until
from e2e.test_resume import stop_after
from e2e.test_run import metrics, world_config
from e2e.two_nodes import TwoNodes
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from run_parts import actor_needs, sampler_pool
from safetensors.torch import load_file

from actors import samplers as actors_samplers
from actors.cluster import Places
from actors.placement import Need, needs_of
from actors.runtime import RayRuntime
from sea_agent.config.files import load_config
from sea_agent.errors import ActorDied, RunFailure, Stopped
from sea_agent.run import preflight
from sea_agent.run.lifecycle import resume, run
from sea_agent.run.resumption import resumed_config
from sea_agent.run.session import Watch

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("nodes")]


@pytest.fixture(scope="module", autouse=True)
def _by_value() -> None:
    """Actors cannot import a test module by its name."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


# --- many processes over both nodes ----------------------------------------------------------------------------------


def test_deepspeed_ranks_on_two_nodes_learn_from_a_vllm_sampler(
    nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preset for vLLM without a GPU, with ranks that take four processors each and do not fit on one node."""

    def wide(*sections: Any) -> list[Need]:
        return [replace(need, cpus=4.0) if need.role == "learner" else need for need in needs_of(*sections)]

    monkeypatch.setattr(preflight, "needs_of", wide)
    spread: list[dict[str, int]] = []
    small = ["batch_size=8", "budget.oracle_queries=16", "sampler.candidates=4", "evaluation.prompts=4"]
    ranks = ["learner.engine=deepspeed", "learner.ranks=2", "learner.zero_stage=2"]
    config = load_config("vllm-cpu", [f"ray_address={nodes.address}", "sampler.kv_cache_gb=0.2", *small, *ranks])
    summary = run(config, tmp_path / "out", Watch(lambda row: spread.append(nodes.spread())))
    assert sum(spread[-1].values()) == 4
    assert min(spread[-1].values()) > 0
    assert summary["oracle_queries"] == 16
    rows = [row for row in metrics(tmp_path / "out") if "logprob_gap" in row]
    assert len(rows) == summary["rounds"] == summary["policy_version"] == 2
    assert max(row["logprob_gap"] for row in rows) < 1e-4
    assert all(row["grad_norm"] > 0 for row in rows)


def test_a_run_goes_on_elsewhere(nodes: TwoNodes, tmp_path: Path) -> None:
    """Begun in one process with torch, it is ended by two DeepSpeed ranks on Ray: equal but for rounding."""
    with pytest.raises(Stopped):
        run(world_config(), tmp_path / "out", stop_after(2))
    run(world_config(), tmp_path / "whole")
    out = tmp_path / "out"
    moved = ["runtime=ray", f"ray_address={nodes.address}", "sampler.actors=2"]
    ranks = ["learner.engine=deepspeed", "learner.ranks=2", "learner.zero_stage=3"]
    summary = resume(resumed_config(out, [*moved, *ranks]), out)
    expected = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["ledger_digest"] == expected["ledger_digest"]
    for mine, theirs in zip(metrics(out), metrics(tmp_path / "whole"), strict=True):
        assert mine.keys() == theirs.keys()
        assert all(value == pytest.approx(theirs[key], abs=1e-4) for key, value in mine.items()), (mine, theirs)
    here, there = (load_file(run / "policy" / "model.safetensors") for run in (tmp_path / "whole", out))
    assert here.keys() == there.keys()
    assert all(torch.allclose(here[name], there[name], rtol=0.0, atol=1e-5) for name in here)


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


# The sampler needs the head's GPU, so that the learner is spread to the worker.
APART = [Need("learner-0", "learner", 1.0), Need("sampler-0", "sampler", 1.0, 1.0)]


def test_what_only_a_dead_node_held_is_told_as_a_death_and_the_actor_comes_back_elsewhere(nodes: TwoNodes) -> None:
    with RayRuntime(nodes.address, APART, threads=1, deadline_seconds=60) as runtime:
        learner, sampler = (runtime.spawn(need.actor, Part) for need in APART)
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


def test_an_actor_that_is_bound_to_a_dead_node_does_not_come_back(
    nodes: TwoNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it would be without a reservation that Ray moves."""
    options, homes = Places.options, {}

    def bound(self: Places, actor: str) -> dict[str, Any]:
        table = ray.util.placement_group_table(self._group)["bundles_to_node_id"]
        home = homes.setdefault(actor, table[self._bundle_of[actor]])
        return options(self, actor) | {"scheduling_strategy": NodeAffinitySchedulingStrategy(home, soft=False)}

    monkeypatch.setattr(Places, "options", bound)
    with RayRuntime(nodes.address, APART, threads=1, deadline_seconds=60) as runtime:
        learner = runtime.spawn("learner-0", Part)
        assert learner.call("sees").result() == ("", [])
        nodes.lose_the_worker()
        until(lambda: sum(node["Alive"] for node in ray.nodes()) == 1, "the death is noticed")
        learner.restart()
        with pytest.raises(ActorDied, match="NodeAffinity"):
            learner.call("sees").result()


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
