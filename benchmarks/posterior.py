"""What the Laplace posterior costs as labels come in, and what it loses by not keeping all of them.

    python -m benchmarks.posterior [--features 12000] [--labels 1000 10000 50000] [--kept 2000]

The variance of the features falls with the inverse of their rank, in ten blocks. Costs are CPU seconds on one core: an
update after a batch of 16 labels, in the mean over 16 of them, so that those count that fit the scales or leave labels
behind; and draws for 16 prompts with 17 candidates. What is lost is told by the fit to all labels: the mean log-loss on
pairs that neither has seen, in a smaller world.
"""

import argparse
import io
import time
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

from sea_agent.bandit import laplace
from sea_agent.bandit.laplace import Laplace
from sea_agent.pretrained import use_threads

BLOCKS, BATCH, ROUNDS = 10, 16, 16
PROMPTS, CANDIDATES = 16, 17


class World:
    """Duels of a reward that is linear in features whose variance falls with the inverse of the rank."""

    def __init__(self, features: int, decay: float = 1.0, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        rank_D = torch.arange(1, features + 1, dtype=torch.float64)[torch.randperm(features, generator=self._generator)]
        spectrum_D = rank_D ** (-decay / 2)
        self._deviation_D = (spectrum_D / spectrum_D.square().mean().sqrt()).float()
        self._reward_D = torch.randn(features, generator=self._generator)
        self._reward_D *= 1.5 / (self._reward_D * self._deviation_D).norm()

    def rows(self, *shape: int) -> Tensor:
        return torch.randn(*shape, len(self._deviation_D), generator=self._generator) * self._deviation_D

    def duels(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """first_N_D, second_N_D and logit_N of the first being preferred."""
        first_N_D, second_N_D = self.rows(count), self.rows(count)
        return first_N_D, second_N_D, (first_N_D - second_N_D) @ self._reward_D

    def labels(self, logit_N: Tensor) -> Tensor:
        return (torch.rand(len(logit_N), generator=self._generator) < torch.sigmoid(logit_N)).float()


def learn(posterior: Laplace, world: World, count: int) -> None:
    first_N_D, second_N_D, logit_N = world.duels(count)
    posterior.add(first_N_D, second_N_D, world.labels(logit_N))
    posterior.update()


def cost(posterior: Laplace, world: World) -> tuple[float, float, int]:
    """CPU seconds of an update and of a draw, and bytes of the state."""
    updates, draws = 0.0, 0.0
    for _ in range(ROUNDS):
        first_N_D, second_N_D, logit_N = world.duels(BATCH)
        posterior.add(first_N_D, second_N_D, world.labels(logit_N))
        start = time.process_time()
        posterior.update()
        updates += time.process_time() - start
        features_P_M_D = world.rows(PROMPTS, CANDIDATES)
        start = time.process_time()
        posterior.draw(features_P_M_D)
        draws += time.process_time() - start
    file = io.BytesIO()
    torch.save(posterior.state(), file)
    return updates / ROUNDS, draws / ROUNDS, len(file.getvalue())


def costs(features: int, labels: list[int]) -> None:
    world, sizes = World(features), [len(part) for part in torch.arange(features).chunk(BLOCKS)]
    posterior, seconds = Laplace(features, blocks=sizes), dict[int, float]()
    print(f"{features:,} features in {BLOCKS} blocks, one core")
    for goal in sorted(labels):
        while posterior.labels + ROUNDS * BATCH < goal:
            learn(posterior, world, min(256, goal - ROUNDS * BATCH - posterior.labels))
        update, draw, size = cost(posterior, world)
        seconds[goal] = update + draw
        growth = f", {seconds[goal] / seconds[min(seconds)]:.2f} times that at {min(seconds):,}"
        print(
            f"{goal:7,} labels: update {update:.2f} s, draw {draw:.2f} s{growth}; state {size / 2**20:,.0f} MiB",
            flush=True,
        )


def losses(labels: int) -> None:
    print(f"log-loss on unseen pairs after {labels:,} labels, 1,500 features, and by the true reward")
    for decay in (0.5, 1.0, 1.5):
        found = []
        for recent in (laplace.RECENT, labels):
            world = World(1500, decay)
            posterior = Laplace(1500)
            with patch.object(laplace, "RECENT", recent):
                learn(posterior, world, labels)
            first_N_D, second_N_D, logit_N = world.duels(4000)
            truth_N = torch.sigmoid(logit_N)
            found.append(float(binary_cross_entropy(posterior.chance(first_N_D, second_N_D), truth_N)))
            best = float(binary_cross_entropy_with_logits(logit_N, truth_N))
        print(
            f"variance falls with rank^-{decay}: {found[0]:.4f} bounded, {found[1]:.4f} by all labels, {best:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=12_000)
    parser.add_argument("--labels", type=int, nargs="+", default=[1_000, 10_000, 50_000])
    parser.add_argument("--kept", type=int, default=2_000)
    arguments = parser.parse_args()
    use_threads(1)
    losses(arguments.kept)
    costs(arguments.features, arguments.labels)
