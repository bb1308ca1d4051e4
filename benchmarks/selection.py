"""Selection rules on real responses and text features, with a policy that is tilted instead of trained.

    python -m benchmarks.selection

A trained run takes minutes, and two of one seed differ by up to 1.4 times in the answers that they need. Here each
prompt of a built-in world has 40 fixed responses of the initial policy, and the policy is the one that training towards
the posterior's mean reward r̂ with a bound on the divergence ends at, π ∝ π_initial · exp(t r̂) (arXiv 2305.18290,
equation 4). The posterior, its features, the rounds and the candidates are those of the preset ``sea``. The policy that
is asked about goes away from the initial one as answers come, though less far than in trained runs, as 40 responses
allow. The one that is measured is always as far as the best of 20 responses: its win rate then says what the answers
have taught, where that of a policy held near the initial one would rise with the bound, whatever was learnt. A run
takes seconds, so that many seeds can be afforded.

Writes ``benchmarks/results/selection.json`` and prints tables of it; it takes 40 minutes on two cores.

Dimension legend: S draws, R runs, C rounds, P prompts, B prompts of a round, M responses of a prompt, D features,
Q duels to choose from.
"""

import argparse
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from actors.hf_sampler import HfSampler
from actors.sampling import SampleRequest
from benchmarks.worlds import RESPONSE_TOKENS, read_prompts
from sea_agent.bandit.laplace import Laplace
from sea_agent.bandit.selection import pair_information, select_pairs
from sea_agent.config import PolicyConfig
from sea_agent.features.text import TextFeatures
from sea_agent.lab.records import four_digits
from sea_agent.lab.statistics import Reach, estimate, label_saving
from sea_agent.pretrained import load_tokenizer, use_threads
from sea_agent.seeding import generator_for, id_for, seed_for
from sea_agent.types import Prompt, Response
from sea_agent.worlds import resolve, scorer

RESULTS = Path(__file__).parent / "results" / "selection.json"
WORLDS = ("lexicon", "kitchen")
RANDOM = "uniform"
PREDICTIVE = "predictive"
"""Not a rule of the package: ``most_predictive``."""
RULES = (RANDOM, "sea_ee", "sea_bai", "best_worst", "uncertainty", "information", PREDICTIVE)
BITS = ("told", "tellable")
LEVEL = 0.8
ANSWERS = 160
FAR = math.log(20) - 19 / 20
"""KL(π ‖ π_initial) in nats of the policy that is measured: that of the best of 20 responses."""
_ASKED, _HELD_OUT, _RESPONSES = 320, 100, 40
_OWN = 15  # candidates from the policy; one more is from the initial policy
_TEMPERATURE, _TOKENS = 0.7, 14
_DRAWS = 20  # that a rule sees
_JOINT_DRAWS = 500  # that tell what duels have in common, and what an answer tells
_CHUNK = 64  # prompts that are answered at once, and rows whose features are made at once


@dataclass(frozen=True)
class Setting:
    """Rules that are compared: on which seeds, and how many duels are asked at once; ``sea`` asks 16."""

    batch: int
    rules: tuple[str, ...]
    seeds: range
    follows: bool = True
    """Whether the oracle is asked about responses of the policy, or of the initial policy all along."""


SETTINGS = (
    Setting(16, RULES, range(20)),
    # Once more, on seeds that had no part in the question.
    Setting(16, (RANDOM, "sea_ee", "sea_bai", "information"), range(20, 60)),
    Setting(16, (RANDOM, "sea_ee", "sea_bai", "information"), range(20, 40), follows=False),
    Setting(4, (RANDOM, "sea_ee", "information", PREDICTIVE), range(10)),
)


@dataclass(frozen=True)
class Responses:
    """The fixed responses of a world: what the posterior sees, the hidden reward, and which of them are equal."""

    texts: list[tuple[str, list[str]]]
    """Prompts with their responses."""
    features_P_M_D: Tensor
    blocks: tuple[int, ...]
    rewards_P_M: Tensor
    text_P_M: np.ndarray
    """The place of the first response of the prompt with the same tokens."""


