"""The sections of a run's configuration: every field with its unit and meaning."""

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

from sea_agent.config.oracle import FeedbackServiceOracleConfig, LlmJudgeOracleConfig, OracleConfig
from sea_agent.config.section import Section
from sea_agent.plugins import is_own

Share = Annotated[float, Field(gt=0.0, le=1.0)]

RULES = ("sea_ee", "sea_bai", "passive", "uniform", "uncertainty", "information", "best_worst", "apl")
"""The built-in selection rules."""
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
    """The language model that is aligned."""

    path: str
    """A Hugging Face model directory, a hub name, or a file of a built-in world such as ``world://lexicon/policy``."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of sampler and learner weights. float32 on CPUs; bfloat16 on GPUs."""


class PromptsConfig(Section):
    """Where the prompts of the run come from."""

    path: str
    """A ``.jsonl`` or ``.parquet`` file, a Hugging Face dataset name, or ``world://lexicon/prompts.jsonl``."""
    field: str = "prompt"
    """Column that holds the prompt: plain text, or a list of chat messages ``{role, content}``."""
    split: str = "train"
    """Split of a Hugging Face dataset; unused for files."""
    shuffle: bool = True
    """Visit the prompts in a new seeded order every epoch, or in file order."""


class SamplerConfig(Section):
    """How responses are sampled."""

    backend: Literal["hf", "vllm"] = "hf"
    """``hf``: transformers, batched with a KV cache. ``vllm``: vLLM, on GPU or CPU."""
    actors: PositiveInt = 1
    """Number of sampler actors (``runtime: ray``). Changes speed only, never the responses."""
    candidates: Annotated[int, Field(ge=2)] = 20
    """Responses sampled per prompt (M)."""
    reference_candidates: NonNegativeInt = 0
    """Of the candidates, how many the frozen reference policy samples instead of the current one. All: offline."""
    temperature: PositiveFloat = 0.7
    """Sampling temperature."""
    max_new_tokens: PositiveInt = 64
    """Longest response, in tokens."""
    ahead: NonNegativeInt = 0
    """Rounds that are sampled ahead, while the policy still learns from those before them (``runtime: ray``). Their
    responses are as many weight versions older, which ``learner.max_staleness`` must allow."""
    chunk: PositiveInt = 160
    """Responses in one sampling call. Work is cut into the same chunks whatever the number of actors."""
    prefix_caching: bool = False
    """vLLM: share the prompt's KV cache between candidates. Faster for long prompts; the last bits of a
    log-probability then depend on what was sampled before, so two runs of one seed may differ."""
    kv_cache_gb: PositiveFloat = 1.0
    """vLLM on CPU: memory for the KV cache, in GiB."""
    gpu_memory_share: Share = 0.4
    """vLLM on GPU: share of the device's memory it may take."""
    weight_transfer: Literal["object_store", "nccl", "ipc"] = "object_store"
    """How new weights reach the samplers. ``object_store``: through the CPU, anywhere. ``nccl``: from the learner's GPU
    to those of vLLM samplers. ``ipc``: to the one vLLM sampler that shares the learner's GPU."""


class SelectionConfig(Section):
    """Which prompts are asked about, and which pair of candidates is duelled."""

    rule: Annotated[str, Field(max_length=200), _built_in_or_own(RULES)] = "sea_ee"
    """``sea_ee``: two Thompson draws (both responses should be good). ``sea_bai``: a Thompson draw and the opponent
    whose duel with it is least certain. ``passive``: the first two distinct samples. ``uniform``: two at random.
    ``uncertainty``: the least certain pair of all. ``information``: the pair whose label tells most about the reward.
    ``best_worst``: top and bottom of one draw. ``apl``: the largest gap of the policy's implicit rewards. One of your
    own: ``path/to/file.py:function`` or ``module:function``, (rewards_S_P_M, valid_P_M, generator) → pairs_P_2."""
    variance: Literal["probability", "difference"] = "probability"
    """``sea_bai``, ``uncertainty``: least certain is the largest posterior variance of the preference probability, or
    of the reward difference."""
    prompt_pool: PositiveInt = 1
    """Sample the candidates of this many times batch_size prompts, and keep the batch_size prompts with the highest
    predictive entropy of the policy."""


class EnsembleConfig(Section):
    """Reward ensemble: MLP heads on frozen features (arXiv 2411.01493, section 4.2)."""

    hidden: PositiveInt = 128
    """Width of the two hidden layers."""
    learning_rate: PositiveFloat = 1e-3
    """Adam step size."""
    weight_decay: NonNegativeFloat = 5e-5
    """Decoupled weight decay."""
    anchor: NonNegativeFloat = 0.5
    """Strength λ of the pull towards each head's initial weights, in units of the prior precision of its layer:
    1 is the exact Gaussian prior of anchored ensembles, 0 is none."""
    minibatch: PositiveInt = 128
    """Duels in one minibatch, drawn uniformly from all labelled duels."""
    minibatches: PositiveInt = 5
    """Minibatch steps after each round of labels (m)."""
    bootstrap: bool = False
    """Give each head its own Poisson(1) weight for each label, so that heads see different data."""
    prior_scale: NonNegativeFloat = 0.0
    """Scale of a fixed random head added to each trained head (randomised priors); 0 is none."""


