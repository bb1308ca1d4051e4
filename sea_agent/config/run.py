"""The configuration of a run, and the checks across its sections."""

from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from sea_agent.config.live import LiveConfig
from sea_agent.config.oracle import OracleConfig, RemoteOracleConfig
from sea_agent.config.parts import (
    BLIND_RULES,
    BudgetConfig,
    CheckpointConfig,
    EvaluationConfig,
    ImaginationConfig,
    LearnerConfig,
    MixingConfig,
    PlacementConfig,
    PolicyConfig,
    PosteriorConfig,
    PromptsConfig,
    SamplerConfig,
    SelectionConfig,
    TrackingConfig,
)
from sea_agent.config.section import Section


@dataclass(frozen=True)
class Compute:
    """Settings shared by all parts of a run: seed, device, threads, deadline and Ray address, as in ``RunConfig``."""

    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    deadline_seconds: float = 900.0
    ray_address: str | None = None


class RunConfig(Section):
    """The configuration of a run."""

    seed: NonNegativeInt = 0
    """Seed of every random decision."""
    runtime: Literal["inline", "ray"] = "inline"
    """``inline``: everything in one process. ``ray``: the same classes as Ray actors."""
    ray_address: str | None = None
    """Address of a running Ray cluster. Inside a Ray job it defaults to the cluster of the job; elsewhere the run
    starts and stops a local Ray instance."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device of sampler, learner and feature models."""
    threads: PositiveInt = 1
    """CPU threads per process."""
    deadline_seconds: PositiveFloat = 900.0
    """Longest wait for a reply from an actor, and in live mode for an engine to be ready, in seconds."""
    batch_size: PositiveInt = 128
    """Prompts per round, with one duel each."""
    policy: PolicyConfig
    """The language model to align."""
    prompts: PromptsConfig = PromptsConfig()
    """Training prompts."""
    sampler: SamplerConfig = SamplerConfig()
    """How responses are sampled."""
    selection: SelectionConfig = SelectionConfig()
    """Which pairs of candidates become duels."""
    posterior: PosteriorConfig = PosteriorConfig()
    """The Bayesian reward posterior."""
    mixing: MixingConfig = MixingConfig()
    """Which duels the posterior labels."""
    imagination: ImaginationConfig = ImaginationConfig()
    """Imagined rounds: policy updates without the oracle."""
    oracle: OracleConfig
    """Who answers duels."""
    learner: LearnerConfig = LearnerConfig()
    """How the policy is trained."""
    budget: BudgetConfig
    """When the run ends."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints, from which an interrupted run resumes."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How the policy is evaluated."""
    placement: PlacementConfig = PlacementConfig()
    """How actors share GPUs."""
    tracking: TrackingConfig = TrackingConfig()
    """Trackers that receive the metrics."""
    live: LiveConfig | None = None
    """Live mode (``sea-agent live``): the users of an endpoint are the oracle."""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "RunConfig":
        if self.runtime == "inline":
            for key, count in (("learner.ranks", self.learner.ranks), ("sampler.actors", self.sampler.actors)):
                if count > 1:
                    raise ValueError(f"{key}={count} needs runtime=ray: an inline run has one of each part")
        if self.learner.ranks > 1 and self.placement.learner_gpus < 1.0:
            raise ValueError("placement.learner_gpus below 1 needs learner.ranks=1: NCCL needs one GPU per rank")
        _check_candidates(self.sampler, self.selection, self.imagination, self.runtime)
        self._check_weight_transfer()
        if self.selection.rule == "apl" and self.learner.loss == "simpo":
            raise ValueError("selection.rule=apl needs a learner.loss with a reference; simpo has none")
        if isinstance(self.oracle, RemoteOracleConfig) and not self.oracle.wait:
            if self.learner.max_staleness <= self.sampler.ahead:
                raise ValueError(
                    f"oracle.wait=false needs learner.max_staleness above sampler.ahead={self.sampler.ahead}: answers "
                    "arrive in later rounds"
                )
            if self.learner.optimism != "none":
                raise ValueError("oracle.wait=false needs learner.optimism=none: it uses the round's own responses")
        if self.sampler.ahead > self.learner.max_staleness:
            raise ValueError(
                f"sampler.ahead={self.sampler.ahead} needs learner.max_staleness={self.sampler.ahead} or more: the "
                "responses are that many weight versions old when the policy trains on them"
            )
        if self.learner.optimism == "xpo" and self.sampler.reference_candidates == 0:
            raise ValueError("learner.optimism=xpo needs sampler.reference_candidates: its term is defined on them")
        return self

    @model_validator(mode="after")
    def _imported_preferences_have_a_posterior(self) -> "RunConfig":
        if self.posterior.preferences_path is not None and not self.needs_posterior:
            raise ValueError(
                f"posterior.preferences_path has no effect: with selection.rule={self.selection.rule} no decision "
                "uses the posterior; remove it, or set a rule, mixing or imagination that uses the posterior"
            )
        return self

    @model_validator(mode="after")
    def _the_encoder_is_used(self) -> "RunConfig":
        features = self.posterior.features
        if self.needs_posterior and self.posterior.encoder_path is not None and features not in ("encoder", "text"):
            raise ValueError(
                f"posterior.encoder_path has no effect with posterior.features={features}; set it to encoder, or to "
                "text for token features beside the encoder's, or remove posterior.encoder_path"
            )
        return self

    @model_validator(mode="after")
    def _the_control_has_a_world(self) -> "RunConfig":
        if self.posterior.features == "reward" and self.oracle.kind != "world":
            raise ValueError("posterior.features=reward needs oracle.kind=world: it is a control for built-in worlds")
        return self

    @model_validator(mode="after")
    def _live_mode_is_whole(self) -> "RunConfig":
        if not self.is_live:
            if not self.prompts.path:
                raise ValueError("prompts.path is missing; name the training prompts")
            if self.budget.oracle_queries is None:
                raise ValueError("budget.oracle_queries=null needs oracle.kind=live: any other run has to end")
            return self
        if self.live is None:
            raise ValueError("oracle.kind=live needs the section live; `live: {}` takes its defaults")
        for key, value, needed in (
            ("sampler.ahead", self.sampler.ahead, 0),
            ("sampler.weight_transfer", self.sampler.weight_transfer, "object_store"),
            ("selection.prompt_pool", self.selection.prompt_pool, 1),
            ("mixing.oracle_share", self.mixing.oracle_share, 1.0),
        ):
            if value != needed:
                raise ValueError(f"oracle.kind=live needs {key}={needed}, not {value}: users choose prompts and times")
        if not self.needs_posterior:
            raise ValueError(f"oracle.kind=live needs a rule that uses the posterior, not {self.selection.rule}")
        if self.budget.oracle_queries is None and self.learner.schedule == "cosine":
            raise ValueError("learner.schedule=cosine ends with the budget, and budget.oracle_queries=null has no end")
        return self

    def _check_weight_transfer(self) -> None:
        way = self.sampler.weight_transfer
        if way == "object_store":
            return
        for key, value, needed in (
            ("device", self.device, "cuda"),
            ("sampler.backend", self.sampler.backend, "vllm"),
            ("runtime", self.runtime, "ray"),
        ):
            if value != needed:
                raise ValueError(
                    f"sampler.weight_transfer={way} needs {key}={needed}, not {value}: it copies weights from the GPU "
                    "of one process to vLLM in another; object_store works everywhere"
                )
        if way == "ipc":
            for key, count in (("sampler.actors", self.sampler.actors), ("learner.ranks", self.learner.ranks)):
                if count > 1:
                    raise ValueError(
                        f"sampler.weight_transfer=ipc needs {key}=1, not {count}: one sampler shares a GPU with the "
                        "learner; use nccl for several GPUs"
                    )

    @property
    def compute(self) -> Compute:
        """The settings that all parts share."""
        return Compute(self.seed, self.device, self.threads, self.deadline_seconds, self.ray_address)

    @property
    def is_live(self) -> bool:
        """Whether the users of live mode answer."""
        return self.oracle.kind == "live"

    @property
    def needs_posterior(self) -> bool:
        """Whether any decision of the run uses the reward posterior."""
        asked = self.selection.rule not in BLIND_RULES or self.selection.prompt_choice == "information"
        labels = self.mixing.oracle_share < 1.0 or self.imagination.rounds > 0
        return asked or labels or self.evaluation.best_of > 1


def _check_candidates(
    sampler: SamplerConfig, selection: SelectionConfig, imagination: ImaginationConfig, runtime: str
) -> None:
    frozen, count = sampler.reference_candidates, sampler.candidates
    for key, of in (("sampler.candidates", count), ("imagination.candidates", imagination.candidates)):
        if of is not None and frozen > of:
            raise ValueError(f"sampler.reference_candidates={frozen} is more than {key}={of}")
    if selection.prompt_choice == "information" and selection.prompt_pool == 1:
        raise ValueError("selection.prompt_choice has nothing to choose from: set selection.prompt_pool above 1")
    if selection.prompt_pool > 1 and selection.prompt_choice == "entropy" and frozen == count:
        raise ValueError("selection.prompt_pool needs samples of the policy: lower sampler.reference_candidates")
    if frozen and sampler.backend == "vllm" and runtime == "inline":
        raise ValueError("sampler.reference_candidates needs runtime=ray with vllm: a process can hold one engine only")