@dataclass(frozen=True)
class LearningCurve:
    """A run: answers so far and the win rate after each round; and, in bits, what an answer told on average, and what
    the best pair of the same candidates would have told, by the posterior before it."""

    answers: tuple[int, ...]
    win_rate: tuple[float, ...]
    told: float
    tellable: float

    @property
    def reach(self) -> Reach:
        """Answers to the level, linear between rounds."""
        for place, rate in enumerate(self.win_rate):
            if rate >= LEVEL:
                before = slice(place - 1, place + 1) if place else slice(1)
                return Reach(float(np.interp(LEVEL, self.win_rate[before], self.answers[before])), censored=False)
        return Reach(float(self.answers[-1]), censored=True)


@cache  # a process plays several settings of a world
def respond(world: str) -> Responses:
    """Sample the initial policy of a world."""
    path = resolve(f"world://{world}/policy")
    policy = PolicyConfig(path=path)
    tokenizer, sampler = load_tokenizer(path), HfSampler(policy, device="cpu")
    texts = read_prompts(Path(resolve(f"world://{world}/prompts.jsonl")))[: _ASKED + _HELD_OUT]
    prompts = [Prompt(id_for("prompt", text), text, tuple(tokenizer(text).input_ids)) for text in texts]
    rows: list[list[Response]] = []
    tokens = RESPONSE_TOKENS.get(world, _TOKENS)
    for start in range(0, len(prompts), _CHUNK):
        requests = [
            SampleRequest(f"{row:03d}-{place:02d}", prompt, seed_for(world, row, place), _TEMPERATURE, tokens)
            for row, prompt in enumerate(prompts[start : start + _CHUNK], start)
            for place in range(_RESPONSES)
        ]
        sampled = sorted(sampler.sample(requests), key=lambda response: response.id)
        rows += [sampled[first : first + _RESPONSES] for first in range(0, len(sampled), _RESPONSES)]
    features = TextFeatures(policy, _CHUNK, "cpu")
    pairs = [(prompt, response) for prompt, row in zip(prompts, rows, strict=True) for response in row]
    score = scorer(world, "reward")
    return Responses(
        [(prompt.text, [response.text for response in row]) for prompt, row in zip(prompts, rows, strict=True)],
        features.features(pairs).unflatten(0, (len(rows), _RESPONSES)),
        features.blocks,
        torch.tensor([score(prompt.text, response.text) for prompt, response in pairs]).view(len(rows), _RESPONSES),
        np.array([_first_places([response.token_ids for response in row]) for row in rows]),
    )


def play(world: Responses, rule: str, seed: int, batch: int, *, follows: bool = True) -> LearningCurve:
    """Ask for ``ANSWERS`` thresholded answers, ``batch`` at once, and see after every round what they have taught."""
    posterior = Laplace(sum(world.blocks), members=_DRAWS, blocks=world.blocks)
    joint = Laplace(sum(world.blocks), members=_JOINT_DRAWS, blocks=world.blocks)
    keyed = partial(generator_for, "selection", seed)
    order_P = keyed().permutation(_ASKED)
    answers, rates, told, tellable = [], [], [], []
    for done in range(0, ANSWERS, batch):
        prompts_B = order_P[np.arange(done, done + batch) % _ASKED]
        policy_B_M = tilted(posterior, world.features_P_M_D[prompts_B], divergence(done) if follows else 0.0)
        index_B_M, valid_B_M = _candidates(world.text_P_M[prompts_B], policy_B_M.numpy(), keyed(done, "candidates"))
        features_B_M_D = world.features_P_M_D[torch.from_numpy(prompts_B)[:, None], index_B_M]
        joint.load_state(posterior.state())
        shape = (1, valid_B_M.numel(), -1)  # as one prompt, so that one draw is one reward function for the round
        rewards_S_B_M = joint.draw(features_B_M_D.reshape(shape), keyed(done, "joint")).reshape(-1, *valid_B_M.shape)
        if rule == PREDICTIVE:
            pairs_B_2 = most_predictive(rewards_S_B_M, valid_B_M)
        else:
            drawn_S_B_M = posterior.draw(features_B_M_D, keyed(done, "rule"))
            pairs_B_2 = select_pairs(rule, drawn_S_B_M, valid_B_M, keyed(done, "chance"))
        asked_B, best_B = _bits(rewards_S_B_M, valid_B_M, pairs_B_2)
        told.append(float(asked_B.mean()))
        tellable.append(float(best_B.mean()))
        duelled_B_2_D = features_B_M_D[torch.arange(len(prompts_B))[:, None], pairs_B_2]
        rewards_B_2 = world.rewards_P_M[prompts_B].gather(1, index_B_M.gather(1, pairs_B_2))
        wins_B = ((rewards_B_2[:, 0] - rewards_B_2[:, 1]).sign() + 1) / 2
        ids = [f"{done}-{row}" for row in range(batch)]
        posterior.add(duelled_B_2_D[:, 0], duelled_B_2_D[:, 1], wins_B, ids)
        posterior.update(keyed(done, "update"))
        answers.append(done + batch)
        rates.append(_win_rate(posterior, world))
    return LearningCurve(tuple(answers), tuple(rates), float(np.mean(told)), float(np.mean(tellable)))


