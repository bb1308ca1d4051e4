r"""A selection rule, a preference loss and features of one's own, used by name: nothing is registered, nothing forked.

    sea-agent run sea --out runs/own --set selection.rule=examples/own_rule.py:favourites \
        --set learner.loss=examples/own_rule.py:squared_hinge --set posterior.features=examples/own_rule.py:counts

`sea-agent check` instead of `sea-agent run` only tries them. Run as a program, this file does the same in a small run.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learner.losses import Pairs


def favourites(rewards_S_P_M: Tensor, valid_P_M: Tensor, generator: np.random.Generator) -> Tensor:
    """pairs_P_2: the two candidates with the highest mean reward. S posterior draws, P prompts, M candidates."""
    return rewards_S_P_M.mean(0).masked_fill(~valid_P_M, -torch.inf).topk(2, dim=1).indices


def squared_hinge(pairs: Pairs, beta: float) -> Tensor:
    """max(0, 1 − βh)² of each pair. A loss that needs no reference says so: `squared_hinge.uses_reference = False`."""
    return torch.relu(1.0 - beta * pairs.gap()).square()


def counts(texts: list[tuple[str, str]]) -> np.ndarray:
    """features_N_4 of (prompt, response) texts: words, different words, words of the prompt, and a full stop."""
    rows = [(response.split(), set(prompt.split())) for prompt, response in texts]
    return np.array([[len(r), len(set(r)), sum(word in p for word in r), "." in r] for r, p in rows], dtype=float)


def main() -> None:
    from sea_agent.config.files import load_config
    from sea_agent.run.lifecycle import run

    own = {"selection.rule": "favourites", "learner.loss": "squared_hinge", "posterior.features": "counts"}
    small = ["budget.oracle_queries=32", "sampler.candidates=6", "imagination.rounds=0", "evaluation.prompts=32"]
    config = load_config("sea", [*small, *(f"{key}={__file__}:{name}" for key, name in own.items())])
    with tempfile.TemporaryDirectory() as folder:
        summary = run(config, Path(folder) / "run")
    print(f"win rate after {summary['oracle_queries']} answers: {summary['win_rate']:.2f}")


if __name__ == "__main__":
    main()
