"""A Hugging Face sequence-classification reward model as the oracle."""

from collections.abc import Sequence

from oracle.base import ProbabilityOracle, Question, bradley_terry
from sea_agent.config import RewardModelOracleConfig
from sea_agent.features.reward_model import RewardModel
from sea_agent.types import Prompt


class RewardModelOracle(ProbabilityOracle):
    """Bradley–Terry over the rewards of ``RewardModel``."""

    def __init__(self, config: RewardModelOracleConfig, seed: int, device: str, key: str = "oracle") -> None:
        super().__init__(f"{key}.path={config.path}", config.labels, seed)
        self._model = RewardModel(
            config.path, key=f"{key}.path", batch=config.batch, batch_key=f"{key}.batch", device=device
        )

    def probabilities(self, questions: Sequence[Question]) -> list[float]:
        """σ(reward(first) − reward(second)) of each question."""
        sides = [(q["prompt"], q.get("messages"), q[side]) for q in questions for side in ("first", "second")]
        rewards = self._model.rewards(sides)
        return [bradley_terry(first, second) for first, second in zip(rewards[::2], rewards[1::2], strict=True)]

    def try_on(self, prompts: Sequence[Prompt], max_new_tokens: int) -> None:
        """See ``Oracle.try_on``."""
        self._model.try_on(prompts, max_new_tokens)
