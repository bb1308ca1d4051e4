"""What ``benchmarks/live_load.py`` finds out afterwards: whose weights made each response, what was lost, what grew."""

import json
import sqlite3
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from scipy import stats

from actors.hf_sampler import HfSampler
from sea_agent.config import PolicyConfig
from sea_agent.lab.statistics import CONFIDENCE
from sea_agent.live.measuring import FILE
from sea_agent.types import TokenRow
from sea_agent.weights import WeightUpdate, checksum

TOLERANCE = 1e-4
"""Nats by which a token's log-probability may differ from the one that is recomputed."""
BLOCKS = 20
_ROWS = 512  # scored between two looks


@dataclass(frozen=True)
class Drawn:
    """A response as the service keeps it."""

    id: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    version: int

    @property
    def row(self) -> TokenRow:
        return self.prompt_ids, self.token_ids


@dataclass
class Agreement:
    """How recomputed log-probabilities compare. ``wrong`` are responses that the weights they name did not make, and
    ``largest`` is the largest difference, in nats, of the others."""

    exact: int = 0
    across: int = 0
    """Responses under which the weights changed: they name the older ones, as they should."""
    wrong: list[str] = field(default_factory=list)
    largest: float = 0.0


class Recomputing:
    """Computes responses again with transformers alone.

    Args:
        policy: directory of the policy.
        weights: the directory of each version that served.
    """

    def __init__(self, policy: str, weights: Mapping[int, Path]) -> None:
        self._weights, self._order = dict(weights), sorted(weights)
        self._samplers = [HfSampler(PolicyConfig(path=policy), device="cpu") for _ in range(2)]
        self._held: list[int | None] = [None, None]

    def compare(self, responses: Iterable[Drawn]) -> Agreement:
        """All responses with the weights that they name."""
        found = Agreement()
        for version, group in groupby(sorted(responses, key=lambda one: one.version), key=lambda one: one.version):
            of_version = list(group)
            for start in range(0, len(of_version), _ROWS):
                part = of_version[start : start + _ROWS]
                scored = self._holding(0, version).logprobs([one.row for one in part])
                for one, values in zip(part, scored, strict=True):
                    difference = _difference(one.logprobs, values)
                    if difference <= TOLERANCE:
                        found.exact += 1
                    elif (difference := self._across(one, values)) <= TOLERANCE:
                        found.across += 1
                    else:
                        found.wrong.append(one.id)
                        continue
                    found.largest = max(found.largest, difference)
        return found

    def _across(self, one: Drawn, values: Sequence[float]) -> float:
        """The largest difference if later weights came where the first token differs, those that fit best; at the first
        token they cannot, as it would name them. They are the next ones, or others after an engine started anew."""
        kept = next(place for place, (a, b) in enumerate(zip(one.logprobs, values, strict=True)) if not _agree(a, b))
        smallest = np.inf
        for later in self._order[self._order.index(one.version) + 1 :] if kept else []:
            smallest = min(smallest, _difference(one.logprobs, [*values[:kept], *self._rest(one, kept, later)]))
            if smallest <= TOLERANCE:
                break
        return smallest

    @torch.inference_mode()
    def _rest(self, one: Drawn, kept: int, later: int) -> list[float]:
        """The tokens from ``kept`` on with later weights, over what those that the response names had cached."""
        before, after = self._holding(0, one.version)._model, self._holding(1, later)._model
        read = before(input_ids=torch.tensor([[*one.prompt_ids, *one.token_ids[: kept - 1]]]), use_cache=True)
        cache, found = read.past_key_values, []
        for place in range(kept, len(one.token_ids)):
            ids = torch.tensor([[one.token_ids[place - 1]]])
            step = after(input_ids=ids, past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            found.append(float(step.logits[0, -1].double().log_softmax(-1)[one.token_ids[place]]))
        return found

    def _holding(self, place: int, version: int) -> HfSampler:
        """One of the two samplers, with the weights of a version."""
        if self._held[place] != version:
            tensors = load_file(self._weights[version] / FILE)
            update = WeightUpdate(version, tensors, checksum(tensors))
            if self._samplers[place].load_weights(update) != update.checksum:
                raise ValueError(f"version {version}: its weights do not fit the policy")
            self._held[place] = version
        return self._samplers[place]


def mislabelled(responses: Sequence[Drawn], weights: Mapping[int, Path], count: int) -> list[Drawn]:
    """A control: some of the responses, each with the name of the nearest other weights, older or newer in turn."""
    order = sorted(weights)
    made = []
    for turn, one in enumerate(responses[:: max(1, len(responses) // count)][:count]):
        others = [version for version in order if weights[version] != weights[one.version]]
        sides = [[other for other in others if other < one.version][-1:], [o for o in others if o > one.version][:1]]
        near = sides[turn % 2] or sides[1 - turn % 2]
        made += [replace(one, version=other) for other in near]
    return made


def kept_responses(rows: Iterable[tuple[str, str]]) -> list[Drawn]:
    """The responses of completions, by their columns ``prompt`` and ``responses``."""
    found = []
    for prompt, responses in rows:
        prompt_ids = tuple(json.loads(prompt)["token_ids"])
        for one in json.loads(responses):
            tokens, logprobs = tuple(one["token_ids"]), tuple(one["logprobs"])
            found.append(Drawn(one["id"], prompt_ids, tokens, logprobs, one["policy_version"]))
    return found


@dataclass(frozen=True)
class Lost:
    """Completions and picks, by what users were told and what is on disk."""

    lost: int
    """Told to a user, and not on disk as answered; or a pick that was acknowledged and is no label."""
    doubled: int
    """Told twice, or a pick that is two labels."""
    unheard: int
    """Answered on disk before the end, and told to nobody: a request that was answered twice leaves one."""


def lost(
    told: Sequence[str], picks: Sequence[str], done: Sequence[tuple[str, float]], labels: Sequence[str], end: float
) -> Lost:
    """Compare ids of completions: those that users were told and whose picks were acknowledged, with those that are
    answered on disk, each with the time, and have a label there."""
    on_disk, labelled, heard = Counter(one for one, _ in done), Counter(labels), Counter(told)
    twice = [*heard.values(), *on_disk.values(), *labelled.values()]
    missing = sum(one not in on_disk for one in heard) + sum(one not in labelled for one in set(picks))
    unheard = sum(one not in heard for one, at in done if at < end)
    return Lost(missing, sum(count > 1 for count in twice), unheard)


@dataclass(frozen=True)
class Learnt:
    """The answers in the agent's ledger."""

    answers: int
    strange: int
    """Those that no user gave, or gave otherwise."""
    waiting: int
    """Answers to duels that it has not taken yet."""


def learnt(verdicts: Mapping[str, str], labels: Mapping[str, str]) -> Learnt:
    """Compare the outcomes in the agent's ledger with those that users gave to duels, by completion."""
    strange = sum(labels.get(one) != outcome for one, outcome in verdicts.items())
    return Learnt(len(verdicts), strange, len(labels.keys() - verdicts))


def after_kills(kills: Sequence[tuple[float, str]], times: Iterable[float]) -> dict[str, int]:
    """How many of the times came after a kill of each part, and before the next kill."""
    order = sorted(kills)
    counts = dict.fromkeys((name for _, name in order), 0)
    for at in times:
        if place := bisect([when for when, _ in order], at):
            counts[order[place - 1][1]] += 1
    return counts


@dataclass(frozen=True)
class Growth:
    """Megabytes of a process in equal parts of the time, and how many more it has each hour, with a 95 % interval."""

    sizes: list[float]
    per_hour: float
    low: float
    high: float


def growth(hours: Sequence[float], megabytes: Sequence[float]) -> Growth:
    """The slope by least squares through the means of ``BLOCKS`` equal parts: single samples are not independent."""
    parts = np.array_split(np.column_stack([hours, megabytes]), min(BLOCKS, len(hours)))
    times, sizes = np.array([part.mean(axis=0) for part in parts]).T
    fitted = stats.linregress(times, sizes)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(parts) - 2) * np.nan_to_num(fitted.stderr)  # none where all are equal
    return Growth(sizes.tolist(), fitted.slope, fitted.slope - half, fitted.slope + half)


def rows_of(database: Path, query: str) -> list[sqlite3.Row]:
    """Rows of the service's database, which nobody writes any more."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(query).fetchall()


def _agree(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE


def _difference(some: Sequence[float], others: Sequence[float]) -> float:
    return max(map(abs, np.subtract(some, others)), default=0.0)
