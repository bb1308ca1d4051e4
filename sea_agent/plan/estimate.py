"""What comes of playing a run through: hours, money, who waits for whom, memory, and layouts that do better."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from pydantic import ValidationError

from actors.placement import needs_of, total
from sea_agent.config import Compute, RunConfig
from sea_agent.config.files import flat
from sea_agent.config.oracle import RemoteOracleConfig
from sea_agent.plan.answering import answering
from sea_agent.plan.machine import Gpu
from sea_agent.plan.modelled import modelled
from sea_agent.plan.planned import Costs, Planned
from sea_agent.plan.simulation import Played, play
from sea_agent.seeding import generator_for

_PLAYS = 20
_RANKS = (1, 2, 4, 8, 16)
_SAMPLERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
_ACTIVATION_BYTES = 34  # of a token in each layer and hidden unit, kept for the backward pass (arXiv 2205.05198, eq. 1)
_LOGIT_BYTES = 6  # per token and entry of the vocabulary: once in 16 bits, once in 32


@dataclass(frozen=True)
class Estimate:
    """The middle of several plays; ``hours`` with the ends of 95 % of them."""

    hours: tuple[float, float, float]
    played: Played
    """The play in the middle."""
    shares: dict[str, float]
    """Share of the time in which each part works; of people, of their working hours."""
    gpus: float
    dollars: tuple[float, float]
    """For GPUs, and for answers."""

    @property
    def bottleneck(self) -> str:
        """The part that works most."""
        return max(self.shares, key=lambda part: self.shares[part])


def estimate(planned: Planned, costs: Costs, plays: int = _PLAYS) -> Estimate:
    """Play the run through, several times where it depends on who answers when.

    Raises:
        UserError: there are fewer annotators than votes for a duel.
    """
    workers, votes = planned.machine.workers, planned.votes
    ends = []
    for number in range(plays if workers else 1):
        who = answering(planned.machine, votes, costs.asked.get("ask", 0.0), generator_for("plan", number))
        ends.append((play(planned, costs, who), who))
    ends.sort(key=lambda end: end[0].wall)
    low, middle, high = np.quantile([played.wall / 3600 for played, _ in ends], [0.025, 0.5, 0.975])
    played, who = ends[len(ends) // 2]
    shares = {part: seconds / played.wall for part, seconds in played.busy.items() if part != "oracle"}
    shares["oracle"] = played.busy["oracle"] / who.could_work(played.wall)
    gpus, price = gpus_of(planned), 0.0 if workers is None else workers.price
    return Estimate(
        hours=(float(middle), float(low), float(high)),
        played=played,
        shares=shares,
        gpus=gpus,
        dollars=(gpus * float(middle) * planned.machine.price, votes * played.answers * price),
    )


def gpus_of(planned: Planned) -> float:
    """GPUs that the run reserves."""
    config = planned.config
    if config.runtime == "inline":
        return 1.0 if config.device == "cuda" else 0.0
    compute = Compute(device=config.device)
    return total(needs_of(config.learner, config.sampler, config.placement, compute, config.needs_posterior))[1]


@dataclass(frozen=True)
class Memory:
    """Bytes of one part on its GPU, and the share of that GPU which is the part's."""

    part: str
    bytes: float
    share: float = 1.0

    def fits(self, gpu: Gpu) -> bool:
        """Whether they are there."""
        return self.bytes <= self.share * gpu.memory


def memory(planned: Planned) -> list[Memory]:
    """What each part takes of a GPU: weights, what learning a micro-batch keeps for the backward pass, and what vLLM
    reserves. Empty without GPUs or without the policy's shape."""
    config, shape, learner, gpu = planned.config, planned.shape, planned.config.learner, planned.machine.gpu
    if gpu is None or shape is None or config.device != "cuda":
        return []
    tokens = 2 * learner.micro_batch * planned.row_tokens
    kept = tokens * (_ACTIVATION_BYTES * shape.layers * shape.width + _LOGIT_BYTES * shape.vocabulary)
    if learner.lora is not None:
        weights = 2 * shape.weights
    else:  # policy and reference on every rank; gradients and AdamW's state are shared by the ranks from ZeRO 2 on
        weights = shape.weights * (4 + 16 / (learner.ranks if learner.zero_stage >= 2 else 1))
    halves = config.sampler.weight_transfer == "ipc"
    reserved = max(2 * shape.weights, config.sampler.gpu_memory_share * gpu.memory)
    found = [
        Memory("learner", weights + kept, 0.5 if halves else config.placement.learner_gpus),
        Memory("sampler", reserved, 0.5 if halves else config.placement.sampler_gpus),
    ]
    if config.needs_posterior and config.posterior.features in ("policy", "text"):
        batch = config.posterior.feature_batch * planned.row_tokens
        found.append(Memory("posterior", 2 * shape.weights + 4 * batch * shape.width, config.placement.posterior_gpus))
    return found if config.runtime == "ray" else [Memory("all parts", sum(one.bytes for one in found))]


def layouts(planned: Planned) -> list[tuple[list[str], Estimate]]:
    """The settings of samplers, ranks and sampling ahead on the front of hours against dollars, the fastest first;
    only those that the GPUs hold. Of many, the ends and the middle.

    Raises:
        UserError: as ``modelled`` does.
    """
    found = [(settings, estimate(changed, modelled(changed), plays=1)) for settings, changed in _variants(planned)]
    found.sort(key=lambda layout: (layout[1].hours[0], sum(layout[1].dollars)))
    front: list[tuple[list[str], Estimate]] = []
    for settings, one in found:
        if not front or sum(one.dollars) < sum(front[-1][1].dollars):
            front.append((settings, one))
    return front if len(front) <= 3 else [front[0], front[len(front) // 2], front[-1]]


def _variants(planned: Planned) -> Iterator[tuple[list[str], Planned]]:
    """What the GPUs hold, with the largest micro-batch that their memory does."""
    oracle, learner, sampler = planned.config.oracle, planned.config.learner, planned.config.sampler
    gpu, most = planned.machine.gpu, planned.machine.gpus * planned.machine.nodes
    waits = not isinstance(oracle, RemoteOracleConfig) or oracle.wait
    micro_batches = [learner.micro_batch // 2**step for step in range(learner.micro_batch.bit_length())]
    for ranks, actors, ahead in product(_RANKS, _SAMPLERS, (0, 1) if waits else (sampler.ahead,)):
        stale = max(ahead, learner.max_staleness)
        for micro in micro_batches:
            changes = {
                "runtime": "ray",
                "learner": {"ranks": ranks, "engine": "deepspeed", "max_staleness": stale, "micro_batch": micro},
                "sampler": {"actors": actors, "ahead": ahead},
            }
            try:
                settings, changed = _changed(planned, changes)
            except ValidationError:
                break  # it forbids so many samplers or ranks
            if gpus_of(changed) > most:
                break
            if gpu is not None and all(one.fits(gpu) for one in memory(changed)):
                yield settings, changed
                break


def _changed(planned: Planned, changes: dict[str, Any]) -> tuple[list[str], Planned]:
    tree = planned.config.model_dump()
    there = flat(tree)
    for section, values in changes.items():
        tree[section] = tree[section] | values if isinstance(values, dict) else values
    settings = [f"{key}={value}" for key, value in flat(changes).items() if there[key] != value]
    return settings, replace(planned, config=RunConfig.model_validate(tree))
