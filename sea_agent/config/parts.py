"""The sections of a run's configuration. The docstring of a field gives its meaning and unit."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from sea_agent.config.oracle import FeedbackServiceOracleConfig, LiveOracleConfig, LlmJudgeOracleConfig, OracleConfig
from sea_agent.config.section import Section
from sea_agent.plugins import is_own

Share = Annotated[float, Field(gt=0.0, le=1.0)]
_NEVER = 2**53

RULES = ("sea_ee", "sea_bai", "passive", "uniform", "uncertainty", "information", "best_worst", "apl")
"""The built-in selection rules."""
BLIND_RULES = ("passive", "uniform", "apl")
"""Those that do not look at the posterior."""
LOSSES = ("dpo", "ipo", "slic", "simpo", "rpo")
"""The built-in preference losses."""
FEATURES = ("policy", "encoder", "text", "reward")
"""The built-in features of the posterior."""


def _built_in_or_own(names: tuple[str, ...]) -> Any:
    """Accepts one of the names, or the place of a user's own function."""

    def check(name: str) -> str:
        if name not in names and not is_own(name):
            raise ValueError(f"expected {', '.join(names)}, or path/to/file.py:name for one of your own")
        return name

    return AfterValidator(check)


class PolicyConfig(Section):
    """The language model to align."""

    path: str
    """A Hugging Face model directory, a hub name, or the policy of a built-in world: ``world://lexicon/policy``."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the weights in sampler and learner. Use float32 on CPUs and bfloat16 on GPUs."""


class PromptsConfig(Section):
    """The training prompts."""

    path: str = ""
    """A ``.jsonl`` or ``.parquet`` file, a Hugging Face dataset name, or ``world://lexicon/prompts.jsonl``. Only
    ``oracle.kind: live`` does without: its prompts are what users ask."""
    field: str = "prompt"
    """Column of the prompt: plain text or a list of chat messages ``{role, content}``."""
    subset: str | None = None
    """Subset (configuration) of a Hugging Face dataset that has several; files have none."""
    split: str = "train"
    """Split of a Hugging Face dataset; unused for files."""
    shuffle: bool = True
    """Shuffle the prompts with the seed in every epoch; otherwise keep the file order."""


class SamplerConfig(Section):
    """How responses are sampled."""

    backend: Literal["hf", "vllm"] = "hf"
    """``hf``: transformers, batched with a KV cache. ``vllm``: vLLM, on GPU or CPU."""
    actors: PositiveInt = 1
    """Number of sampler actors (``runtime: ray``). It changes the speed, not the responses."""
    candidates: Annotated[int, Field(ge=2)] = 20
    """Responses sampled per prompt (M)."""
    reference_candidates: NonNegativeInt = 0
    """How many of ``candidates`` the frozen reference samples; all of them is offline DPO."""
    temperature: PositiveFloat = 0.7
    """Sampling temperature."""
    max_new_tokens: PositiveInt = 64
    """Longest response, in tokens."""
    ahead: NonNegativeInt = 0
    """Rounds sampled in advance while the policy trains on earlier rounds (``runtime: ray``). Each makes the responses
    one weight version older; ``learner.max_staleness`` must allow that."""
    chunk: PositiveInt = 160
    """Responses per sampling call. The chunks are the same for any number of actors."""
    prefix_caching: bool = False
    """vLLM: share the KV cache of a prompt between its candidates. This is faster for long prompts, but the last bits
    of a log-probability then depend on earlier requests, so two runs with one seed may differ."""
    kv_cache_gb: PositiveFloat = 1.0
    """vLLM on CPU: memory for the KV cache, in GiB."""
    gpu_memory_share: Share = 0.4
    """vLLM on GPU: fraction of the GPU memory it may use."""
    weight_transfer: Literal["object_store", "nccl", "ipc"] = "object_store"
    """How new weights reach the samplers. ``object_store``: through CPU memory; works everywhere. ``nccl``: from the
    learner's GPU to the GPUs of vLLM samplers. ``ipc``: to a single vLLM sampler on the learner's GPU."""