def divergence(answers: int) -> float:
    """KL(π ‖ π_initial) in nats of the policy that is asked about after so many answers."""
    return min(answers / 80, FAR)


def tilted(posterior: Laplace, features_P_M_D: Tensor, nats: float) -> Tensor:
    """policy_P_M of the given mean divergence from the initial policy, or as far as the rewards tell responses apart.

    It is the initial policy as long as the posterior has seen no label, as all rewards are then the same.
    """
    rewards_P_M = posterior.mean(features_P_M_D).to(torch.float64)
    low, high = -7.0, 7.0  # log t: KL rises with t
    for _ in range(40):
        middle = (low + high) / 2
        policy_P_M = torch.softmax(rewards_P_M * np.exp(middle), 1)
        found = np.log(policy_P_M.shape[1]) - float(torch.special.entr(policy_P_M).sum(1).mean())
        low, high = (middle, high) if found < nats else (low, middle)
    return policy_P_M


def most_predictive(rewards_S_P_M: Tensor, valid_P_M: Tensor) -> Tensor:
    """pairs_P_2: the duels that together tell most about the margins of all pairs of the round's candidates.

    Greedily the duel whose answer takes most from their summed variance (V-optimal design; a label has the Gaussian
    noise 1 / p (1 − p)), one for each prompt; each choice is conditioned on those before it.
    """
    first_Q, second_Q = torch.triu_indices(valid_P_M.shape[1], valid_P_M.shape[1], offset=1)
    prompt_Q, pair_Q = (valid_P_M[:, first_Q] & valid_P_M[:, second_Q]).nonzero(as_tuple=True)
    margins_S_Q = (rewards_S_P_M[:, :, first_Q] - rewards_S_P_M[:, :, second_Q])[:, prompt_Q, pair_Q]
    centred_S_Q = margins_S_Q - margins_S_Q.mean(0)
    covariance_Q_Q = centred_S_Q.T @ centred_S_Q / len(margins_S_Q)
    chance_S_Q = torch.sigmoid(margins_S_Q)
    noise_Q = 1 / (chance_S_Q * (1 - chance_S_Q)).mean(0)
    free_Q = torch.ones_like(prompt_Q, dtype=torch.bool)
    pairs_P_2 = torch.zeros(len(valid_P_M), 2, dtype=torch.int64)
    for _ in range(len(valid_P_M)):
        total_Q = covariance_Q_Q.diagonal() + noise_Q
        gain_Q = covariance_Q_Q.square().sum(1) / total_Q
        best = int(gain_Q.masked_fill(~free_Q, -torch.inf).argmax())
        pairs_P_2[prompt_Q[best]] = torch.stack([first_Q[pair_Q[best]], second_Q[pair_Q[best]]])
        free_Q &= prompt_Q != prompt_Q[best]
        row_Q = covariance_Q_Q[best] / total_Q[best].sqrt()
        covariance_Q_Q = covariance_Q_Q - row_Q[:, None] * row_Q
    return pairs_P_2


def _first_places(tokens: Sequence[tuple[int, ...]]) -> list[int]:
    return [tokens.index(one) for one in tokens]


