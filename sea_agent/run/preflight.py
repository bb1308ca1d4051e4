"""Everything that can be wrong with a configuration is found here, before anything expensive starts."""

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from actors.cluster import nodes_at
from actors.placement import Need, Node, engine_needs, needs_of, require_room
from learner.lora import check_adapters
from learner.losses import PreferenceLoss
from oracle import Oracle, make_oracle
from sea_agent.bandit.selection import load_rule
from sea_agent.config import (
    Compute,
    LearnerConfig,
    OracleConfig,
    PosteriorConfig,
    PromptsConfig,
    RewardModelOracleConfig,
    RunConfig,
    SamplerConfig,
    WorldOracleConfig,
)
from sea_agent.data.imported import ImportedPreferences, load_imported
from sea_agent.data.prompts import PromptSource
from sea_agent.errors import UserError
from sea_agent.features import make_features
from sea_agent.features.hidden import EncoderFeatures
from sea_agent.features.own import OwnFeatures
from sea_agent.features.prior import PriorScore
from sea_agent.jobs.inside import where_it_runs
from sea_agent.loop.selector import Selector
from sea_agent.plugins import is_own
from sea_agent.pretrained import end_token_ids, load_tokenizer, longest_input, model_config
from sea_agent.run.tracking import require_packages
from sea_agent.worlds import scorer


@dataclass(frozen=True)
class Inputs:
    """The checked inputs of a run."""

    prompts: PromptSource | None
    """None in live mode, where users bring theirs."""
    heldout: PromptSource | None
    oracle: Oracle
    judge: Oracle | None
    imported: ImportedPreferences | None
    make_selector: Callable[[], Selector]
    """Loads the posterior's features."""
    compute: Compute
    """Where the run computes: inside a Ray job, on its cluster."""
    needs: list[Need]
    """What its actors take of a cluster, or of the GPUs here."""
    engines: list[Need]
    """What the engines of live mode take of a cluster, beside it."""

    @property
    def told_prompts(self) -> str:
        """What is asked, in words."""
        return "the users' prompts" if self.prompts is None else f"{len(self.prompts)} prompts"

    @property
    def longest_prompt(self) -> int | None:
        """Tokens of the longest prompt that the policy answers; None where users bring theirs."""
        if self.prompts is None:
            return None
        return max(source.longest for source in (self.prompts, self.heldout) if source is not None)


def check(config: RunConfig) -> Inputs:
    """Open and try every input of ``config``, before anything is sampled.

    Of the models, a reward model (oracle or judge) and the posterior's encoder are loaded and asked about prompts of
    the run; policy and samplers load theirs when the run starts.

    Raises:
        UserError: naming the place and the remedy of the first problem.
    """
    compute = where_it_runs(config.runtime, config.compute)
    _require_gpu({"oracle": config.oracle, "evaluation.judge": config.evaluation.judge}, compute)
    _require_engines(config.sampler, config.learner)
    needs: list[Need] = []
    engines: list[Need] = []
    if config.runtime == "ray":
        needs = needs_of(config.learner, config.sampler, config.placement, compute, config.needs_posterior)
        engines = engine_needs(0 if config.live is None else config.live.engines, config.placement, compute)
        _require_room([*needs, *engines], compute)
    require_packages(config.tracking)
    _try_own_parts(config)
    tokenizer = load_tokenizer(config.policy.path)
    text_config = model_config(config.policy.path)
    length = longest_input(text_config)
    end_ids = end_token_ids(config.policy.path, tokenizer)
    if config.learner.lora is not None:
        check_adapters(config.policy, config.learner.lora)

    def prompts(section: PromptsConfig, key: str) -> PromptSource:
        return PromptSource(
            section,
            tokenizer,
            context_length=length,
            max_new_tokens=config.sampler.max_new_tokens,
            seed=config.seed,
            key=key,
        )

    heldout = None
    if config.evaluation.prompts_path is not None:
        section = config.prompts.model_copy(
            update={
                "path": config.evaluation.prompts_path,
                "subset": config.evaluation.subset,
                "split": config.evaluation.split,
                "shuffle": False,
            }
        )
        heldout = prompts(section, "evaluation.prompts_path")
    judge = config.evaluation.judge
    training = None if config.is_live else prompts(config.prompts, "prompts.path")
    probe = training or heldout
    if probe is not None and config.needs_posterior and is_own(config.posterior.features):
        OwnFeatures(config.posterior.features).try_on([prompt.text for prompt in probe.first(2)])
    if probe is not None and config.needs_posterior and config.posterior.features in ("text", "encoder"):
        _try_encoder(config.posterior, probe)
    for key, answers, source in (
        ("oracle", config.oracle, training),
        ("oracle", config.oracle, heldout),
        ("evaluation.judge", judge, heldout),
    ):
        if isinstance(answers, WorldOracleConfig) and source is not None:
            _require_world_prompts(key, answers, source)
    imported = None
    if config.posterior.preferences_path is not None:
        imported = load_imported(config.posterior.preferences_path, tokenizer, length, end_ids)
    tokenised: tuple[PromptSource | ImportedPreferences | None, ...] = (training, heldout, imported)
    for rows in tokenised:
        if rows is not None and rows.largest_token >= text_config.vocab_size:
            raise UserError(
                f"policy.path={config.policy.path}: the tokenizer makes token {rows.largest_token}, but the model "
                f"has only {text_config.vocab_size} tokens. Save the tokenizer that belongs to the model beside it."
            )
    asked = [] if training is None else training.telling()
    compared = [] if heldout is None else heldout.telling(config.evaluation.prompts)
    longest = config.sampler.max_new_tokens
    for score in config.posterior.prior if config.needs_posterior else ():
        if asked or compared:
            PriorScore(score).try_on(asked or compared, longest)
    oracle = make_oracle(config.oracle, seed=config.seed, device=config.device)
    if asked:
        oracle.try_on([*asked, *(compared if oracle.evaluates else ())], longest)
    judging = None
    if judge is not None:
        judging = make_oracle(judge, seed=config.seed, device=config.device, key="evaluation.judge")
        if compared:
            judging.try_on(compared, longest)
    world = config.oracle.world if isinstance(config.oracle, WorldOracleConfig) else None
    features = partial(make_features, config.posterior, config.policy, world, compute)
    make_selector = partial(
        Selector,
        config.selection,
        config.posterior,
        config.mixing,
        compute,
        batch_size=config.batch_size,
        make_features=features if config.needs_posterior else None,
    )
    return Inputs(
        prompts=training,
        heldout=heldout,
        oracle=oracle,
        judge=judging,
        imported=imported,
        make_selector=make_selector,
        compute=compute,
        needs=needs,
        engines=engines,
    )


