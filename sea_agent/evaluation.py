"""Win rate of the policy against the reference on held-out prompts, and what should be watched beside it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from actors.pool import Rows, SamplerPool
from oracle import Oracle
from sea_agent.config import RunConfig
from sea_agent.keys import generator_for, id_for
from sea_agent.prompts import PromptSource
from sea_agent.types import Candidates, Prompt, Response

# Samples per prompt: the first is judged, all serve the distinct share.
_SAMPLES = 2


class Evaluator:
    """Compares the policy with the reference: one response each per held-out prompt, at one temperature.

    Win rate is the mean probability, by the oracle and by an independent judge, that the policy's response is
    preferred; equal responses count ½ and are not asked. Which of the two is shown first is drawn by prompt. The
    questions are counted as ``evaluation_queries`` and never come from the budget. ``log_ratios`` gives
    log π(y|x) − log π_ref(y|x) of responses in nats, or None where no reference is kept.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        prompts: PromptSource | None,
        samplers: SamplerPool,
        log_ratios: Callable[[Rows], list[float] | None],
        oracle: Oracle,
        judge: Oracle | None,
    ) -> None:
        self._config = config
        self._prompts = [] if prompts is None else prompts.first(config.evaluation.prompts)
        self._samplers, self._log_ratios, self._oracle, self._judge = samplers, log_ratios, oracle, judge
        self._temperature = config.evaluation.temperature or config.sampler.temperature
        self._reference: list[Response] = []
        self._next_at = 0
        self.latest: dict[str, Any] = {}

    def is_due(self, oracle_queries: int, budget: int) -> bool:
        """Whether so many answers call for the next evaluation."""
        return oracle_queries >= self._next_at or oracle_queries >= budget

    def fix_reference(self) -> None:
        """Sample the responses that policies are compared with; call it while the samplers hold the reference."""
        self._reference = [group.responses[0] for group in self._sample(1, "reference")]

    def evaluate(self, oracle_queries: int) -> dict[str, Any]:
        """Figures of the current policy after so many answers; empty without held-out prompts."""
        every = self._config.evaluation.every
        self._next_at = (oracle_queries // every + 1) * every
        if not self._prompts:
            return {}
        groups = self._sample(_SAMPLES, "evaluation")
        responses = [group.responses[0] for group in groups]
        wins, interval = self._win_rate(self._oracle, responses)
        figures: dict[str, Any] = {"win_rate": wins, "win_rate_ci": interval}
        if self._judge is not None:
            wins, interval = self._win_rate(self._judge, responses)
            figures |= {"judge_win_rate": wins, "judge_win_rate_ci": interval}
        figures |= {
            "kl_to_reference": self._divergence(),
            "distinct_share": float(np.mean([(len(group.responses) - 1) / (_SAMPLES - 1) for group in groups])),
            "response_tokens": float(np.mean([len(response.token_ids) for response in responses])),
            "evaluation_queries": self.queries,
        }
        self.latest = figures
        return figures

    @property
    def queries(self) -> int:
        """Questions asked for evaluation so far, by oracle and judge together."""
        return sum(oracle.evaluation_queries for oracle in (self._oracle, self._judge) if oracle is not None)

    def _sample(self, count: int, purpose: str) -> list[Candidates]:
        return self._samplers.candidates(self._prompts, count, self._temperature, purpose)

    def _divergence(self) -> float | None:
        """KL(policy ‖ reference) of a response in nats, from one response per prompt sampled at temperature 1."""
        groups = self._samplers.candidates(self._prompts, 1, 1.0, "divergence")
        ratios = self._log_ratios([(group.prompt.token_ids, group.responses[0].token_ids) for group in groups])
        return None if ratios is None else float(np.mean(ratios))

    def _win_rate(self, oracle: Oracle, responses: Sequence[Response]) -> tuple[float, list[float]]:
        """Mean and 95 % bootstrap interval over prompts of the probability that the policy's response is preferred."""
        wins: dict[str, float] = {}
        questions, swapped = [], {}
        for prompt, ours, theirs in zip(self._prompts, responses, self._reference, strict=True):
            if ours.text == theirs.text:
                wins[prompt.id] = 0.5
                continue
            swapped[prompt.id] = generator_for(self._config.seed, "sides", prompt.id).random() < 0.5
            questions.append(_question(prompt, *((theirs, ours) if swapped[prompt.id] else (ours, theirs))))
        asked = [prompt for prompt in self._prompts if prompt.id in swapped]
        for prompt, probability in zip(asked, oracle.evaluate(questions), strict=True):
            wins[prompt.id] = 1.0 - probability if swapped[prompt.id] else probability
        sample = np.array([wins[prompt.id] for prompt in self._prompts])
        return float(sample.mean()), _interval(sample, self._config.seed)


def _question(prompt: Prompt, first: Response, second: Response) -> dict[str, str]:
    name = id_for("evaluation", prompt.id, first.id, second.id)
    return {"id": name, "prompt": prompt.text, "first": first.text, "second": second.text}


def _interval(sample: np.ndarray, seed: int) -> list[float]:
    if len(sample) < 2 or np.ptp(sample) == 0.0:
        return [float(sample.mean())] * 2
    result = bootstrap(
        (sample,), np.mean, n_resamples=2000, method="percentile", rng=generator_for(seed, "bootstrap"), vectorized=True
    )
    return [float(result.confidence_interval.low), float(result.confidence_interval.high)]
