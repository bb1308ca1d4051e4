"""Puts the parts of a run together, as its configuration says."""

import math
from collections.abc import Callable
from functools import partial

from actors.learners import LearnerGroup
from actors.runtime import Remote, Runtime
from actors.samplers import SamplerPool
from sea_agent.agent import Agent
from sea_agent.config import ImaginationConfig, MixingConfig, RemoteOracleConfig, RunConfig
from sea_agent.data.imported import KEY, ROUND, ImportedPreferences
from sea_agent.errors import UserError
from sea_agent.loop.candidates import CandidateSource, Source
from sea_agent.loop.evaluation import Evaluator
from sea_agent.loop.open_duels import OpenDuels
from sea_agent.loop.stopwatch import Stopwatch
from sea_agent.persistence.ledger import Ledger
from sea_agent.run.preflight import Inputs
from sea_agent.run.session import NOBODY, Watch

MakeSource = Callable[[SamplerPool, SamplerPool | None, Ledger], Source]
"""Of the samplers of the policy, of those of the reference if there are any, and of the ledger."""


def assemble(
    config: RunConfig,
    inputs: Inputs,
    runtime: Runtime,
    ledger: Ledger,
    watch: Watch = NOBODY,
    make_source: MakeSource | None = None,
) -> Agent:
    """The agent of a run, its parts hosted by ``runtime``; ``make_source`` stands in for the prompts of live mode.

    Raises:
        UserError: for a configuration of live mode without it.
    """
    if inputs.prompts is None and make_source is None:
        raise UserError("oracle.kind=live: such a run needs its gateway; start it with `sea-agent live`")
    policy, compute, sampler = config.policy, inputs.compute, config.sampler
    make_pool = partial(SamplerPool, runtime, policy, sampler, compute, longest_prompt=inputs.longest_prompt)
    samplers = make_pool()
    reference = make_pool(reference=True) if sampler.reference_candidates else None
    duels = config.batch_size if inputs.prompts is None else min(config.batch_size, len(inputs.prompts))
    batches = expected_batches(config.budget.limit, duels, config.mixing, config.imagination)
    total_steps = batches * config.learner.steps_per_round
    learner = LearnerGroup(runtime, policy, config.learner, compute, total_steps=total_steps, samplers=sampler)
    selector = runtime.spawn("posterior", inputs.make_selector)
    open_duels = OpenDuels(
        inputs.oracle,
        ledger,
        config.oracle if isinstance(config.oracle, RemoteOracleConfig) else None,
        tell=watch.tell,
        stopping=watch.stopping,
    )
    source: Source
    if inputs.prompts is None:
        assert make_source is not None  # or it was refused
        source = make_source(samplers, reference, ledger)
    else:
        source = CandidateSource(
            sampler,
            inputs.prompts,
            samplers,
            reference,
            batch_size=config.batch_size,
            selection=config.selection,
            imagined_candidates=config.imagination.candidates,
            optimism=config.learner.optimism,
        )
    return Agent(
        config,
        source=source,
        samplers=samplers,
        selector=selector,
        open_duels=open_duels,
        learner=learner,
        evaluator=Evaluator(
            config.evaluation,
            seed=config.seed,
            temperature=sampler.temperature,
            prompts=inputs.heldout,
            samplers=samplers,
            log_ratios=learner.log_ratios,
            oracle=inputs.oracle,
            judge=inputs.judge,
            best=lambda candidates: selector.call("best", candidates).result(),
        ),
        ledger=ledger,
        stopwatch=Stopwatch(runtime.cpu_seconds),
    )


def warm(imported: ImportedPreferences, ledger: Ledger, selector: Remote) -> None:
    """Record imported preferences in the ledger and train the posterior on them, before the first round.

    A run interrupted before its first checkpoint finds them already recorded.

    Raises:
        UserError: they differ from those the run began with.
    """
    duels = ledger.add_duels(imported.duels, ROUND)
    if [duel.id for duel in duels] != [duel.id for duel in imported.duels]:
        raise UserError(f"{KEY}: the file changed since the run began. Restore it, or start a new run.")
    if not ledger.recorded(duels, ROUND):
        ledger.add_verdicts(duels, imported.verdicts, ROUND)
    selector.call("warm", list(zip(duels, imported.verdicts, strict=True)), imported.weights).result()


def expected_batches(budget: int, duels: int, mixing: MixingConfig, imagination: ImaginationConfig) -> int:
    """Batches of preferences, imagined ones included, until ``budget`` answers are spent in rounds of so many duels."""
    asking = _asking_rounds(mixing, budget, duels)
    if imagination.start > budget:
        return asking
    # Imagined rounds follow the round that brings the labels to ``start``, and every later one.
    first = max(1, _asking_rounds(mixing, imagination.start, duels))
    return asking + imagination.rounds * imagination.batches * (asking - first + 1)


def _asking_rounds(mixing: MixingConfig, labels: int, duels: int) -> int:
    """Rounds of ``duels`` duels until the oracle has given so many labels."""
    full = math.ceil((labels if mixing.oracle_share >= 1.0 else min(mixing.burn_in, labels)) / duels)
    left = max(0, labels - full * duels)
    return full + math.ceil(left / (duels * mixing.oracle_share))
