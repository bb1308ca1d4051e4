"""Who is called when weights go from GPU to GPU, and what becomes of the others when one dies, on actors that play."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from run_parts import actor_needs, learner_group, learner_rank, sampler_pool

import actors.learners
from actors.learners import LearnerGroup
from actors.placement import bundles
from actors.runtime import InlineRuntime
from actors.samplers import SamplerPool
from sea_agent.config import PolicyConfig, RunConfig, SelectionConfig
from sea_agent.config.files import parse_config
from sea_agent.errors import ActorDied, RunFailure, UserError
from sea_agent.run import preflight

Policies = Callable[..., PolicyConfig]


class Answer:
    def __init__(self, actor: "Actor", method: str) -> None:
        self._actor, self._method = actor, method

    def result(self) -> Any:
        self._actor.log.append(f"{self._actor.name}.{self._method} answered")
        answer = self._actor.answers.get(self._method)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Actor:
    """Answers what it was told to, and is as dead as it was told to be."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log
        self.answers: dict[str, Any] = {"published_checksum": "abc", "load_weights": "abc"}

    def call(self, method: str, *_: Any) -> Answer:
        self.log.append(f"{self.name}.{method}")
        return Answer(self, method)

    def is_dead(self) -> bool:
        return any(isinstance(answer, ActorDied) for answer in self.answers.values())

    def end(self) -> None:
        self.log.append(f"{self.name} ended")

    def restart(self) -> None:
        self.log.append(f"{self.name} restarted")
        self.answers = {"load_weights": "abc"}


