"""Win rate of the policy against the reference on held-out prompts, and what should be watched beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import ValidationError
from scipy.stats import bootstrap

from actors.samplers import SamplerPool
from oracle import Oracle
from sea_agent.config import EvaluationConfig
from sea_agent.data.prompts import PromptSource
from sea_agent.errors import UnfitState
from sea_agent.persistence.rounds import Evaluation, Interval
from sea_agent.saved_state import require
from sea_agent.seeding import generator_for, id_for
from sea_agent.types import RESPONSE_FORM, Candidates, Prompt, Response, TokenRow, question, response_from

# Samples per prompt, at least: the first is judged, the first two serve the distinct share.
_SAMPLES = 2

Best = Callable[[Sequence[Candidates]], Sequence[Response]]


class Evaluator:
    """Compares the policy with the reference: one response each per held-out prompt, at one temperature.

    Win rate is the mean probability, by the oracle and by an independent judge, that the policy's response is
    preferred; equal responses count ½ and are not asked. Which of the two is shown first is drawn by prompt. The
    questions are counted as ``evaluation_queries`` and never come from the budget. ``log_ratios`` gives
    log π(y|x) − log π_ref(y|x) of responses in nats, or None where no reference is kept. ``best`` names the best
    response to each prompt for ``evaluation.best_of``; None where nobody can tell. ``temperature`` stands in for
    an ``evaluation.temperature`` that is not given.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        *,
        seed: int,
        temperature: float,
        prompts: PromptSource | None,
        samplers: SamplerPool,
        log_ratios: Callable[[Sequence[TokenRow]], list[float] | None],
        oracle: Oracle,
        judge: Oracle | None,
        best: Best | None = None,
    ) -> None:
        self._config, self._seed = config, seed
        self._prompts = [] if prompts is None else prompts.first(config.prompts)
        self._samplers, self._log_ratios, self._best = samplers, log_ratios, best
        self._oracle, self._judge = oracle, judge
        self._temperature = config.temperature or temperature
        self._reference: list[Response] = []
        self._next_at = 0
        self.latest = Evaluation()

    def is_due(self, oracle_queries: int, budget: int) -> bool:
        """Whether so many answers call for the next evaluation."""
        return oracle_queries >= self._next_at or oracle_queries >= budget

    def fix_reference(self) -> None:
        """Sample the responses that policies are compared with; call it while the samplers hold the reference."""
        self._reference = [samples[0] for samples in self._sample(1, "reference")]

    def evaluate(self, oracle_queries: int) -> Evaluation:
        """Figures of the current policy after so many answers; nothing is measured without held-out prompts."""
        every = self._config.every
        self._next_at = (oracle_queries // every + 1) * every
        if not self._prompts:
            return Evaluation()
        best_of = 1 if self._best is None else self._config.best_of
        samples = self._sample(max(_SAMPLES, best_of), "evaluation")
        responses = [row[0] for row in samples]
        rates = self._win_rates("", responses)
        if best_of > 1 and self._best is not None:
            rows = zip(self._prompts, samples, strict=True)
            found = self._best([Candidates.distinct(prompt, row[:best_of]) for prompt, row in rows])
            best = {response.prompt_id: response for response in found}
            rates |= self._win_rates("best_of_", [best[prompt.id] for prompt in self._prompts])
        self.latest = Evaluation(
            **rates,
            kl_to_reference=self._divergence(),
            distinct_share=float(np.mean([row[0].text != row[1].text for row in samples])),
            response_tokens=float(np.mean([len(response.token_ids) for response in responses])),
            evaluation_queries=self.queries,
        )
        return self.latest

    def state(self) -> dict[str, Any]:
        """The reference's responses, the latest figures, when the next are due, and what was asked, as plain values."""
        return {
            "reference": [asdict(response) for response in self._reference],
            "latest": self.latest.measured(),
            "next_at": self._next_at,
            "asked": [oracle.evaluation_queries for oracle in self._asked],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``. Raises: UnfitState when it is of another evaluation, or none."""
        reference, asked = [RESPONSE_FORM] * len(self._prompts), [int] * len(self._asked)
        require(state, {"reference": reference, "latest": dict, "next_at": int, "asked": asked}, "evaluator")
        self.latest, self._next_at = _latest(state["latest"]), state["next_at"]
        self._reference = [response_from(row) for row in state["reference"]]
        for oracle, count in zip(self._asked, state["asked"], strict=True):
            oracle.evaluation_queries = count

    @property
    def _asked(self) -> list[Oracle]:
        return [oracle for oracle in (self._oracle, self._judge) if oracle is not None]

    @property
    def queries(self) -> int:
        """Questions asked for evaluation so far, by oracle and judge together."""
        return sum(oracle.evaluation_queries for oracle in self._asked)

    def _sample(self, count: int, purpose: str) -> list[list[Response]]:
        return self._samplers.samples(self._prompts, count, self._temperature, purpose)

    def _win_rates(self, name: str, responses: Sequence[Response]) -> dict[str, Any]:
        """Win rate of the responses and its interval by the oracle and the judge, those of them that evaluate."""
        rates: dict[str, Any] = {}
        for who, oracle in (("", self._oracle), ("judge_", self._judge)):
            if oracle is not None and oracle.evaluates:
                rate, interval = self._win_rate(oracle, responses)
                rates |= {f"{name}{who}win_rate": rate, f"{name}{who}win_rate_ci": interval}
        return rates

    def _divergence(self) -> float | None:
        """KL(policy ‖ reference) of a response in nats, from one response per prompt sampled at temperature 1."""
        groups = self._samplers.candidates(self._prompts, 1, 1.0, "divergence")
        ratios = self._log_ratios([(group.prompt.token_ids, group.responses[0].token_ids) for group in groups])
        return None if ratios is None else float(np.mean(ratios))

    def _win_rate(self, oracle: Oracle, responses: Sequence[Response]) -> tuple[float, Interval]:
        """Mean and 95 % bootstrap interval over prompts of the probability that the policy's response is preferred."""
        wins: dict[str, float] = {}
        questions, swapped = [], {}
        for prompt, ours, theirs in zip(self._prompts, responses, self._reference, strict=True):
            if ours.text == theirs.text:
                wins[prompt.id] = 0.5
                continue
            swapped[prompt.id] = generator_for(self._seed, "sides", prompt.id).random() < 0.5
            questions.append(_question(prompt, *((theirs, ours) if swapped[prompt.id] else (ours, theirs))))
        asked = [prompt for prompt in self._prompts if prompt.id in swapped]
        for prompt, probability in zip(asked, oracle.evaluate(questions), strict=True):
            wins[prompt.id] = 1.0 - probability if swapped[prompt.id] else probability
        sample = np.array([wins[prompt.id] for prompt in self._prompts])
        return float(sample.mean()), _interval(sample, self._seed)


def _question(prompt: Prompt, first: Response, second: Response) -> dict[str, Any]:
    name = id_for("evaluation", prompt.id, first.id, second.id)
    return question(name, prompt, first.text, second.text)


def _latest(figures: Mapping[str, Any]) -> Evaluation:
    try:
        return Evaluation.model_validate(figures)
    except ValidationError as error:
        raise UnfitState(f"evaluator: the latest figures are no evaluation ({error})") from None


def _interval(sample: np.ndarray, seed: int) -> Interval:
    if len(sample) < 2 or np.ptp(sample) == 0.0:
        return float(sample.mean()), float(sample.mean())
    result = bootstrap(
        (sample,), np.mean, n_resamples=2000, method="percentile", rng=generator_for(seed, "bootstrap"), vectorized=True
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
