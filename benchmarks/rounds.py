"""CPU seconds per round by stage, beside a bare loop that does the same work without the framework.

    python -m benchmarks.rounds [--rounds 40] [--repeats 3] [--config sea] [--set KEY=VALUE ...]

Both loops sample the same number of responses of the same prompts with the same model, compute the same features,
fit the same posterior, apply the same rule, ask the same world and take one optimiser step on as many pairs. They run
in turn in one process, so the ratio holds when the machine's speed drifts.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from actors.runtime import InlineRuntime
from benchmarks.bare import BarePolicy
from oracle.base import bradley_terry
from sea_agent.bandit.posterior import make_posterior
from sea_agent.bandit.selection import select_pairs
from sea_agent.config import RunConfig
from sea_agent.config.files import load_config
from sea_agent.features import make_features
from sea_agent.persistence.ledger import Ledger
from sea_agent.pretrained import use_threads
from sea_agent.run.assembly import assemble
from sea_agent.run.preflight import check
from sea_agent.seeding import generator_for
from sea_agent.types import Response
from sea_agent.worlds import scorer

Seconds = dict[str, float]
STAGES = ("sample", "features", "select", "ask", "label", "learn", "publish", "update")


def framework(config: RunConfig, rounds: int) -> Seconds:
    """CPU seconds per round of the agent, by stage."""
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
        runtime = InlineRuntime()
        agent = assemble(config, check(config), runtime, ledger)
        features = _timed_features(agent.selector)
        agent.round()
        agent.stopwatch.take()
        features.clear()
        for _ in range(rounds):
            agent.round()
        seconds = {name: spent.cpu / rounds for name, spent in agent.stopwatch.take().items()}
    seconds["features"] = sum(features) / rounds
    seconds["select"] -= seconds["features"]
    return seconds


def bare(config: RunConfig, rounds: int) -> Seconds:
    """CPU seconds per round of the plain loop, by stage."""
    loop = BareLoop(config)
    loop.round()
    loop.seconds.clear()
    for _ in range(rounds):
        loop.round()
    return {name: spent / rounds for name, spent in loop.seconds.items()}


class BareLoop:
    """What a researcher would write in one file."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.policy = BarePolicy(config)
        self.features = make_features(config.posterior, config.policy, None, config.compute)
        self.posterior: Any = None
        self.prompts = check(config).prompts
        self.reward = scorer("lexicon", "reward")
        self.seconds: dict[str, float] = defaultdict(float)
        self.rounds = 0

    def round(self) -> None:
        """One round of the same work."""
        config, self.rounds = self.config, self.rounds + 1
        assert self.prompts is not None
        prompts = self.prompts.next(config.batch_size)
        with self.stage("sample"):
            candidates = self.policy.sample(prompts)
        with self.stage("features"):
            rows = self.features.features([(p, r) for p, group in zip(prompts, candidates, strict=True) for r in group])
        with self.stage("select"):
            draws, valid, values = self.draw(rows, candidates)
            pairs = select_pairs(config.selection.rule, draws, valid, generator_for("rule", self.rounds)).tolist()
        with self.stage("ask"):
            wins = [
                bradley_terry(self.reward(p.text, group[i].text), self.reward(p.text, group[j].text)) > 0.5
                for p, group, (i, j) in zip(prompts, candidates, pairs, strict=True)
            ]
        with self.stage("learn"):
            self.policy.learn(
                [
                    (p, group[i], group[j]) if won else (p, group[j], group[i])
                    for p, group, (i, j), won in zip(prompts, candidates, pairs, wins, strict=True)
                ]
            )
        with self.stage("update"):
            index = torch.arange(len(pairs))
            first, second = (values[index, torch.tensor(pairs)[:, side]] for side in (0, 1))
            ids = [f"{self.rounds}-{row}" for row in range(len(pairs))]
            self.posterior.add(first, second, torch.tensor(wins).float(), ids)
            self.posterior.update(generator_for("update", self.rounds))

    def draw(self, rows: torch.Tensor, groups: list[list[Response]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Posterior draws, the mask of real candidates, and the padded features."""
        if self.posterior is None:
            self.posterior = make_posterior(self.config.posterior, self.features.blocks, 0)
        width = max(map(len, groups))
        valid = torch.tensor([[column < len(group) for column in range(width)] for group in groups])
        values = torch.zeros(len(groups), width, rows.shape[1])
        values[valid] = rows
        return self.posterior.draw(values, generator_for("draw", self.rounds)), valid, values

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure one stage."""
        began = time.process_time()
        yield
        self.seconds[name] += time.process_time() - began


def _timed_features(selector: Any) -> list[float]:
    """Wrap the inline selector's feature map; the list grows by the CPU seconds of each call."""
    feature_map, spent = selector._target._features, []
    original = feature_map.features

    def timed(pairs: Any) -> torch.Tensor:
        began = time.process_time()
        result = original(pairs)
        spent.append(time.process_time() - began)
        return result

    feature_map.features = timed
    return spent


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--config", default="sea")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    fixed = [
        "runtime=inline",
        "mixing.oracle_share=1.0",
        "imagination.rounds=0",
        "budget.oracle_queries=1000000",
        "oracle.labels=threshold",
    ]
    config = load_config(arguments.config, [*fixed, *arguments.set])
    use_threads(config.threads)
    measured = [(framework(config, arguments.rounds), bare(config, arguments.rounds)) for _ in range(arguments.repeats)]
    print(f"CPU seconds per round of {config.batch_size} duels, medians of {arguments.repeats} runs")
    print(f"{'stage':>10} {'sea-agent':>10} {'bare loop':>10}")
    for stage in STAGES:
        ours, theirs = (statistics.median(run[side].get(stage, 0.0) for run in measured) for side in (0, 1))
        print(f"{stage:>10} {ours:>10.4f} {theirs:>10.4f}")
    totals = [(sum(ours.values()), sum(theirs.values())) for ours, theirs in measured]
    ours, theirs = (statistics.median(pair[side] for pair in totals) for side in (0, 1))
    print(f"{'total':>10} {ours:>10.4f} {theirs:>10.4f}")
    ratios = sorted(ours / theirs for ours, theirs in totals)
    print(f"ratio of the totals: {statistics.median(ratios):.3f} (from {ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
