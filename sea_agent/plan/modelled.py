"""Seconds of each stage by operations, bytes and latencies."""

import math
from dataclasses import dataclass

from sea_agent.errors import UserError
from sea_agent.plan.machine import Gpu, Shape
from sea_agent.plan.planned import Costs, Planned

# Guesses of the model. A GPU reaches a part of its peaks; the rest is measured on a CPU of a server.
_OF_FLOPS = 0.4
_OF_BANDWIDTH = 0.6
_TOKEN_SECONDS = 25e-6  # of Python around each sampled token
_PUBLISH_SECONDS_PER_GB = {"object_store": 2.4, "nccl": 0.5, "ipc": 0.5}
_UPDATE_SECONDS, _DRAW_SECONDS_PER_PROMPT = 0.3, 0.01  # of a Laplace posterior on 12,000 features
_ENCODER_WEIGHTS = 1e8


def modelled(planned: Planned) -> Costs:
    """By operations, bytes and latencies. A guess: nothing of it was measured on a GPU.

    Raises:
        UserError: the machine has no GPU, or the run is not one for GPUs with vLLM in 16 bits.
    """
    config, gpu, shape = planned.config, planned.machine.gpu, planned.shape
    if gpu is None or not planned.machine.gpus or shape is None:
        raise UserError("plan: give gpu and gpus in --machine, or --run with a recorded run of this configuration")
    if (config.device, config.policy.dtype, config.sampler.backend) != ("cuda", "bfloat16", "vllm"):
        raise UserError(
            "plan: without a recorded run (--run) only GPUs with vLLM and 16 bits can be foretold: set device=cuda, "
            "policy.dtype=bfloat16 and sampler.backend=vllm"
        )
    model, sampler, imagination = _Model(gpu, shape, planned), config.sampler, config.imagination
    per_prompt = imagination.candidates or sampler.candidates
    each = max(2, config.evaluation.best_of) + 1  # responses to a held-out prompt; one tells the divergence
    asked = {
        "sample": model.sampling(config.batch_size * config.selection.prompt_pool, sampler.candidates),
        "select": model.judging(config.batch_size * config.selection.prompt_pool, sampler.candidates),
        "learn": model.learning(config.batch_size),
        "publish": model.publishing(),
        "update": _UPDATE_SECONDS if config.needs_posterior else 0.0,
    }
    imagined = {
        "sample": model.sampling(config.batch_size, per_prompt),
        "imagine": model.judging(config.batch_size, per_prompt),
        "learn": model.learning(config.batch_size * (per_prompt // 2)),
        "publish": model.publishing(),
    }
    return Costs(
        asked=asked,
        imagined=imagined if imagination.rounds else {},
        evaluation=model.sampling(config.evaluation.prompts, each) if config.evaluation.prompts_path else 0.0,
        once=0.0,
        actors=sampler.actors,
        imagined_share=1.0,
        source="guess",
    )


@dataclass(frozen=True)
class _Model:
    """Seconds on this GPU."""

    gpu: Gpu
    shape: Shape
    planned: Planned

    def sampling(self, prompts: int, candidates: int) -> float:
        """Prompts read once each or for every candidate; then token by token, as fast as the weights are read."""
        sampler = self.planned.config.sampler
        chunks = math.ceil(prompts * candidates / sampler.chunk)
        mine = min(math.ceil(chunks / sampler.actors) * sampler.chunk, prompts * candidates)
        read = mine * self.planned.machine.prompt_tokens / (candidates if sampler.prefix_caching else 1)
        together = min(sampler.chunk, mine)
        step = 2 * self.shape.weights / (_OF_BANDWIDTH * self.gpu.bandwidth)
        step += together * (self._operations(2) + _TOKEN_SECONDS)
        return read * self._operations(2) + mine / together * self.planned.answer_tokens * step

    def judging(self, prompts: int, candidates: int) -> float:
        """Features of every candidate, and draws."""
        config = self.planned.config
        if not config.needs_posterior:
            return 0.0
        weights = _ENCODER_WEIGHTS if config.posterior.features == "encoder" else self.shape.weights
        operations = 2 * weights * prompts * candidates * self.planned.row_tokens
        return operations / (_OF_FLOPS * self.gpu.flops) + prompts * _DRAW_SECONDS_PER_PROMPT

    def learning(self, pairs: int) -> float:
        """Forward and backward through the policy, forward through the reference."""
        learner = self.planned.config.learner
        of_a_rank = math.ceil(pairs / learner.ranks)
        tokens = 2 * of_a_rank * self.planned.row_tokens * learner.steps_per_round
        reference = 0 if learner.loss == "simpo" else 2
        return tokens * self._operations(6 + reference)

    def publishing(self) -> float:
        """Of 16-bit weights, by the way that they take."""
        way = self.planned.config.sampler.weight_transfer
        return 2 * self.shape.weights / 1e9 * _PUBLISH_SECONDS_PER_GB[way]

    def _operations(self, of_each_weight: float) -> float:
        """Seconds for a token."""
        return of_each_weight * self.shape.weights / (_OF_FLOPS * self.gpu.flops)
