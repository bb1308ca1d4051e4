"""Reward ensemble: K small networks on frozen features, each a sample of the posterior.

Each head minimises its own randomised objective (anchored ensembles, arXiv 1810.05546, equation 9, with the
Bradley–Terry likelihood in place of a Gaussian one): the likelihood of the labels and a Gaussian prior that is
centred on the head's own initial draw. Where labels say nothing a head stays at its draw, so heads disagree;
where labels speak, they agree. The prior's weight is set per head against the *sum* over labels; dividing it
by the number of parameters would leave it without effect.

Dimension legend: K heads, P prompts, M candidates of a prompt, B rows of a minibatch, N labelled duels,
D features, H hidden units, I inputs of a layer, O outputs of a layer.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sea_agent.bandit.people import Who
from sea_agent.bandit.replay import Replay
from sea_agent.config import EnsembleConfig
from sea_agent.errors import RunFailure
from sea_agent.saved_state import like, require
from sea_agent.seeding import generator_for


class Heads:
    """K networks D → H → H → 1 with ReLU, evaluated as one batched matrix product per layer.

    Weights and biases are drawn from N(0, σ²) with σ² = 2 / inputs in the hidden layers and 1 / inputs in the
    last, so that a head's rewards start with a deviation near 1. The last layer has no bias: a constant reward
    cancels in every duel.
    """

    def __init__(self, count: int, dimension: int, hidden: int, generator: np.random.Generator) -> None:
        sizes = {
            "weight_1": ((dimension, hidden), 2 / dimension),
            "bias_1": ((1, hidden), 2 / dimension),
            "weight_2": ((hidden, hidden), 2 / hidden),
            "bias_2": ((1, hidden), 2 / hidden),
            "weight_3": ((hidden, 1), 1 / hidden),
        }
        self.deviations = {name: math.sqrt(variance) for name, (_, variance) in sizes.items()}
        self.parameters = {
            name: torch.from_numpy(generator.normal(0.0, self.deviations[name], (count, *shape)).astype(np.float32))
            for name, (shape, _) in sizes.items()
        }

    def rewards(self, features_N_D: Tensor) -> Tensor:
        """rewards_K_N."""
        parameters = self.parameters
        inputs_K_N_D = features_N_D.expand(len(parameters["weight_1"]), *features_N_D.shape)
        first_K_N_H = torch.baddbmm(parameters["bias_1"], inputs_K_N_D, parameters["weight_1"]).relu()
        second_K_N_H = torch.baddbmm(parameters["bias_2"], first_K_N_H, parameters["weight_2"]).relu()
        return torch.bmm(second_K_N_H, parameters["weight_3"]).squeeze(-1)

    def energy(self, anchors: dict[str, Tensor]) -> Tensor:
        """energy_K = ½ Σ ((θ − θ₀) / σ)², the negative log density of a Gaussian prior centred on ``anchors``."""
        terms = [
            ((parameter_K_I_O - anchors[name]) / self.deviations[name]).square().sum((1, 2))
            for name, parameter_K_I_O in self.parameters.items()
        ]
        return torch.stack(terms).sum(0) / 2


class Ensemble:
    """``posterior.family: ensemble`` (arXiv 2411.01493, section 4.2); see ``Posterior`` for the methods.

    Args:
        dimension: D, of standardised features.
        config: settings; the defaults when not given.
        members: K.
        seed: of the heads' first weights and, where there is bootstrap, of theirs for the labels.
    """

    def __init__(
        self, dimension: int, config: EnsembleConfig | None = None, *, members: int = 20, seed: int = 0
    ) -> None:
        config = config or EnsembleConfig()
        self.version = 0
        self._config = config
        self._members = members
        self._seed = seed
        self._replay = Replay(dimension)
        self._counts_N_K = torch.empty(0, members)
        self._heads = Heads(members, dimension, config.hidden, generator_for(seed, "heads"))
        self._anchors = {name: tensor.clone() for name, tensor in self._heads.parameters.items()}
        self._priors = Heads(members, dimension, config.hidden, generator_for(seed, "randomised priors"))
        for parameter in self._heads.parameters.values():
            parameter.requires_grad_(True)
        self._optimiser = torch.optim.AdamW(
            self._heads.parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    @property
    def labels(self) -> int:
        return len(self._replay)

    def draw(self, features_P_M_D: Tensor, generator: np.random.Generator | None = None, who: Who = None) -> Tensor:
        """rewards_K_P_M: the K heads, in an order of its own for each prompt."""
        generator = generator or generator_for(self._seed, "draw", self.version)
        prompts, candidates, _ = features_P_M_D.shape
        with torch.no_grad():
            rewards_K_P_M = self._rewards(features_P_M_D.flatten(0, 1)).unflatten(1, (prompts, candidates))
        heads_P_K = np.tile(np.arange(self._members), (prompts, 1))
        order_K_P = torch.from_numpy(generator.permuted(heads_P_K, axis=1).T)
        return rewards_K_P_M.gather(0, order_K_P[:, :, None].expand_as(rewards_K_P_M))

    def mean(self, features_P_M_D: Tensor, who: Who = None) -> Tensor:
        """rewards_P_M: the mean over the heads."""
        with torch.no_grad():
            rewards_K_N = self._rewards(features_P_M_D.flatten(0, 1))
        return rewards_K_N.mean(0).unflatten(0, features_P_M_D.shape[:2])

    def chance(self, first_N_D: Tensor, second_N_D: Tensor, who: Who = None) -> Tensor:
        """chance_N: the mean over the heads."""
        with torch.no_grad():
            first_K_N, second_K_N = self._rewards(torch.cat([first_N_D, second_N_D])).chunk(2, dim=1)
        return torch.sigmoid(first_K_N - second_K_N).mean(0)

    def add(
        self,
        first_N_D: Tensor,
        second_N_D: Tensor,
        first_wins_N: Tensor,
        ids: Sequence[str] | None = None,
        weights_N: Tensor | None = None,
        who: Sequence[str] | None = None,
    ) -> None:
        self._replay.add(first_N_D, second_N_D, first_wins_N, ids, weights_N)
        added = self._replay.ids[len(self._counts_N_K) :]
        self._counts_N_K = torch.cat([self._counts_N_K, self._bootstrap(added)])

    def update(self, generator: np.random.Generator | None = None, rounds: int = 1) -> dict[str, float]:
        """``minibatches`` steps a round on duels drawn uniformly from the replay, each once at most in a minibatch."""
        generator = generator or generator_for(self._seed, "update", self.version)
        self.version += 1
        if not self.labels:
            return {}
        losses = []
        for _ in range(rounds * self._config.minibatches):
            size = min(self._config.minibatch, self.labels)
            rows_B = torch.from_numpy(generator.choice(self.labels, size, replace=False))
            losses.append(self._step(rows_B))
        if not math.isfinite(sum(losses)):
            raise RunFailure("the reward ensemble diverged: lower posterior.ensemble.learning_rate")
        with torch.no_grad():
            pull = self._heads.energy(self._anchors).mean().item()
        return {"loss": losses[-1], "anchor_energy": pull}

    def _step(self, rows_B: Tensor) -> float:
        """One Adam step of every head; the mean Bradley–Terry loss before it."""
        first_B_D, second_B_D = self._replay.first_N_D[rows_B], self._replay.second_N_D[rows_B]
        first_K_B, second_K_B = self._rewards(torch.cat([first_B_D, second_B_D])).chunk(2, dim=1)
        wins_K_B = self._replay.wins_N[rows_B].expand_as(first_K_B)
        loss_K_B = functional.binary_cross_entropy_with_logits(first_K_B - second_K_B, wins_K_B, reduction="none")
        counts_K_B = self._counts_N_K[rows_B].T * self._replay.weights_N[rows_B]
        loss_K = (loss_K_B * counts_K_B).mean(1)
        pull_K = self._config.anchor / self.labels * self._heads.energy(self._anchors)
        self._optimiser.zero_grad()
        # A sum, so that every head trains as if it were alone.
        (loss_K + pull_K).sum().backward()
        self._optimiser.step()
        return loss_K_B.mean().item()

    def _rewards(self, features_N_D: Tensor) -> Tensor:
        rewards_K_N = self._heads.rewards(features_N_D)
        if self._config.prior_scale:
            rewards_K_N = rewards_K_N + self._config.prior_scale * self._priors.rewards(features_N_D)
        return rewards_K_N

    def _bootstrap(self, ids: Sequence[str]) -> Tensor:
        """counts_N_K: how often each head sees each label; a function of the label's id alone."""
        if not self._config.bootstrap:
            return torch.ones(len(ids), self._members)
        counts = [generator_for(self._seed, "bootstrap", id_).poisson(1.0, self._members) for id_ in ids]
        return torch.from_numpy(np.array(counts, dtype=np.float32).reshape(len(ids), self._members))

    def state(self) -> dict[str, Any]:
        return {
            "family": "ensemble",
            "version": self.version,
            "members": _copies(self._heads.parameters),
            "anchors": _copies(self._anchors),
            "priors": _copies(self._priors.parameters),
            "counts": self._counts_N_K.clone(),
            "optimiser": copy.deepcopy(self._optimiser.state_dict()),
            "replay": self._replay.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        parts = {"members": self._heads.parameters, "anchors": self._anchors, "priors": self._priors.parameters}
        optimiser = {"state": dict, "param_groups": list}
        rest = {"family": "ensemble", "version": int, "counts": Tensor, "optimiser": optimiser, "replay": dict}
        require(state, parts | rest, "posterior")
        moments = state["optimiser"]["state"]
        if moments:  # none before the first step
            form = {
                index: {"step": like(), "exp_avg": parameter, "exp_avg_sq": parameter}
                for index, parameter in enumerate(self._heads.parameters.values())
            }
            require(moments, form, "posterior.optimiser.state")
        self._replay.load_state(state["replay"])
        require(state["counts"], like(self.labels, self._members), "posterior.counts")
        for part, tensors in parts.items():
            for name, tensor in tensors.items():
                tensor.detach().copy_(state[part][name])
        self._optimiser.load_state_dict(self._optimiser.state_dict() | {"state": copy.deepcopy(moments)})
        self._counts_N_K = state["counts"].clone()
        self.version = state["version"]


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