class LaplaceConfig(Section):
    """Bayesian logistic regression on frozen features: Gaussian prior, Laplace approximation around the mode."""

    prior_deviation: PositiveFloat | None = None
    """Standard deviation of the prior over rewards of standardised features; chosen by evidence when not given."""


class PosteriorConfig(Section):
    """The Bayesian reward posterior."""

    family: Literal["ensemble", "laplace"] = "ensemble"
    """``ensemble``: K MLP heads. ``laplace``: a linear last layer with a Gaussian posterior."""
    members: Annotated[int, Field(ge=2)] = 20
    """Heads of the ensemble, or posterior draws per prompt of the Laplace family (K)."""
    features: Annotated[str, _built_in_or_own(FEATURES)] = "policy"
    """What the posterior sees. ``policy``: hidden states of the frozen reference policy. ``encoder``: those of
    ``encoder_path``. ``text``: the response's tokens and their relation to the prompt, beside the reference policy's
    view of it, and beside ``encoder_path`` where given. ``reward``: a control, the hidden reward of a built-in
    world. Your own: ``path/to/file.py:name`` or ``module:name``, a function or class that maps a list of (prompt,
    response) texts to features_N_D, a row for each; they are standardised."""
    encoder_path: str | None = None
    """Hugging Face encoder directory, or ``world://lexicon/encoder``. It reads prompt and response as a pair."""
    feature_batch: PositiveInt = 256
    """Sequences in one encoder call."""
    ensemble: EnsembleConfig = EnsembleConfig()
    """Settings of ``family: ensemble``."""
    laplace: LaplaceConfig = LaplaceConfig()
    """Settings of ``family: laplace``."""
    preferences_path: str | None = None
    """A ``.jsonl`` or ``.parquet`` file of preferences that are there already: ``prompt``, ``chosen``, ``rejected``,
    and optionally ``weight`` and ``annotator``. The posterior learns from them before the first round; they are no
    queries of the oracle, and the policy is not trained on them."""

    @model_validator(mode="after")
    def _encoder_has_a_path(self) -> "PosteriorConfig":
        if self.features == "encoder" and self.encoder_path is None:
            raise ValueError("posterior.features=encoder needs posterior.encoder_path, an encoder directory")
        return self


class MixingConfig(Section):
    """Mixed preference learning: some duels are labelled by the posterior instead of the oracle."""

    oracle_share: Share = 1.0
    """Share γ of duels that the oracle labels once ``burn_in`` is over; the posterior labels the others."""
    burn_in: NonNegativeInt = 0
    """Oracle labels before the posterior may label anything."""
    pair: Literal["duel", "best_worst"] = "duel"
    """The pair that the posterior labels: the selected duel, or the top and bottom candidate under one draw."""


class ImaginationConfig(Section):
    """Policy steps between the rounds that ask the oracle, on fresh pairs that the posterior labels."""

    rounds: NonNegativeInt = 0
    """Imagined rounds after each round that asks the oracle; 0 is none."""
    start: NonNegativeInt = 32
    """Oracle labels before the first imagined round."""
    candidates: Annotated[int, Field(ge=2)] | None = None
    """Responses to each prompt of an imagined round, of which ``sampler.reference_candidates`` are the reference's.
    By default as many as ``sampler.candidates``. Rounds that ask are few, so they can afford more to choose from."""


class LoraConfig(Section):
    """Low-rank adapters (peft). Published weights are merged copies; the base is never changed."""

    rank: PositiveInt = 16
    """Rank of the update."""
    alpha: PositiveFloat = 32.0
    """Scale: the update is multiplied by alpha / rank."""
    targets: str | tuple[str, ...] = "all-linear"
    """Names of the adapted modules, as peft reads them."""