class SelectionConfig(Section):
    """Which prompts and which pair of their candidates become duels."""

    rule: Annotated[str, Field(max_length=200), _built_in_or_own(RULES)] = "sea_ee"
    """``sea_ee``: the best candidates of two Thompson draws (exploration and exploitation). ``sea_bai``: the best of
    one Thompson draw and its least certain opponent (best-arm identification). ``passive``: the first two distinct
    samples. ``uniform``: two at random. ``uncertainty``: the least certain pair. ``information``: the pair with the
    largest expected information gain about the reward. ``best_worst``: best and worst of one draw. ``apl``: the
    largest difference of the policy's implicit rewards. Your own rule: ``path/to/file.py:function`` or
    ``module:function``, from (rewards_S_P_M, valid_P_M, generator) to pairs_P_2."""
    variance: Literal["probability", "difference"] = "probability"
    """``sea_bai``, ``uncertainty``: measure uncertainty by the posterior variance of the preference probability or of
    the reward difference."""
    prompt_pool: PositiveInt = 1
    """In a round that asks, sample candidates for ``prompt_pool`` × ``batch_size`` prompts and ask about the
    ``batch_size`` that ``prompt_choice`` prefers."""
    prompt_choice: Literal["entropy", "information"] = "entropy"
    """``entropy``: prompts with the highest predictive entropy of the policy. ``information``: those whose duels tell
    the posterior most when asked together; as far as it is not trusted, the first ones."""


class EnsembleConfig(Section):
    """Reward ensemble: MLP heads on frozen features (arXiv 2411.01493, section 4.2)."""

    hidden: PositiveInt = 128
    """Width of the two hidden layers."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate of Adam."""
    weight_decay: NonNegativeFloat = 5e-5
    """Decoupled weight decay."""
    anchor: NonNegativeFloat = 0.5
    """Strength λ of the regularisation of each head towards its initial weights, in units of the prior precision of
    the layer. 1 is the exact Gaussian prior of anchored ensembles; 0 turns it off."""
    minibatch: PositiveInt = 128
    """Duels per minibatch, drawn uniformly from all labelled duels."""
    minibatches: PositiveInt = 5
    """Optimiser steps after each round of labels (m)."""
    bootstrap: bool = False
    """Online bootstrap: each head weights each label by its own Poisson(1) draw."""
    prior_scale: NonNegativeFloat = 0.0
    """Scale of a fixed random network added to each head (randomised prior functions); 0 turns it off."""


class LaplaceConfig(Section):
    """Bayesian logistic regression on frozen features: Gaussian prior, Laplace approximation at the mode."""

    prior_deviation: PositiveFloat | None = None
    """Prior standard deviation, in logits, of the reward that each block of standardised features contributes. By
    default the evidence chooses one for each block."""


class PosteriorConfig(Section):
    """The Bayesian reward posterior."""

    family: Literal["ensemble", "laplace"] = "ensemble"
    """``ensemble``: K MLP heads. ``laplace``: a linear model with a Gaussian posterior."""
    members: Annotated[int, Field(ge=2)] = 20
    """Heads of the ensemble, or posterior draws per prompt for ``laplace`` (K)."""
    features: Annotated[str, _built_in_or_own(FEATURES)] = "policy"
    """Input of the posterior. ``policy``: hidden states of the frozen reference policy. ``encoder``: hidden states of
    ``encoder_path``. ``text``: token features of the response and the prompt together with hidden states and
    log-probabilities of the reference policy, plus ``encoder_path`` if given. ``reward``: the hidden reward of a
    built-in world, as a control. Your own: ``path/to/file.py:name`` or ``module:name``, a function or class that maps a
    list of (prompt, response) texts to features_N_D; they are standardised."""
    encoder_path: str | None = None
    """Hugging Face encoder directory, or ``world://lexicon/encoder``. It encodes prompt and response as a pair."""
    prior: tuple[str, ...] = ()
    """Scores of a response from elsewhere that the posterior begins with: a Hugging Face reward model; your own
    ``path/to/file.py:function`` or ``module:function``, from a list of (prompt, response) texts to a number for each,
    higher is better; or a scorer of a built-in world, ``world://lexicon/judge``. The posterior expects each to be
    right; the labels tell how far. Needs ``family: laplace``."""
    people: Literal["pooled", "shared"] = "pooled"
    """``pooled``: everybody's answers are one person's. ``shared``: people are told apart by annotator. They share a
    part of their taste, differ along ``axes`` of it, and have a part of their own, as far as the answers say. Needs
    ``family: laplace``."""
    axes: Annotated[int, Field(ge=0, le=16)] = 3
    """Along which the tastes of people may differ."""
    feature_batch: PositiveInt = 256
    """Sequences per forward pass of the feature model."""
    ensemble: EnsembleConfig = EnsembleConfig()
    """Settings of ``family: ensemble``."""
    laplace: LaplaceConfig = LaplaceConfig()
    """Settings of ``family: laplace``."""
    preferences_path: str | None = None
    """A ``.jsonl`` or ``.parquet`` file of existing preferences with ``prompt``, ``chosen``, ``rejected`` and,
    optionally, ``weight`` and ``annotator``. The posterior is trained on them before the first round. They do not
    count as oracle queries, and the policy is not trained on them."""

    @model_validator(mode="after")
    def _encoder_has_a_path(self) -> "PosteriorConfig":
        if self.features == "encoder" and self.encoder_path is None:
            raise ValueError("posterior.features=encoder needs posterior.encoder_path, an encoder directory")
        return self

    @model_validator(mode="after")
    def _a_prior_has_a_mean(self) -> "PosteriorConfig":
        if self.prior and self.family != "laplace":
            raise ValueError("posterior.prior needs posterior.family=laplace: heads cannot be told what to expect")
        return self

    @model_validator(mode="after")
    def _people_have_covariances(self) -> "PosteriorConfig":
        if self.people == "shared" and self.family != "laplace":
            raise ValueError("posterior.people=shared needs posterior.family=laplace: heads do not tell people apart")
        return self