def _try_own_parts(config: RunConfig) -> None:
    """Load the user's own rule and loss, which are tried as they are loaded."""
    load_rule(config.selection.rule)
    loss = PreferenceLoss(config.learner)
    for key, value in (("learner.optimism", config.learner.optimism), ("selection.rule", config.selection.rule)):
        if value in ("selm", "apl") and not loss.uses_reference:
            raise UserError(f"{key}={value} needs a learner.loss with a reference; {config.learner.loss} has none")


def _try_encoder(posterior: PosteriorConfig, prompts: PromptSource) -> None:
    """Load the encoder on the CPU, where it has room beside everything else, and let it read two prompts."""
    if posterior.encoder_path is not None:
        EncoderFeatures(posterior.encoder_path, posterior.feature_batch, "cpu").try_on(prompts.first(2))


def _require_world_prompts(key: str, oracle: WorldOracleConfig, source: PromptSource) -> None:
    """Refuse a world as the oracle of prompts that do not follow its grammar."""
    score = scorer(oracle.world, oracle.scorer)
    try:
        for prompt in source.first(len(source)):
            score(prompt.text, "")
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _require_gpu(oracles: Mapping[str, OracleConfig | None], compute: Compute) -> None:
    if compute.device == "cpu" or torch.cuda.is_available():
        return
    if compute.ray_address is None:
        raise UserError("device=cuda: no GPU is visible here; set device=cpu, or ray_address to a cluster with GPUs")
    for key, oracle in oracles.items():
        if isinstance(oracle, RewardModelOracleConfig):
            raise UserError(
                f"{key}.kind=reward_model computes in the process of the run, and device=cuda, but no GPU is visible "
                "here; start the run on a node with a GPU, or serve the model and ask it with kind=python"
            )


def _require_engines(sampler: SamplerConfig, learner: LearnerConfig) -> None:
    if sampler.backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "sampler.backend=vllm: vLLM is not installed; install the extra for your hardware as the README says, "
            "or set sampler.backend=hf"
        )
    if learner.engine == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise UserError("learner.engine=deepspeed: DeepSpeed is not installed; install it, or set learner.engine=torch")


def _require_room(needs: Sequence[Need], compute: Compute) -> None:
    """Refuse a run that the cluster, or the GPUs of this machine, do not hold."""
    if compute.ray_address is not None:
        require_room(needs, nodes_at(compute.ray_address))
    elif compute.device == "cuda":
        require_room(needs, [Node("this machine", os.cpu_count() or 1, torch.cuda.device_count())])
