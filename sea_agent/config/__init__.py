"""The configuration of a run; ``sea_agent.config.files`` reads and writes it.

Importing it loads none of torch, ray, vllm and deepspeed, so any machine can check a configuration.
"""

from sea_agent.config.live import GateConfig, LiveConfig
from sea_agent.config.oracle import (
    FeedbackServiceOracleConfig,
    LiveOracleConfig,
    LlmJudgeOracleConfig,
    OracleConfig,
    PythonOracleConfig,
    RemoteOracleConfig,
    RewardModelOracleConfig,
    WorldOracleConfig,
)
from sea_agent.config.parts import (
    BLIND_RULES,
    BudgetConfig,
    CheckpointConfig,
    EnsembleConfig,
    EvaluationConfig,
    ImaginationConfig,
    LaplaceConfig,
    LearnerConfig,
    LoraConfig,
    MixingConfig,
    PlacementConfig,
    PolicyConfig,
    PosteriorConfig,
    PromptsConfig,
    SamplerConfig,
    SelectionConfig,
    TrackingConfig,
)
from sea_agent.config.run import Compute, RunConfig
from sea_agent.config.section import Section

__all__ = [
    "BLIND_RULES",
    "BudgetConfig",
    "CheckpointConfig",
    "Compute",
    "EnsembleConfig",
    "EvaluationConfig",
    "FeedbackServiceOracleConfig",
    "GateConfig",
    "ImaginationConfig",
    "LaplaceConfig",
    "LearnerConfig",
    "LiveConfig",
    "LiveOracleConfig",
    "LlmJudgeOracleConfig",
    "LoraConfig",
    "MixingConfig",
    "OracleConfig",
    "PlacementConfig",
    "PolicyConfig",
    "PosteriorConfig",
    "PromptsConfig",
    "PythonOracleConfig",
    "RemoteOracleConfig",
    "RewardModelOracleConfig",
    "RunConfig",
    "SamplerConfig",
    "Section",
    "SelectionConfig",
    "TrackingConfig",
    "WorldOracleConfig",
]