class MixingConfig(Section):
    """Mixed preference learning: the posterior labels some of the duels instead of the oracle."""

    oracle_share: Share = 1.0
    """Share γ of duels that the oracle labels after ``burn_in``; the posterior labels the rest."""
    burn_in: NonNegativeInt = 0
    """Oracle labels before the posterior may label duels."""
    pair: Literal["duel", "best_worst"] = "duel"
    """Pair that the posterior labels: the selected duel, or the best and worst candidate under one draw."""


class ImaginationConfig(Section):
    """Imagined rounds: policy updates on fresh responses that the posterior labels, without asking the oracle."""

    rounds: NonNegativeInt = 0
    """Imagined rounds after each round that asks the oracle; 0 turns them off."""
    batches: PositiveInt = 1
    """Optimiser steps of an imagined round, each on its part of the pairs. Sampling costs more than learning: fewer
    rounds of more steps save it."""
    start: NonNegativeInt = 32
    """Oracle labels before the first imagined round."""
    max_kl: PositiveFloat | None = None
    """Divergence from the initial policy, in nats per response. Beyond it nothing is imagined and the oracle is asked
    about the policy's own responses, as in passive online DPO."""
    candidates: Annotated[int, Field(ge=2)] | None = None
    """Responses per prompt in an imagined round, ``sampler.reference_candidates`` of them from the reference. Defaults
    to ``sampler.candidates``. Rounds that ask are rare, so they can afford more candidates."""


class LoraConfig(Section):
    """Low-rank adapters (peft). Published weights are merged copies; the base weights never change."""

    rank: PositiveInt = 16
    """Rank of the adapters."""
    alpha: PositiveFloat = 32.0
    """Scale: the adapters are multiplied by alpha / rank."""
    targets: str | tuple[str, ...] = "all-linear"
    """Modules to adapt, as in peft's ``target_modules``."""


class LearnerConfig(Section):
    """How the policy is trained on preferences."""

    engine: Literal["torch", "deepspeed"] = "torch"
    """``torch``: one process. ``deepspeed``: ZeRO over ``ranks`` processes."""
    ranks: PositiveInt = 1
    """Learner processes. More than one needs ``engine: deepspeed`` and ``runtime: ray``."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage."""
    loss: Annotated[str, _built_in_or_own(LOSSES)] = "dpo"
    """Preference loss; formulas in ``learner/losses.py``. Your own: ``path/to/file.py:function`` or
    ``module:function``, from ``learner.losses.Pairs`` (and β) to one value per pair."""
    beta: PositiveFloat = 0.1
    """β of the loss: how strongly it keeps the policy close to the reference."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """DPO: label smoothing ε, the assumed share of flipped labels."""
    ipo_length_average: bool = False
    """IPO: average log-probabilities over tokens instead of summing them."""
    simpo_margin: NonNegativeFloat = 1.0
    """SimPO: target margin γ."""
    rpo_nll_weight: NonNegativeFloat = 0.2
    """RPO: weight η of the chosen response's negative log-likelihood per token."""
    optimism: Literal["none", "xpo", "selm"] = "none"
    """Exploration term added to the loss. ``xpo``: α log π(ỹ) with ỹ a response of the reference. ``selm``:
    αβ (log π(ỹ) − log π_ref(ỹ)) with ỹ the greedy response of the policy before the round."""
    optimism_weight: NonNegativeFloat = 5e-6
    """Weight α of the exploration term."""
    learning_rate: PositiveFloat = 5e-7
    """Peak learning rate of AdamW."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear learning-rate warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning-rate schedule after warm-up; ``cosine`` decays to zero at the end of the budget."""
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """β₁ and β₂ of AdamW."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay of AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Global gradient norm above which gradients are clipped."""
    steps_per_round: NonNegativeInt = 1
    """Optimiser steps per round of preferences; 0 freezes the policy, so that only the posterior learns."""
    micro_batch: PositiveInt = 64
    """Preference pairs per forward pass; gradients are accumulated over passes."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of all weights."""
    max_staleness: NonNegativeInt = 0
    """Rounds that ask by which a response may lag behind the policy; imagined rounds between them do not count. The
    policy learns from no older one."""
    max_logprob_gap: PositiveFloat | None = None
    """Largest mean absolute difference, in nats per token, between the log-probabilities of sampler and learner. The
    run stops above it. Defaults to 0.0005 for ``policy.dtype: float32`` and 0.05 for ``bfloat16``, both well above
    rounding."""

    def largest_gap(self, dtype: str) -> float:
        """``max_logprob_gap``, or its default for a policy of this dtype."""
        if self.max_logprob_gap is not None:
            return self.max_logprob_gap
        return 5e-4 if dtype == "float32" else 0.05

    @model_validator(mode="after")
    def _settings_fit_together(self) -> "LearnerConfig":
        if self.ranks > 1 and self.engine != "deepspeed":
            raise ValueError("learner.ranks above 1 needs learner.engine=deepspeed")
        if self.optimism == "selm" and self.loss == "simpo":
            raise ValueError("learner.optimism=selm needs a learner.loss with a reference; simpo has none")
        return self


