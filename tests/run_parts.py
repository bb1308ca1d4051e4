"""The parts of a run as its whole configuration asks for them, for tests that need one of them alone."""

from functools import partial

from actors.learners import LearnerGroup, LearnerRank
from actors.placement import Need, needs_of
from actors.runtime import Runtime
from actors.samplers import SamplerPool
from sea_agent.config import RunConfig, WorldOracleConfig
from sea_agent.features import Features, make_features
from sea_agent.loop.selector import Selector


def actor_needs(config: RunConfig) -> list[Need]:
    return needs_of(config.learner, config.sampler, config.placement, config.compute, config.needs_posterior)


def sampler_pool(runtime: Runtime, config: RunConfig, *, reference: bool = False) -> SamplerPool:
    return SamplerPool(runtime, config.policy, config.sampler, config.compute, reference=reference)


def learner_group(runtime: Runtime, config: RunConfig, *, total_steps: int) -> LearnerGroup:
    return LearnerGroup(
        runtime, config.policy, config.learner, config.compute, total_steps=total_steps, samplers=config.sampler
    )


def learner_rank(config: RunConfig, *, total_steps: int, rank: int) -> LearnerRank:
    return LearnerRank(config.policy, config.learner, config.compute, total_steps, config.sampler, rank)


def features(config: RunConfig) -> Features:
    world = config.oracle.world if isinstance(config.oracle, WorldOracleConfig) else None
    return make_features(config.posterior, config.policy, world, config.compute)


def selector(config: RunConfig) -> Selector:
    return Selector(
        config.selection,
        config.posterior,
        config.mixing,
        config.compute,
        batch_size=config.batch_size,
        make_features=partial(features, config) if config.needs_posterior else None,
    )
