"""Scores of a response from elsewhere, as features that the posterior expects to be right: ``posterior.prior``.

Dimension legend: N rows.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sea_agent.errors import UserError
from sea_agent.features.base import Pair, Standardised
from sea_agent.features.reward_model import RewardModel
from sea_agent.plugins import Plugin, is_own
from sea_agent.types import Prompt, Response
from sea_agent.worlds import SCHEME, scorer

KEY = "posterior.prior"
_TRIAL = ("a response", "another response, which is longer", "")

Scores = Callable[[Sequence[Pair]], list[float]]
"""The score of each response; higher is better."""


class PriorScore(Standardised):
    """One score as a block of one feature.

    Only differences between the responses to one prompt matter, so it is divided by their deviation: one unit is one
    standard deviation of the score within a prompt.

    Raises:
        UserError: when there is no such source or, at any call, when it gives no finite number for a response.
    """

    def __init__(self, source: str, batch: int = 1, device: str = "cpu") -> None:
        super().__init__((1,))
        self._name = f"{KEY}={source}"
        self._model: RewardModel | None = None
        if source.startswith(SCHEME):
            self._scores = _of_world(source)
        elif is_own(source):
            self._scores = _own(source)
        else:
            self._model = RewardModel(source, key=KEY, batch=batch, batch_key="posterior.feature_batch", device=device)
            self._scores = _of_model(self._model)

    def try_on(self, prompts: Sequence[Prompt], max_new_tokens: int) -> None:
        """Score made-up responses to these prompts once; see ``RewardModel.try_on``."""
        if self._model is not None:
            self._model.try_on(prompts, max_new_tokens)
            return
        self._raw([(prompt, Response("", prompt.id, text, (), (), 0)) for prompt in prompts[:2] for text in _TRIAL])

    def _raw(self, pairs: Sequence[Pair]) -> Tensor:
        found = torch.tensor(self._scores(pairs), dtype=torch.float32)
        if found.shape != (len(pairs),) or not found.isfinite().all():
            raise UserError(f"{self._name}: gave no finite number for each of {len(pairs)} responses")
        return found[:, None]

    def _spread(self, raw_N_D: Tensor, pairs: Sequence[Pair]) -> Tensor:
        _, prompt_N = np.unique([prompt.id for prompt, _ in pairs], return_inverse=True)
        groups = [raw_N_D[torch.from_numpy(prompt_N == prompt)] for prompt in range(prompt_N.max() + 1)]
        squares_1 = torch.stack([(group - group.mean(0)).square().sum(0) for group in groups]).sum(0)
        free = len(pairs) - len(groups)
        deviation_1 = (squares_1 / free).sqrt() if free else torch.zeros(1)
        return torch.where(deviation_1 > 0, deviation_1, torch.ones(1))


def _of_world(source: str) -> Scores:
    name, _, kind = source.removeprefix(SCHEME).partition("/")
    score = scorer(name, kind)
    return lambda pairs: [score(prompt.text, response.text) for prompt, response in pairs]


def _of_model(model: RewardModel) -> Scores:
    return lambda pairs: model.rewards([(prompt.text, prompt.messages, response.text) for prompt, response in pairs])


def _own(source: str) -> Scores:
    function = Plugin(
        KEY,
        source,
        "a prior score takes a list of (prompt, response) texts and returns a finite number for each, higher is better",
    )

    def scores(pairs: Sequence[Pair]) -> list[float]:
        texts = [(prompt.text, response.text) for prompt, response in pairs]
        found = np.asarray(function(texts))
        if found.dtype.kind not in "fiub" or found.shape not in ((len(texts),), (len(texts), 1)):
            raise function.refusal(f"returned {found.dtype} of shape {found.shape} for {len(texts)} pairs of texts")
        if not np.isfinite(found.astype(float)).all():
            raise function.refusal("returned values that are not finite")
        return [float(value) for value in found.reshape(-1)]

    return scores