class Stage(InlineRuntime):
    """Hosts such actors, and keeps the order of all calls."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.actors: dict[str, Actor] = {}

    def spawn(self, name: str, factory: Any, *_: Any) -> Any:
        self.log.append(f"{name} spawned")
        self.actors[name] = Actor(name, self.log)
        return self.actors[name]

    def since(self, count: int) -> Sequence[str]:
        return [line for line in self.log[count:] if ".join" not in line]  # every rank's first call


def configured(policy: str, way: str, actors: int = 2) -> RunConfig:
    return parse_config(
        {
            "policy": {"path": policy, "dtype": "bfloat16"},
            "prompts": {"path": "unused.jsonl"},
            "device": "cuda",
            "runtime": "ray",
            "sampler": {"backend": "vllm", "actors": actors, "weight_transfer": way},
            "oracle": {"kind": "world"},
            "budget": {"oracle_queries": 1},
        },
        where="test",
    )


def parts(way: str, actors: int = 2) -> tuple[Stage, LearnerGroup, SamplerPool]:
    stage, config = Stage(), configured("unused", way, actors)
    samplers = sampler_pool(stage, config)
    return stage, learner_group(stage, config, total_steps=1), samplers


def test_the_learner_sends_once_it_has_offered_and_is_done_before_it_is_called_again() -> None:
    stage, learner, samplers = parts("nccl")
    start = len(stage.log)
    samplers.load_weights(*learner.weights())
    learner.step([])
    log = list(stage.since(start))
    offered = ["learner-0.weights", "learner-0.published_checksum", "learner-0.published_checksum answered"]
    assert log[:6] == [*offered, "learner-0.send", "sampler-0.load_weights", "sampler-1.load_weights"]
    assert log[-3:] == ["learner-0.send answered", "learner-0.step", "learner-0.step answered"]


def test_nothing_is_sent_for_a_checksum_or_through_the_object_store() -> None:
    stage, learner, _ = parts("nccl")
    learner.checksum()
    assert "learner-0.send" not in stage.log
    stage, learner, samplers = parts("object_store")
    samplers.load_weights(*learner.weights())
    assert "learner-0.send" not in stage.log


def test_what_went_wrong_in_sending_is_told_at_the_next_call() -> None:
    stage, learner, samplers = parts("nccl")
    stage.actors["learner-0"].answers["send"] = RunFailure("the group was lost")
    samplers.load_weights(*learner.weights())
    with pytest.raises(RunFailure, match="the group was lost"):
        learner.step([])


def test_a_sampler_that_holds_other_weights_is_named() -> None:
    stage, learner, samplers = parts("nccl")
    stage.actors["sampler-1"].answers["load_weights"] = "other"
    with pytest.raises(RunFailure, match="sampler-1 holds weights other"):
        samplers.load_weights(*learner.weights())


@pytest.mark.parametrize(("way", "stays"), [("object_store", True), ("nccl", False), ("ipc", False)])
def test_only_through_the_object_store_a_new_sampler_gets_the_published_weights(way: str, stays: bool) -> None:
    stage, learner, samplers = parts(way, actors=1)
    samplers.load_weights(*learner.weights())
    stage.actors["sampler-0"].answers["load_weights"] = ActorDied("sampler-0 died")
    start = len(stage.log)
    if stays:
        samplers.load_weights(*learner.weights())
        assert list(stage.since(start))[-3:-1] == ["sampler-0 restarted", "sampler-0.load_weights"]
    else:
        with pytest.raises(ActorDied):
            samplers.load_weights(*learner.weights())
        assert "sampler-0 restarted" not in stage.since(start)


def test_of_a_group_that_lost_a_member_all_are_replaced_and_nothing_waits_for_the_old_one() -> None:
    stage, learner, samplers = parts("nccl")
    stage.actors["sampler-1"].answers["load_weights"] = ActorDied("sampler-1 died")
    stage.actors["learner-0"].answers["send"] = RunFailure("nobody may wait for this")
    with pytest.raises(ActorDied):
        samplers.load_weights(*learner.weights())
    start = len(stage.log)
    learner.revive()
    samplers.revive()
    assert list(stage.since(start)) == [
        "learner-0 ended",
        "learner-0 spawned",
        "sampler-0 restarted",
        "sampler-1 restarted",
    ]
    samplers.load_weights(*learner.weights())


def test_those_that_share_a_gpu_start_one_after_the_other() -> None:
    stage, learner, samplers = parts("ipc", actors=1)
    assert stage.since(0) == ["sampler-0 spawned", "sampler-0.sample", "sampler-0.sample answered", "learner-0 spawned"]
    start = len(stage.log)
    learner.revive()
    samplers.revive()
    ready = ["learner-0.published_checksum", "learner-0.published_checksum answered"]
    assert list(stage.since(start)) == ["learner-0 ended", "learner-0 spawned", *ready, "sampler-0 restarted"]


@pytest.mark.parametrize(("way", "share"), [("object_store", 1.0), ("nccl", 1.0), ("ipc", 0.5)])
def test_with_ipc_alone_learner_and_sampler_share_a_gpu(way: str, share: float) -> None:
    config = configured("unused", way, actors=1)
    config = config.model_copy(
        update={"sampler": config.sampler.model_copy(update={"reference_candidates": 1}), "ray_address": "there:1"}
    )
    needs = actor_needs(config)
    gpus = {need.actor: need.gpus for need in needs}
    assert gpus == {"learner-0": share, "sampler-0": share, "reference-sampler-0": 1.0, "posterior": 1.0}
    shared = [{need.actor for need in bundle} for bundle in bundles(needs) if len(bundle) > 1]
    assert shared == ([{"learner-0", "sampler-0"}] if way == "ipc" else [])
    assert {need.gpus for need in actor_needs(config.model_copy(update={"device": "cpu"}))} == {0.0}


def test_a_learner_rank_offers_trains_and_sends_by_its_transfer(
    tiny_policy: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Transfer:
        def offer(self, update: Any) -> Any:
            calls.append(f"offer {update.version}")
            return update

        def send(self) -> None:
            calls.append("send")

        def release(self) -> None:
            calls.append("release")

    monkeypatch.setattr(actors.learners, "make_transfer", lambda *_: Transfer())
    config = configured(tiny_policy("llama").path, "nccl").model_copy(update={"device": "cpu"})
    rank = learner_rank(config, total_steps=1, rank=0)
    rank.join(None)
    update = rank.weights()
    rank.send()
    rank.step([])
    assert calls == ["offer 0", "send", "release"]
    assert update is not None
    assert rank.published_checksum() == update.checksum == rank.checksum()


def test_the_gpus_of_a_machine_are_counted_by_the_way_weights_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)

    def require_room(way: str) -> None:
        config = configured("unused", way, actors=1).model_copy(update={"selection": SelectionConfig(rule="passive")})
        preflight._require_room(actor_needs(config), config.compute)

    require_room("ipc")
    with pytest.raises(UserError, match=r"this run needs 2 GPUs.*this machine has 1 GPU"):
        require_room("nccl")