class LearnerConfig(Section):
    """How the policy learns from preferences."""

    engine: Literal["torch", "deepspeed"] = "torch"
    """``torch``: one process. ``deepspeed``: ZeRO over ``ranks`` processes."""
    ranks: PositiveInt = 1
    """Learner processes (``engine: deepspeed`` and ``runtime: ray`` when above 1)."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage: what is sharded over the ranks."""
    loss: Annotated[str, _built_in_or_own(LOSSES)] = "dpo"
    """Preference loss; formulas in ``learner/losses.py``. One of your own: ``path/to/file.py:function`` or
    ``module:function``, ``learner.losses.Pairs`` (and β) → one value for each pair."""
    beta: PositiveFloat = 0.1
    """β of the loss, the strength of the pull to the reference."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """DPO: assumed share ε of flipped labels."""
    ipo_length_average: bool = False
    """IPO: use mean instead of summed log-probabilities."""
    simpo_margin: NonNegativeFloat = 1.0
    """SimPO: target margin γ."""
    rpo_nll_weight: NonNegativeFloat = 0.2
    """RPO: weight η of the chosen response's negative log-likelihood per token."""
    optimism: Literal["none", "xpo", "selm"] = "none"
    """Exploration term added to the loss. ``xpo``: α log π(ỹ), ỹ a response of the reference policy. ``selm``:
    αβ (log π(ỹ) − log π_ref(ỹ)), ỹ the greedy response of the policy before the round."""
    optimism_weight: NonNegativeFloat = 5e-6
    """α of the exploration term."""
    learning_rate: PositiveFloat = 5e-7
    """AdamW step size at its peak."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Step size after warm-up; cosine falls to zero at the end of the budget."""
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """AdamW moment decay rates."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW decoupled weight decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this global norm."""
    steps_per_round: NonNegativeInt = 1
    """Optimiser steps on each round's preferences; with 0 the policy stays as it is and only the posterior learns."""
    micro_batch: PositiveInt = 64
    """Preference pairs in one forward pass; gradients are summed over passes."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of all weights."""
    max_staleness: NonNegativeInt = 0
    """Responses sampled more than this many weight versions ago are refused."""
    max_logprob_gap: PositiveFloat = 0.05
    """The run stops when sampler and learner disagree by more than this on the mean absolute log-probability
    of a token."""

    @model_validator(mode="after")
    def _settings_fit_together(self) -> "LearnerConfig":
        if self.ranks > 1 and self.engine != "deepspeed":
            raise ValueError("learner.ranks above 1 needs learner.engine=deepspeed")
        if self.optimism == "selm" and self.loss == "simpo":
            raise ValueError("learner.optimism=selm needs a learner.loss with a reference; simpo has none")
        return self


class BudgetConfig(Section):
    """When the run ends."""

    oracle_queries: PositiveInt
    """Duels the oracle may be asked. Evaluation is counted apart and never comes from it."""


class CheckpointConfig(Section):
    """What is kept so that an interrupted run can go on."""

    every: PositiveInt = 20
    """Rounds between checkpoints, imagined ones included. A run that is resumed computes the rounds after its
    checkpoint again, and asks nothing again."""
    keep: PositiveInt = 2
    """The newest so many checkpoints are kept."""
    keep_best: bool = False
    """Also keep the checkpoint with the highest win rate."""


class EvaluationConfig(Section):
    """How the policy is measured against the reference on held-out prompts."""

    prompts_path: str | None = None
    """Held-out prompts, in the forms of ``prompts.path``; no evaluation when not given."""
    split: str = "test"
    """Split of a Hugging Face dataset; unused for files."""
    prompts: PositiveInt = 256
    """Use at most this many held-out prompts, the first ones of the file."""
    every: PositiveInt = 64
    """Oracle queries between evaluations; the start and the end are always evaluated."""
    temperature: PositiveFloat | None = None
    """Sampling temperature of policy and reference; the sampler's when not given."""
    judge: OracleConfig | None = None
    """An independent judge reported beside the training oracle."""
    best_of: PositiveInt = 1
    """Best-of-N inference: above 1, the response that the posterior likes best of this many samples is measured too."""

    @model_validator(mode="after")
    def _the_judge_evaluates(self) -> "EvaluationConfig":
        if isinstance(self.judge, FeedbackServiceOracleConfig):
            raise ValueError("judge.kind=feedback_service: people are not asked to evaluate; name another judge")
        if isinstance(self.judge, LlmJudgeOracleConfig) and not self.judge.evaluates:
            raise ValueError(
                "judge.kind=llm_judge: its answers cost money; set judge.evaluates=true if it shall give them"
            )
        return self


class PlacementConfig(Section):
    """What actors take of a GPU (``runtime: ray`` with ``device: cuda``). Below 1 they share it with others, and its
    memory has to suffice for all of them."""

    learner_gpus: Share = 1.0
    """GPU of each rank of the learner; several ranks need one each."""
    sampler_gpus: Share = 1.0
    """GPU of each sampler, those of the reference included; see ``sampler.gpu_memory_share``."""
    posterior_gpus: Share = 1.0
    """GPU of the posterior's features, where a decision looks at the posterior."""


class TrackingConfig(Section):
    """Who gets the metrics of every round beside ``metrics.jsonl``."""

    to: tuple[Literal["tensorboard", "wandb", "trackio", "prometheus"], ...] = ()
    """Trackers. All but ``prometheus`` need the package of that name."""
    project: str = "sea-agent"
    """Project of the run, for ``wandb`` and ``trackio``."""
    prometheus_host: str = "127.0.0.1"
    """Address on which ``prometheus`` reads the latest figures. Whoever reaches it can read them."""
    prometheus_port: Annotated[int, Field(ge=0, le=65535)] = 9464
    """Its port."""