def _candidates(text_B_M: np.ndarray, policy_B_M: np.ndarray, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """index_B_C of the different responses that were sampled, and which entries are real, at least two for each prompt:
    where the policy repeats itself, the initial one is sampled on."""
    rows = []
    for text_M, policy_M in zip(text_B_M, policy_B_M, strict=True):
        own = generator.choice(len(text_M), _OWN, p=policy_M)
        found = list(dict.fromkeys(text_M[[*own, generator.integers(len(text_M))]]))
        while len(found) < 2:
            found = list(dict.fromkeys([*found, text_M[generator.integers(len(text_M))]]))
        rows.append(torch.tensor(found))
    index_B_C = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    return index_B_C.clamp_min(0), index_B_C >= 0


def _bits(rewards_S_P_M: Tensor, valid_P_M: Tensor, pairs_P_2: Tensor) -> tuple[Tensor, Tensor]:
    """What the answer to each prompt's duel tells about the reward, in bits, and what the best of all pairs would."""
    first_Q, second_Q = torch.triu_indices(valid_P_M.shape[1], valid_P_M.shape[1], offset=1)
    bits_P_Q = pair_information(rewards_S_P_M) / np.log(2)
    low_P_1, high_P_1 = pairs_P_2.sort(1).values.split(1, dim=1)
    asked_P_Q = (first_Q == low_P_1) & (second_Q == high_P_1)
    real_P_Q = valid_P_M[:, first_Q] & valid_P_M[:, second_Q]
    return bits_P_Q[asked_P_Q], bits_P_Q.masked_fill(~real_P_Q, -torch.inf).amax(1)


def _win_rate(posterior: Laplace, world: Responses) -> float:
    """How often the policy's response to a held-out prompt beats one of the initial policy, a tie counting half."""
    policy_P_M = tilted(posterior, world.features_P_M_D[_ASKED:], FAR)
    rewards_P_M = world.rewards_P_M[_ASKED:]
    beats_P_M = ((rewards_P_M[:, :, None] - rewards_P_M[:, None, :]).sign().mean(2) + 1) / 2
    return float((policy_P_M * beats_P_M).sum(1).mean())


def _measure(world: str, setting: Setting) -> dict[str, Any]:
    use_threads(1)
    responses = respond(world)
    played = partial(play, responses, batch=setting.batch, follows=setting.follows)
    traces = {rule: [played(rule, seed) for seed in setting.seeds] for rule in setting.rules}
    return {
        "world": world,
        "batch": setting.batch,
        "follows": setting.follows,
        "seeds": list(setting.seeds),
        "rules": {rule: _figures(found, traces[RANDOM]) for rule, found in traces.items()},
    }


def _figures(traces: list[LearningCurve], random: list[LearningCurve]) -> dict[str, Any]:
    """Each as [mean, low, high]: answers to the level, the factor against random pairs with its t interval, win rates
    after each round and how far they are ahead of random pairs with the same seed, and its bits."""
    rates_C_R = np.array([trace.win_rate for trace in traces]).T
    factor = label_saving([(other.reach, trace.reach) for other, trace in zip(random, traces, strict=True)])
    return {
        "answers": _estimated([trace.reach.queries for trace in traces]),
        "never": sum(trace.reach.censored for trace in traces),
        "factor": _rounded(factor.mean, factor.t_low, factor.t_high),
        "win_rate": [_estimated(rates) for rates in rates_C_R],
        "ahead": [_estimated(ahead) for ahead in rates_C_R - np.array([trace.win_rate for trace in random]).T],
        **{key: _estimated([getattr(trace, key) for trace in traces]) for key in BITS},
    }


def _estimated(values: Sequence[float]) -> list[float]:
    found = estimate(values)
    return _rounded(found.mean, found.low, found.high)


def _rounded(*values: float | None) -> list[float]:
    """A mean and its interval; there are seeds enough for one."""
    return [four_digits(value) for value in values if value is not None]


def main() -> None:
    """Entry point."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    asked = [(world, setting) for setting in SETTINGS for world in WORLDS]
    with ProcessPoolExecutor(min(len(asked), os.cpu_count() or 1)) as pool:
        settings = list(pool.map(_measure, *zip(*asked, strict=True)))
    results = {"level": LEVEL, "answers": ANSWERS, "settings": settings}
    RESULTS.write_text(json.dumps(results) + "\n", encoding="utf-8")
    console = Console()
    for setting in settings:
        seeds = setting["seeds"]
        asked_of = "the policy" if setting["follows"] else "the initial policy"
        title = f"{setting['world']}, rounds of {setting['batch']} asked of {asked_of}, seeds {seeds[0]} to {seeds[-1]}"
        table = Table(title=title)
        for heading in ("rule", f"answers to {LEVEL}", "never", f"times fewer than {RANDOM}", "bits told", "tellable"):
            table.add_column(heading)
        for rule, row in setting["rules"].items():
            factor = "{:.2f} [{:.2f}, {:.2f}]".format(*row["factor"])
            table.add_row(rule, str(row["answers"][0]), str(row["never"]), factor, *(str(row[key][0]) for key in BITS))
        console.print(table)


if __name__ == "__main__":
    main()
