"""Scores of a response from elsewhere, as features that the posterior expects to be right: ``posterior.prior``.

Dimension legend: N rows, P prompts.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sea_agent.errors import UserError
from sea_agent.features.base import Pair, Standardised
from sea_agent.plugins import Plugin, is_own
from sea_agent.worlds import SCHEME, scorer

KEY = "posterior.prior"
_TRIAL = ("a response", "another response, which is longer", "")

Scores = Callable[[list[tuple[str, str]]], list[float]]
"""Scores of (prompt, response) texts; higher is better."""


class PriorScore(Standardised):
    """One score as a block of one feature.

    Only differences between the responses to one prompt matter, so it is divided by their deviation: one unit is one
    standard deviation of the score within a prompt.

    Raises:
        UserError: when there is no such source or, at any call, when it gives no finite number for a response.
    """

    def __init__(self, source: str) -> None:
        super().__init__((1,))
        self._name = f"{KEY}={source}"
        self._scores = _source(source)

    def try_on(self, prompts: Sequence[str]) -> None:
        """Score made-up responses to these prompts once."""
        self._column([(prompt, response) for prompt in prompts for response in _TRIAL])

    def _raw(self, pairs: Sequence[Pair]) -> Tensor:
        return self._column([(prompt.text, response.text) for prompt, response in pairs])

    def _spread(self, raw_N_D: Tensor, pairs: Sequence[Pair]) -> Tensor:
        _, prompt_N = np.unique([prompt.id for prompt, _ in pairs], return_inverse=True)
        groups = [raw_N_D[torch.from_numpy(prompt_N == prompt)] for prompt in range(prompt_N.max() + 1)]
        squares_1 = torch.stack([(group - group.mean(0)).square().sum(0) for group in groups]).sum(0)
        free = len(pairs) - len(groups)
        deviation_1 = (squares_1 / free).sqrt() if free else torch.zeros(1)
        return torch.where(deviation_1 > 0, deviation_1, torch.ones(1))

    def _column(self, texts: list[tuple[str, str]]) -> Tensor:
        found = torch.tensor(self._scores(texts), dtype=torch.float32)
        if found.shape != (len(texts),) or not found.isfinite().all():
            raise UserError(f"{self._name}: gave no finite number for each of {len(texts)} responses")
        return found[:, None]


def _source(source: str) -> Scores:
    if source.startswith(SCHEME):
        name, _, kind = source.removeprefix(SCHEME).partition("/")
        score = scorer(name, kind)
        return lambda texts: [score(*text) for text in texts]
    return _own(source)


def _own(source: str) -> Scores:
    if not is_own(source):
        raise UserError(
            f"{KEY}={source}: expected path/to/file.py:function, or world://NAME/SCORER of a built-in world"
        )
    function = Plugin(
        KEY,
        source,
        "a prior score takes a list of (prompt, response) texts and returns a finite number for each, higher is better",
    )

    def scores(texts: list[tuple[str, str]]) -> list[float]:
        found = np.asarray(function(texts))
        if found.dtype.kind not in "fiub" or found.shape not in ((len(texts),), (len(texts), 1)):
            raise function.refusal(f"returned {found.dtype} of shape {found.shape} for {len(texts)} pairs of texts")
        if not np.isfinite(found.astype(float)).all():
            raise function.refusal("returned values that are not finite")
        return [float(value) for value in found.reshape(-1)]

    return scores
