"""What actors see of the GPUs, and what vLLM's sleep gives back of their memory."""

import pytest
from gpu_processes import devices_seen, in_a_process, slept

from sea_agent.worlds import resolve

pytestmark = pytest.mark.gpu


def test_an_actor_sees_the_gpu_that_it_asked_for_and_no_other() -> None:
    seen = in_a_process(devices_seen)
    assert seen["none"] == ("", 0)
    visible, count = seen["one"]
    assert count == 1
    assert visible is not None
    assert "," not in visible
    assert seen["half-0"] == seen["half-1"], "two halves are one GPU, which learner and sampler share with ipc"
    assert seen["half-0"][1] == 1


@pytest.mark.parametrize("level", [1, 2])
def test_a_sleeping_engine_frees_its_memory_and_answers_alike_afterwards(level: int) -> None:
    found = in_a_process(slept, resolve("world://lexicon/policy"), level)
    freed = found["asleep"] - found["awake"]
    assert freed > 0.9 * 2**30, "its KV cache has 1 GiB"
    assert found["woken"] < found["asleep"] - 0.9 * 2**30
    assert found["after"] == found["before"]
    assert len({tuple(row) for row in found["before"]}) > 1
