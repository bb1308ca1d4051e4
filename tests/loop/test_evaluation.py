"""What an evaluation reports, with best-of-N inference beside the policy's own responses."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from oracle.base import ProbabilityOracle, Question
from sea_agent.config import RunConfig
from sea_agent.config.files import parse_config
from sea_agent.loop.evaluation import Evaluator
from sea_agent.types import Candidates, Prompt, Response

COUNT = 12
CHAT = (("system", "be short"), ("user", "prompt"))


class Prompts:
    def first(self, count: int) -> list[Prompt]:
        return [Prompt(f"p{index}", f"prompt {index}", (3,), CHAT) for index in range(min(count, COUNT))]


class Samplers:
    """Response i to every prompt has i letters; the reference's have four. A prompt in ``same`` gets one text only."""

    def __init__(self, same: Sequence[str] = ()) -> None:
        self.same = same
        self.sampled = 0

    def samples(
        self, prompts: Sequence[Prompt], count: int, temperature: float, *key: int | str
    ) -> list[list[Response]]:
        self.sampled += len(prompts) * count
        return [
            [self._response(prompt, "reference" if key[0] == "reference" else index) for index in range(count)]
            for prompt in prompts
        ]

    def candidates(self, prompts: Sequence[Prompt], *arguments: Any) -> list[Candidates]:
        rows = self.samples(prompts, *arguments)
        return [Candidates.distinct(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]

    def _response(self, prompt: Prompt, which: int | str) -> Response:
        text = "a" * (4 if which == "reference" else 1 if prompt.id in self.same else int(which) + 1)
        return Response(f"{prompt.id}-{which}", prompt.id, text, (3,) * len(text), (), 0)


class Longer(ProbabilityOracle):
    """Prefers the longer response, or as a judge the shorter one."""

    def __init__(self, sign: int = 1) -> None:
        super().__init__("longer", "threshold", 0)
        self.sign = sign
        self.asked: list[Question] = []

    def probabilities(self, questions: Sequence[Question]) -> list[float]:
        self.asked += questions
        return [float(self.sign * (len(one["first"]) - len(one["second"])) > 0) for one in questions]


def longest(candidates: Sequence[Candidates]) -> list[Response]:
    return [max(group.responses, key=lambda response: len(response.text)) for group in candidates]


@pytest.fixture
def config() -> Callable[[int], RunConfig]:
    def make(best_of: int) -> RunConfig:
        return parse_config(
            {
                "policy": {"path": "unused"},
                "prompts": {"path": "unused.jsonl"},
                "selection": {"rule": "passive"},
                "oracle": {"kind": "world"},
                "budget": {"oracle_queries": 1},
                "evaluation": {"prompts": COUNT, "best_of": best_of},
            },
            where="test",
        )

    return make


def evaluator(
    config: RunConfig, best: Any, samplers: Samplers | None = None, oracle: Longer | None = None
) -> Evaluator:
    made = Evaluator(
        config.evaluation,
        seed=config.seed,
        temperature=config.sampler.temperature,
        prompts=Prompts(),  # type: ignore[arg-type]
        samplers=samplers or Samplers(),  # type: ignore[arg-type]
        log_ratios=lambda rows: None,
        oracle=oracle or Longer(),
        judge=Longer(-1),
        best=best,
    )
    made.fix_reference()
    return made


def test_the_response_that_is_named_best_is_measured_beside_the_first(config: Callable[[int], RunConfig]) -> None:
    figures = evaluator(config(8), longest).evaluate(0)
    assert (figures.win_rate, figures.judge_win_rate) == (0.0, 1.0)
    assert (figures.best_of_win_rate, figures.best_of_judge_win_rate) == (1.0, 0.0)
    assert figures.best_of_win_rate_ci == (1.0, 1.0)
    assert figures.best_of_judge_win_rate_ci == (0.0, 0.0)
    assert figures.evaluation_queries == 2 * 2 * COUNT, "oracle and judge are asked about both"
    # Of three letters at most, and of an equal text: half a win.
    assert evaluator(config(3), longest).evaluate(0).best_of_win_rate == 0.0
    assert evaluator(config(4), longest).evaluate(0).best_of_win_rate == 0.5


def test_the_messages_of_a_chat_are_handed_on(config: Callable[[int], RunConfig]) -> None:
    """A model with a chat template shows them; a text would be another prompt."""
    oracle = Longer()
    evaluator(config(1), None, oracle=oracle).evaluate(0)
    assert [question["messages"] for question in oracle.asked] == [CHAT] * COUNT


def test_where_the_first_sample_is_named_both_rates_are_equal(config: Callable[[int], RunConfig]) -> None:
    first = evaluator(config(8), lambda groups: [group.responses[0] for group in groups]).evaluate(0)
    assert first.best_of_win_rate == first.win_rate


@pytest.mark.parametrize(("best_of", "best"), [(1, longest), (8, None)])
def test_without_best_of_or_a_posterior_only_the_policys_figures_are_given(
    config: Callable[[int], RunConfig], best_of: int, best: Any
) -> None:
    figures = evaluator(config(best_of), best).evaluate(0)
    assert not [key for key in figures.measured() if key.startswith("best_of")]
    assert figures.evaluation_queries == 2 * COUNT


@pytest.mark.parametrize("best_of", [1, 8])
def test_the_policys_own_figures_do_not_depend_on_n(config: Callable[[int], RunConfig], best_of: int) -> None:
    figures = evaluator(config(best_of), longest, Samplers(same=["p0", "p1", "p2"])).evaluate(0)
    assert (figures.win_rate, figures.response_tokens) == (0.0, 1.0)
    assert figures.distinct_share == 0.75, "of the first two samples of each prompt"


def test_n_samples_are_drawn_for_each_prompt_and_none_twice(config: Callable[[int], RunConfig]) -> None:
    samplers = Samplers()
    made = evaluator(config(8), longest, samplers)
    samplers.sampled = 0
    made.evaluate(0)
    assert samplers.sampled == COUNT * (8 + 1), "and one for the divergence"
