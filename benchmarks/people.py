"""What it saves that people share a posterior: how soon it knows the taste of somebody new.

    python -m benchmarks.people [--seeds N]

Nine people in three camps have each answered 56 duels of responses of the initial policy of `lexicon`, with the noise
of the Bradley-Terry model. All value the same style, and each camp other nouns. A tenth of one of the camps arrives.
How many pairs of unseen prompts does the posterior order as the tenth does (without noise), after so many answers of
theirs?
``own`` learns from these answers alone, ``pooled`` takes everybody for one person, ``shared`` tells people apart, and
``shuffled``, the control, does so with everybody's names dealt at random.

Writes ``benchmarks/results/people.json`` and prints a table; it takes half an hour of one core.

Dimension legend: P prompts, M responses of a prompt, D features, N duels.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.selection import Responses, respond
from sea_agent.bandit.laplace import Laplace
from sea_agent.bandit.people import People
from sea_agent.lab.records import four_digits
from sea_agent.lab.statistics import estimate
from sea_agent.pretrained import use_threads
from sea_agent.seeding import generator_for
from sea_agent.worlds import lexicon

RESULTS = Path(__file__).parent / "results" / "people.json"
CAMPS, MEMBERS, ANSWERS = 3, 3, 56
ARMS = ("own", "pooled", "shared", "shuffled")
OWN = (0, 8, 16, 32, 64, 128)
TASTE = 1.0
"""Standard deviation of what a camp adds to the value of a noun, in logits."""
_HELD_OUT, _PAIRS = 100, 2000


@dataclass(frozen=True)
class Duels:
    """N duels as features, and the probability with which each camp prefers the first response."""

    first_N_D: Tensor
    second_N_D: Tensor
    chance_C_N: Tensor


def camp_rewards(world: Responses, seed: int) -> Tensor:
    """rewards_C_P_M: the hidden reward of the world, with a taste in nouns of each camp instead of the world's."""
    generator = generator_for("people", seed, "tastes")
    nouns = np.array(lexicon.NOUNS)
    own_C_W = generator.normal(0.0, TASTE, (CAMPS, len(nouns)))
    rows = []
    for prompt, texts in world.texts:
        for text in texts:
            named = np.isin(nouns, lexicon.read(prompt, text).named)
            rows.append(own_C_W[:, named].sum(1))
    return world.rewards_P_M + torch.tensor(np.array(rows).T).view(CAMPS, *world.rewards_P_M.shape)


def draw_duels(world: Responses, rewards_C_P_M: Tensor, prompts: range, count: int, *key: Any) -> Duels:
    """Random pairs of responses to random prompts, of different texts."""
    generator = generator_for("people", *key)
    rows_N = torch.from_numpy(generator.integers(prompts.start, prompts.stop, 4 * count))
    pairs_N_2 = torch.from_numpy(generator.integers(0, world.rewards_P_M.shape[1], (4 * count, 2)))
    text_P_M = torch.from_numpy(world.text_P_M)
    different = text_P_M[rows_N, pairs_N_2[:, 0]] != text_P_M[rows_N, pairs_N_2[:, 1]]
    rows_N, pairs_N_2 = rows_N[different][:count], pairs_N_2[different][:count]
    first, second = (rows_N, pairs_N_2[:, 0]), (rows_N, pairs_N_2[:, 1])
    margin_C_N = rewards_C_P_M[:, *first] - rewards_C_P_M[:, *second]
    return Duels(world.features_P_M_D[first], world.features_P_M_D[second], torch.sigmoid(margin_C_N))


def play(world: Responses, seed: int) -> dict[str, list[float]]:
    """The share of unseen pairs that each arm orders as the tenth person does, after so many of their answers."""
    rewards_C_P_M, asked = camp_rewards(world, seed), range(len(world.rewards_P_M) - _HELD_OUT)
    unseen = range(asked.stop, len(world.rewards_P_M))
    keyed = generator_for("people", seed, "answers")
    people = [f"{camp}-{member}" for camp in range(CAMPS) for member in range(MEMBERS)] + ["new"]
    given = [
        draw_duels(world, rewards_C_P_M, asked, OWN[-1] if person == "new" else ANSWERS, seed, person)
        for person in people
    ]
    camps = [0 if person == "new" else int(person[0]) for person in people]
    wins = [
        torch.from_numpy(keyed.random(len(duels.first_N_D)) < duels.chance_C_N[camp].numpy()).float()
        for duels, camp in zip(given, camps, strict=True)
    ]
    test = draw_duels(world, rewards_C_P_M, unseen, _PAIRS, seed, "unseen")
    right_N = test.chance_C_N[0] > 0.5

    def accuracy(arm: str, own: int) -> float:
        posterior = Laplace(
            sum(world.blocks),
            blocks=world.blocks,
            people=People(seed=seed) if arm in ("shared", "shuffled") else None,
        )
        told = [name for name in people if arm != "own" or name == "new"]
        who = [name for name in told for _ in range(own if name == "new" else ANSWERS)]
        if arm == "shuffled":
            who = generator_for("people", seed, "names", own).permutation(who).tolist()
        kept = [slice(own if name == "new" else ANSWERS) for name in told]
        sources = [people.index(name) for name in told]
        first, second, won = (
            torch.cat([column[place][part] for place, part in zip(sources, kept, strict=True)])
            for column in ([one.first_N_D for one in given], [one.second_N_D for one in given], wins)
        )
        if len(won):
            posterior.add(first, second, won, who=who)
            posterior.update()
        believed_N = posterior.chance(test.first_N_D, test.second_N_D, ["new"] * _PAIRS) > 0.5
        return float((believed_N == right_N).float().mean()) if len(won) else 0.5

    return {arm: [accuracy(arm, own) for own in OWN] for arm in ARMS}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    use_threads(1)
    world, console = respond("lexicon"), Console()
    found = []
    for seed in range(seeds):
        found.append(play(world, seed))
        console.print(seed, {arm: [round(value, 3) for value in values] for arm, values in found[-1].items()})
    arms = {
        arm: [
            [four_digits(value) for value in (one.mean, one.low, one.high) if value is not None]
            for one in (estimate([play[arm][place] for play in found]) for place in range(len(OWN)))
        ]
        for arm in ARMS
    }
    RESULTS.write_text(json.dumps({"seeds": seeds, "own": OWN, "arms": arms}) + "\n", encoding="utf-8")
    table = Table("answers of the new person", *map(str, OWN), title=f"pairs in the right order, {seeds} seeds")
    for arm, values in arms.items():
        table.add_row(arm, *(f"{value[0]:.3f}" for value in values))
    console.print(table)


if __name__ == "__main__":
    main()
