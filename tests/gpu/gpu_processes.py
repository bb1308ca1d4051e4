"""What the GPU tests do in processes of their own, since neither vLLM nor DeepSpeed leaves a process as it was."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import torch
from run_parts import actor_needs, learner_group, sampler_pool
from safetensors.torch import load_file

from actors.placement import Need
from actors.runtime import RayRuntime, make_runtime
from sea_agent.config import RunConfig
from sea_agent.config.files import apply_settings, parse_config
from sea_agent.errors import RunFailure
from sea_agent.persistence.rounds import RoundMetrics
from sea_agent.pretrained import load_policy
from sea_agent.run.lifecycle import run
from sea_agent.run.session import Watch
from sea_agent.types import LabelSource, Preference, Prompt, Response
from sea_agent.weights import checksum

DEADLINE_SECONDS = 540.0


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result(timeout=DEADLINE_SECONDS)


def configured(policy: str, **changes: Any) -> RunConfig:
    """A bfloat16 run on GPUs; ``changes`` are dotted keys with ``__`` for the dot."""
    tree: dict[str, Any] = {
        "device": "cuda",
        "runtime": "ray",
        "batch_size": 8,
        "deadline_seconds": 300.0,
        "policy": {"path": policy, "dtype": "bfloat16"},
        "prompts": {"path": "unused.jsonl"},
        "sampler": {"backend": "vllm", "gpu_memory_share": 0.2, "max_new_tokens": 8, "temperature": 1.0},
        "oracle": {"kind": "world"},
        # In bfloat16 the random policies of the tests, sharper than trained ones, differ by some hundredths of a nat.
        "learner": {"learning_rate": 1e-3, "micro_batch": 4, "max_logprob_gap": 0.2},
        "budget": {"oracle_queries": 64},
    }
    apply_settings(tree, {key.replace("__", "."): value for key, value in changes.items()})
    return parse_config(tree, where="test")


def prompts(count: int = 8) -> list[Prompt]:
    return [Prompt(f"p{index}", f"prompt {index}", tuple(range(5 + index, 12 + index))) for index in range(count)]


def pairs_of(samples: list[list[Response]]) -> list[Preference]:
    return [
        Preference(prompt.id, prompt, row[0], row[1], LabelSource.ORACLE)
        for prompt, row in zip(prompts(len(samples)), samples, strict=True)
    ]


def three_rounds(config: RunConfig, directory: str) -> dict[str, Any]:
    """Checksums of what was published, log-probability gaps, and the policy that is saved at last.

    Every publish raises unless each sampler holds the learner's weights bit by bit.
    """
    found: dict[str, Any] = {"checksums": [], "gaps": [], "versions": []}
    with make_runtime(config.runtime, config.compute, actor_needs(config)) as runtime:
        samplers = sampler_pool(runtime, config)
        learner = learner_group(runtime, config, total_steps=3)
        for number in range(3):
            samples = samplers.samples(prompts(), 4, 1.0, "round", number)
            found["versions"].append({one.policy_version for row in samples for one in row})
            found["gaps"].append(learner.step(pairs_of(samples))["logprob_gap"])
            update, expected = learner.weights()
            samplers.load_weights(update, expected)
            found["checksums"].append(expected)
        found["unpublished"] = learner.checksum()
        update, _ = learner.weights()
        try:
            samplers.load_weights(update, "another checksum")
        except RunFailure as failure:
            found["refusal"] = str(failure)
        learner.save_policy(directory)
    found["saved"] = checksum(load_file(Path(directory) / "model.safetensors"))
    return found


def run_with_deaths(config: RunConfig, out: str) -> list[str]:
    """What is told of a run in which the sampler dies after the first round, and the learner after the second."""
    family = psutil.Process()
    lines: list[str] = []

    def kill(row: RoundMetrics) -> None:
        shells = [one for one in family.children(recursive=True) if one.name().startswith("ray::_Shell")]
        oldest_first = sorted(shells, key=lambda one: (one.create_time(), one.pid))
        # At first they are sampler, learner, posterior; and posterior, learner, sampler once two were started anew.
        if (place := victims.pop(row.round, None)) is not None:
            oldest_first[place].kill()

    victims = {1: 0, 2: 1}
    run(config, Path(out), Watch(on_round=kill, tell=lines.append))
    return lines


def gap_above(config: RunConfig) -> str:
    """What the learner says of a gap between the back ends above its limit."""
    with make_runtime(config.runtime, config.compute, actor_needs(config)) as runtime:
        samples = sampler_pool(runtime, config).samples(prompts(), 4, 1.0, "round", 0)
        try:
            learner_group(runtime, config, total_steps=1).step(pairs_of(samples))
        except RunFailure as failure:
            return str(failure)
    return "nothing"


def trained_weights(config: RunConfig, directory: str) -> dict[str, Any]:
    """The initial weights as published and as on disk, and what two rounds make of them."""
    fixed = [
        [Response(f"r{index}-{side}", prompt.id, "", (7 + index, 9 + side, 3), (), -1) for side in range(2)]
        for index, prompt in enumerate(prompts())
    ]
    kind = "ray" if config.learner.ranks > 1 else "inline"
    with make_runtime(kind, config.compute, actor_needs(config)) as runtime:
        learner = learner_group(runtime, config, total_steps=2)
        first = learner.checksum()
        for _ in range(2):
            learner.step(pairs_of(fixed))
        learner.save_policy(directory)
        last = learner.checksum()
    model = load_policy(config.policy.path, config.policy.dtype, "cpu")
    return {
        "first": first,
        "on disk": checksum({name: value.detach() for name, value in model.named_parameters()}),
        "last": last,
        "saved": checksum(load_file(Path(directory) / "model.safetensors")),
    }


class Looks:
    """Tells what its process sees."""

    def look(self) -> tuple[str | None, int]:
        return os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()


def devices_seen() -> dict[str, tuple[str | None, int]]:
    """By GPUs asked for: what actors see."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    seen = {}
    needs = [Need("none"), Need("one", gpus=1.0)]
    with RayRuntime(None, needs, threads=1, deadline_seconds=120.0) as runtime:
        for need in needs:
            seen[need.actor] = runtime.spawn(need.actor, Looks).call("look").result()
        # The GPU of "one" is not given again, so that two halves share one only where there is another.
    needs = [Need(f"half-{index}", gpus=0.5) for index in range(2)]
    with RayRuntime(None, needs, threads=1, deadline_seconds=120.0) as runtime:
        halves = [runtime.spawn(need.actor, Looks) for need in needs]
        for index, half in enumerate(halves):
            seen[f"half-{index}"] = half.call("look").result()
    return seen


def slept(policy: str, level: int) -> dict[str, Any]:
    """Free memory (bytes) before, during and after vLLM's sleep, and equal requests before and after it."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=policy,
        dtype="bfloat16",
        max_model_len=64,
        kv_cache_memory_bytes=2**30,
        enable_sleep_mode=True,
        enforce_eager=True,
        skip_tokenizer_init=True,
        distributed_executor_backend="uni",
        seed=0,
    )
    requests = [{"prompt_token_ids": list(prompt.token_ids)} for prompt in prompts()]
    settings = [SamplingParams(seed=seed, max_tokens=12, logprobs=0, detokenize=False) for seed in range(len(requests))]

    def tokens() -> list[list[int]]:
        return [list(output.outputs[0].token_ids) for output in engine.generate(requests, settings, use_tqdm=False)]

    def free() -> int:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]

    found: dict[str, Any] = {"before": tokens(), "awake": free()}
    engine.sleep(level=level)
    found["asleep"] = free()
    engine.wake_up()
    if level == 2:  # the weights were thrown away
        engine.collective_rpc("reload_weights")
    engine.reset_prefix_cache()
    found |= {"woken": free(), "after": tokens()}
    return found