class BudgetConfig(Section):
    """When the run ends."""

    oracle_queries: PositiveInt | None
    """Oracle answers that the run may use. Evaluation is counted separately and does not use this budget. null, which
    needs ``oracle.kind: live``: the run never ends."""

    @property
    def limit(self) -> int:
        """Answers after which the run ends; more than any run comes to where it never ends."""
        return _NEVER if self.oracle_queries is None else self.oracle_queries


class CheckpointConfig(Section):
    """Checkpoints, from which an interrupted run resumes."""

    every: PositiveInt = 20
    """Rounds between checkpoints, including imagined rounds. A resumed run recomputes the rounds after its checkpoint
    from the ledger, without asking the oracle again."""
    keep: PositiveInt = 2
    """How many of the newest checkpoints to keep."""
    keep_best: bool = False
    """Also keep the checkpoint with the highest win rate."""


class EvaluationConfig(Section):
    """Win rate of the policy against the reference on held-out prompts."""

    prompts_path: str | None = None
    """Held-out prompts, in the formats of ``prompts.path``. Without it nothing is evaluated."""
    subset: str | None = None
    """Subset (configuration) of a Hugging Face dataset that has several; files have none."""
    split: str = "test"
    """Split of a Hugging Face dataset; unused for files."""
    prompts: PositiveInt = 256
    """Most held-out prompts to use, taken from the start of the file."""
    every: PositiveInt = 64
    """Oracle queries between evaluations. The start and the end of the run are always evaluated."""
    temperature: PositiveFloat | None = None
    """Sampling temperature of policy and reference; defaults to ``sampler.temperature``."""
    judge: OracleConfig | None = None
    """An independent judge, reported next to the training oracle."""
    best_of: PositiveInt = 1
    """Best-of-N inference: if above 1, also evaluate the response with the highest posterior mean among N samples."""

    @model_validator(mode="after")
    def _the_judge_evaluates(self) -> "EvaluationConfig":
        if isinstance(self.judge, (FeedbackServiceOracleConfig, LiveOracleConfig)):
            raise ValueError(f"judge.kind={self.judge.kind}: people are not asked to evaluate; choose another judge")
        if isinstance(self.judge, LlmJudgeOracleConfig) and not self.judge.evaluates:
            raise ValueError(
                "judge.kind=llm_judge: evaluation with this judge costs money; set judge.evaluates=true to allow it"
            )
        return self


class PlacementConfig(Section):
    """Fraction of a GPU for each actor (``runtime: ray`` with ``device: cuda``). Actors with a fraction below 1 share a
    GPU, whose memory must suffice for all of them."""

    learner_gpus: Share = 1.0
    """GPU fraction of each learner rank. Several ranks need a whole GPU each."""
    sampler_gpus: Share = 1.0
    """GPU fraction of each sampler, including those of the reference and the engines of live mode on a cluster; see
    ``sampler.gpu_memory_share``."""
    posterior_gpus: Share = 1.0
    """GPU fraction of the posterior's features, if the run uses a posterior."""


class TrackingConfig(Section):
    """Trackers that receive the metrics of every round, in addition to ``metrics.jsonl``."""

    to: tuple[Literal["tensorboard", "wandb", "trackio", "prometheus"], ...] = ()
    """Trackers to use. All but ``prometheus`` need the package of the same name: ``sea-agent[trackers]``."""
    project: str = "sea-agent"
    """Project name for ``wandb`` and ``trackio``."""
    prometheus_host: str = "127.0.0.1"
    """Address of the endpoint that Prometheus scrapes. Anyone who can reach it can read the metrics."""
    prometheus_port: Annotated[int, Field(ge=0, le=65535)] = 9464
    """Port of the endpoint that Prometheus scrapes."""
