"""A hosted part answers alike in this process and in a Ray actor, and nobody waits for ever."""

import os
import sys
import time
from collections.abc import Iterator

import pytest
import ray

from actors.placement import Need
from actors.runtime import InlineRuntime, RayRuntime, Runtime
from sea_agent.errors import RunFailure, UnfitState, UserError

pytestmark = pytest.mark.ray

NEEDS = [Need(name) for name in ("one", "two", "part", "stumbler", "mortal", "sleeper", "burner", "hungry")]


class Part:
    """Something to host."""

    def __init__(self, base: int) -> None:
        self.base = base

    def add(self, amount: int) -> int:
        return self.base + amount

    def environment(self, name: str) -> str | None:
        return os.environ.get(name)

    def refuse(self) -> None:
        raise UserError("the file is broken; mend it")

    def misfit(self) -> None:
        raise UnfitState("a weight is missing")

    def give_up(self) -> None:
        raise RunFailure("nothing left")

    def stumble(self) -> None:
        raise ZeroDivisionError("by nought")

    def devour(self) -> None:
        import torch  # with the module it would be imported in every actor

        torch.empty(2**60, dtype=torch.uint8)

    def sleep(self) -> None:
        time.sleep(30)

    def die(self) -> None:
        os._exit(3)

    def burn(self, seconds: float) -> None:
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass


@pytest.fixture(scope="module")
def ray_runtime() -> Iterator[RayRuntime]:
    # Actors cannot import a test module by its name.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with RayRuntime(None, NEEDS, threads=1, deadline_seconds=60) as runtime:
        yield runtime


@pytest.fixture(params=["inline", "ray"])
def runtime(request: pytest.FixtureRequest, ray_runtime: RayRuntime) -> Runtime:
    return InlineRuntime() if request.param == "inline" else ray_runtime


def test_a_part_answers_and_takes_the_answer_of_another_as_its_argument(runtime: Runtime) -> None:
    one, two = runtime.spawn("one", Part, 1), runtime.spawn("two", Part, 10)
    assert one.call("add", 2).result() == 3
    assert two.call("add", one.call("add", 2)).result() == 13


@pytest.mark.parametrize(("method", "kind"), [("refuse", UserError), ("misfit", UnfitState), ("give_up", RunFailure)])
def test_errors_for_the_user_arrive_as_they_were_raised(runtime: Runtime, method: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^(the file is broken; mend it|a weight is missing|nothing left)$") as caught:
        runtime.spawn("part", Part, 1).call(method).result()
    assert type(caught.value) is kind


def test_any_other_error_of_an_actor_names_it_and_keeps_the_first_traceback(ray_runtime: RayRuntime) -> None:
    with pytest.raises(RunFailure, match=r"(?s)stumbler\.stumble failed.*ZeroDivisionError: by nought"):
        ray_runtime.spawn("stumbler", Part, 1).call("stumble").result()


def test_an_actor_without_memory_is_named_as_such(ray_runtime: RayRuntime) -> None:
    with pytest.raises(MemoryError, match=r"hungry\.devour: .*can't allocate memory"):
        ray_runtime.spawn("hungry", Part, 1).call("devour").result()


def test_an_actor_that_dies_is_named(ray_runtime: RayRuntime) -> None:
    with pytest.raises(RunFailure, match=r"mortal\.die: the actor died"):
        ray_runtime.spawn("mortal", Part, 1).call("die").result()


def test_an_actor_that_does_not_answer_is_named_at_the_deadline(ray_runtime: RayRuntime) -> None:
    sleeper = ray_runtime.spawn("sleeper", Part, 1)
    assert sleeper.call("add", 1).result() == 2
    hurried = RayRuntime(None, NEEDS, threads=1, deadline_seconds=0.5)
    with pytest.raises(RunFailure, match=r"sleeper\.sleep gave no answer within 0"):
        hurried.wait(sleeper.call("sleep").ref, "sleeper", "sleep")  # type: ignore[attr-defined]


def test_actors_see_no_gpu_and_keep_to_their_threads(ray_runtime: RayRuntime) -> None:
    part = ray_runtime.spawn("part", Part, 1)
    assert part.call("environment", "CUDA_VISIBLE_DEVICES").result() == ""
    assert part.call("environment", "OMP_NUM_THREADS").result() == "1"


def test_cpu_time_of_a_part_is_counted_wherever_it_lives(runtime: Runtime) -> None:
    part = runtime.spawn("burner", Part, 1)
    part.call("add", 1).result()
    before = runtime.cpu_seconds()
    part.call("burn", 0.5).result()
    assert runtime.cpu_seconds() - before >= 0.5
