"""Everything that can be wrong with a configuration is found here, before anything expensive starts."""

import importlib.util
from dataclasses import dataclass

import torch

from oracle import Oracle, make_oracle
from sea_agent.config import PromptsConfig, RunConfig
from sea_agent.errors import UserError
from sea_agent.imported import ImportedPreferences, load_imported
from sea_agent.job import cluster_address
from sea_agent.models import context_length, load_tokenizer, model_config
from sea_agent.prompts import PromptSource
from sea_agent.tracking import require_packages


@dataclass(frozen=True)
class Inputs:
    """The checked inputs of a run."""

    prompts: PromptSource
    heldout: PromptSource | None
    oracle: Oracle
    judge: Oracle | None
    imported: ImportedPreferences | None


def check(config: RunConfig) -> Inputs:
    """Open every input of ``config``; no model weights are loaded.

    Raises:
        UserError: naming the place and the remedy of the first problem.
    """
    _check_machine(config)
    require_packages(config)
    tokenizer = load_tokenizer(config.policy.path)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"policy.path={config.policy.path}: the tokenizer has no end-of-sequence token, so responses would never "
            "end; set eos_token in its tokenizer_config.json"
        )
    if config.needs_posterior and config.posterior.encoder_path is not None:
        load_tokenizer(config.posterior.encoder_path, key="posterior.encoder_path")
    text_config = model_config(config.policy.path)

    def prompts(section: PromptsConfig, key: str) -> PromptSource:
        return PromptSource(
            section,
            tokenizer,
            context_length=context_length(config.policy.path),
            max_new_tokens=config.sampler.max_new_tokens,
            seed=config.seed,
            key=key,
        )

    heldout = None
    if config.evaluation.prompts_path is not None:
        section = config.prompts.model_copy(
            update={"path": config.evaluation.prompts_path, "split": config.evaluation.split, "shuffle": False}
        )
        heldout = prompts(section, "evaluation.prompts_path")
    judge = config.evaluation.judge
    training = prompts(config.prompts, "prompts.path")
    imported = None
    if config.posterior.preferences_path is not None:
        length = context_length(config.policy.path)
        imported = load_imported(config.posterior.preferences_path, tokenizer, length)
    tokenised: tuple[PromptSource | ImportedPreferences | None, ...] = (training, heldout, imported)
    for source in tokenised:
        if source is not None and source.largest_token >= text_config.vocab_size:
            raise UserError(
                f"policy.path={config.policy.path}: the tokenizer makes token {source.largest_token}, but the model "
                f"has only {text_config.vocab_size} tokens. Save the tokenizer that belongs to the model beside it."
            )
    return Inputs(
        prompts=training,
        heldout=heldout,
        oracle=make_oracle(config.oracle, seed=config.seed, device=config.device),
        judge=None if judge is None else make_oracle(judge, seed=config.seed, device=config.device),
        imported=imported,
    )


def posterior_on_gpu(config: RunConfig) -> bool:
    """Whether the posterior actor computes features on a GPU of its own."""
    return config.device == "cuda" and config.needs_posterior


def _check_machine(config: RunConfig) -> None:
    if config.device == "cuda" and cluster_address(config) is None and not torch.cuda.is_available():
        raise UserError("device=cuda: no GPU is visible here; set device=cpu, or ray_address to a cluster with GPUs")
    if config.device == "cuda" and config.runtime == "ray" and cluster_address(config) is None:
        pools = 2 if config.sampler.reference_candidates else 1
        needed = pools * config.sampler.actors + config.learner.ranks + posterior_on_gpu(config)
        needed -= config.sampler.weight_transfer == "ipc"  # for which sampler and learner share one
        if needed > torch.cuda.device_count():
            raise UserError(
                f"runtime=ray: sampler.actors, learner.ranks and the posterior need {needed} GPUs together, this "
                f"machine has {torch.cuda.device_count()}. Lower the first two, set runtime=inline for one GPU, or "
                "ray_address to a cluster."
            )
    if config.sampler.backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "sampler.backend=vllm: vLLM is not installed; install the extra for your hardware as the README says, "
            "or set sampler.backend=hf"
        )
    if config.learner.engine == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise UserError("learner.engine=deepspeed: DeepSpeed is not installed; install it, or set learner.engine=torch")
