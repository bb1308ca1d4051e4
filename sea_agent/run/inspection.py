"""Looking at a finished run again: its policy against the reference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.learners import LearnerGroup
from actors.runtime import InlineRuntime
from actors.samplers import SamplerPool
from sea_agent.config import RunConfig
from sea_agent.config.files import load_config
from sea_agent.errors import UserError
from sea_agent.loop.evaluation import Evaluator
from sea_agent.pretrained import use_threads
from sea_agent.run.preflight import Inputs, check


def evaluate_run(run: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Figures of the run's policy against its reference on the held-out prompts."""
    config, trained, inputs = _open(run, overrides)
    if inputs.heldout is None:
        raise UserError(f"{run}: has no held-out prompts; give --set evaluation.prompts_path=FILE")
    runtime = InlineRuntime()
    reference, policy = (
        LearnerGroup(runtime, of.policy, of.learner, of.compute, total_steps=1, samplers=of.sampler)
        for of in (config, trained)
    )
    longest = inputs.longest_prompt
    samplers = SamplerPool(runtime, config.policy, config.sampler, config.compute, longest_prompt=longest)
    evaluator = Evaluator(
        config.evaluation,
        seed=config.seed,
        temperature=config.sampler.temperature,
        prompts=inputs.heldout,
        samplers=samplers,
        log_ratios=lambda rows: [a - b for a, b in zip(policy.logprobs(rows), reference.logprobs(rows), strict=True)],
        oracle=inputs.oracle,
        judge=inputs.judge,
    )
    evaluator.fix_reference()
    samplers.load_weights(*policy.weights())
    return evaluator.evaluate(0).measured()


def sample_run(run: Path, count: int) -> list[dict[str, str]]:
    """Prompts with one response of the reference and one of the run's policy, sampled with equal randomness."""
    config, trained, inputs = _open(run, ())
    source = inputs.heldout or inputs.prompts
    if source is None:
        raise UserError(f"{run}: is of live mode, whose prompts are its users'; see the summary of the service")
    prompts = source.first(count)
    before, after = (
        SamplerPool(
            InlineRuntime(), of.policy, of.sampler, of.compute, longest_prompt=inputs.longest_prompt
        ).candidates(prompts, 1, of.sampler.temperature, "look")
        for of in (config, trained)
    )
    return [
        {"prompt": old.prompt.text, "before": old.responses[0].text, "after": new.responses[0].text}
        for old, new in zip(before, after, strict=True)
    ]


def _open(run: Path, overrides: Sequence[str]) -> tuple[RunConfig, RunConfig, Inputs]:
    if not (run / "config.yaml").is_file() or not (run / "policy").is_dir():
        raise UserError(f"{run}: not the directory of a finished run (config.yaml and policy/ are expected in it)")
    one_of_each = ["runtime=inline", "sampler.actors=1", "learner.engine=torch", "learner.ranks=1"]
    one_of_each += ["sampler.weight_transfer=object_store"]
    nothing_learns = ["posterior.preferences_path=null"]
    config = load_config(str(run / "config.yaml"), [*one_of_each, *nothing_learns, *overrides])
    use_threads(config.threads)
    policy = config.policy.model_copy(update={"path": str(run / "policy")})
    return config, config.model_copy(update={"policy": policy}), check(config)
