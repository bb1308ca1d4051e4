"""How good labels are: agreement of annotators with each other, with themselves and with gold, and position bias.

Everything here is a function of plain rows, ``Answer``. A figure that cannot be computed is None, never NaN. Outcomes
are in the query's own order, but for position bias, which asks what was shown first. Intervals cover 95 %.

Array names end in their dimensions: D duels, V values (outcomes), P patterns of votes, R resamples.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import krippendorff
import numpy as np
from numpy.typing import NDArray

from sea_agent.seeding import generator_for
from sea_agent.service.schemas.quality import AgreementOut, AnnotatorOut, RateOut
from sea_agent.service.store.tables import OUTCOMES

LEAST_DUELS = 20
"""Duels with two votes from which agreement gets an interval."""
LONGEST_GAP_SECONDS = 300.0
"""Between two answers; a longer one is a pause."""
_RESAMPLES = 2000

Counts = NDArray[np.int64]
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """An annotator's answer to a duel, corrections applied; ``elapsed_ms``, ``late``, ``at`` are the first answer's."""

    query: str
    annotator: str
    kind: str
    outcome: str
    swapped: bool | None = None
    gold: str | None = None
    late: bool = False
    elapsed_ms: int | None = None
    at: float | None = None


# --- a run, and each annotator ---------------------------------------------------------------------------------------


def agreement(answers: Sequence[Answer]) -> AgreementOut:
    """How far the labels of a run can be trusted."""
    votes = [answer for answer in answers if answer.kind == "vote"]
    counts_D_V = _counts(votes)
    low, high = alpha_interval(counts_D_V) or (None, None)
    return AgreementOut(
        votes=len(votes),
        duels=len(counts_D_V),
        compared=int((counts_D_V.sum(1) >= 2).sum()),
        annotators=len({answer.annotator for answer in answers}),
        alpha=alpha(counts_D_V),
        alpha_low=low,
        alpha_high=high,
        self_agreement=self_agreement(answers),
        gold_accuracy=_gold_accuracy(answers),
        gold_kappa=_gold_kappa(answers),
        first_shown=first_shown(answers),
        ties=rate(answer.outcome == "tie" for answer in votes),
        both_bad=rate(answer.outcome == "both_bad" for answer in votes),
    )


def annotators(answers: Sequence[Answer], skips: Mapping[str, int]) -> list[AnnotatorOut]:
    """Everybody who answered or skipped, by name. ``skips`` counts the duels that somebody skipped."""
    own: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        own[answer.annotator].append(answer)
    agreed = agreed_with_others(answers)
    return [
        _annotator(name, own.get(name, []), skips.get(name, 0), agreed.get(name, []))
        for name in sorted(own.keys() | skips.keys())
    ]


def _annotator(name: str, answers: Sequence[Answer], skips: int, agreed: Sequence[bool]) -> AnnotatorOut:
    seconds = [answer.elapsed_ms / 1000 for answer in answers if answer.elapsed_ms is not None]
    times = [answer.at for answer in answers if answer.at is not None]
    median, p90 = np.quantile(seconds, [0.5, 0.9]).tolist() if seconds else (None, None)
    return AnnotatorOut(
        annotator=name,
        answers=len(answers),
        votes=sum(answer.kind == "vote" for answer in answers),
        skips=skips,
        last_at=max(times, default=None),
        per_hour=per_hour(times),
        median_s=median,
        p90_s=p90,
        gold_accuracy=_gold_accuracy(answers),
        gold_kappa=_gold_kappa(answers),
        self_agreement=self_agreement(answers),
        with_others=rate(agreed),
        first_shown=first_shown(answers),
        late=rate(answer.late for answer in answers),
    )


# --- figures ---------------------------------------------------------------------------------------------------------


def rate(hits: Iterable[bool]) -> RateOut:
    """The share of hits with its Wilson interval."""
    from scipy.stats import binomtest  # takes longer to import than a service may take to be ready

    found = list(hits)
    if not found:
        return RateOut(n=0, share=None, low=None, high=None)
    interval = binomtest(sum(found), len(found)).proportion_ci(method="wilson")
    share = sum(found) / len(found)
    return RateOut(n=len(found), share=share, low=float(interval.low), high=float(interval.high))


def per_hour(times: Iterable[float]) -> float | None:
    """Answers in an hour of work: how many came how soon after the one before, where that was no pause."""
    gaps = [later - earlier for earlier, later in pairwise(sorted(times))]
    working = [gap for gap in gaps if gap <= LONGEST_GAP_SECONDS]
    return len(working) * 3600 / sum(working) if any(working) else None


def majority(outcomes: Iterable[str]) -> str | None:
    """The most frequent outcome; None when two are equally frequent, or there is none."""
    (first, most), (_, next_most) = [*Counter(outcomes).most_common(2), (None, 0), (None, 0)][:2]
    return first if most > next_most else None


def self_agreement(answers: Iterable[Answer]) -> RateOut:
    """How often an annotator who met a duel again said the same."""
    said: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for answer in answers:
        said[answer.annotator, answer.query][answer.kind] = answer.outcome
    return rate(pair["vote"] == pair["repeat"] for pair in said.values() if {"vote", "repeat"} <= pair.keys())


def agreed_with_others(answers: Iterable[Answer]) -> dict[str, list[bool]]:
    """By annotator: whether each vote is the most frequent one of the others on the same duel, where they have one."""
    votes: dict[str, dict[str, str]] = defaultdict(dict)
    for answer in answers:
        if answer.kind == "vote":
            votes[answer.query][answer.annotator] = answer.outcome
    agreed: dict[str, list[bool]] = defaultdict(list)
    for given in votes.values():
        for name, outcome in given.items():
            others = majority(theirs for other, theirs in given.items() if other != name)
            if others is not None:
                agreed[name].append(outcome == others)
    return agreed


def first_shown(answers: Iterable[Answer]) -> RateOut:
    """How often the response that was shown first won, of the answers with a winner: ½ without position bias."""
    return rate(
        (answer.outcome == "second") == answer.swapped
        for answer in answers
        if answer.swapped is not None and answer.outcome in ("first", "second")
    )


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's κ of two raters who rated the same things (Cohen 1960): agreement beyond chance, 1 at most.

    None without pairs, and where both raters always give one and the same rating, so that chance explains everything.
    """
    n = len(pairs)
    one, other = (Counter(ratings) for ratings in zip(*pairs, strict=True)) if pairs else (Counter(), Counter())
    by_chance = sum(one[rating] * other[rating] for rating in one)  # times n²
    if by_chance == n * n:
        return None
    agreed = sum(mine == theirs for mine, theirs in pairs)
    return (agreed * n - by_chance) / (n * n - by_chance)


def alpha(counts_D_V: Counts) -> float | None:
    """Krippendorff's α for nominal data, from the number of votes for each outcome of each duel.

    1 is perfect agreement, 0 is what chance gives; None where no duel has two votes, or all of those say the same thing
    about every duel, so that there is nothing to agree on.
    """
    paired_D_V = counts_D_V[counts_D_V.sum(1) >= 2]
    if (paired_D_V.sum(0) > 0).sum() < 2:
        return None
    return float(krippendorff.alpha(value_counts=paired_D_V, level_of_measurement="nominal"))


def alpha_interval(counts_D_V: Counts) -> Interval | None:
    """Percentile bootstrap interval of α over duels.

    None for fewer than ``LEAST_DUELS`` duels with two votes, and where some resample has no α.
    """
    paired_D_V = counts_D_V[counts_D_V.sum(1) >= 2]
    if len(paired_D_V) < LEAST_DUELS:
        return None
    patterns_P_V, times_P = np.unique(paired_D_V, axis=0, return_counts=True)
    generator = generator_for("bootstrap over duels")
    times_R_P = generator.multinomial(len(paired_D_V), times_P / len(paired_D_V), size=_RESAMPLES)
    alphas_R = alphas(patterns_P_V, times_R_P)
    if np.isnan(alphas_R).any():
        return None
    low, high = np.quantile(alphas_R, [0.025, 0.975])
    return float(low), float(high)


def alphas(patterns_P_V: Counts, times_R_P: Counts) -> NDArray[np.float64]:
    """α of many samples at once, NaN where there is none: ``times_R_P`` says how often each has a pattern of votes.

    Few patterns stand for all duels, so the cost does not grow with their number. For nominal data,
    α = 1 − (n − 1) Σ_v (n_v − o_vv) / Σ_v n_v (n − n_v), where n_v counts votes and o_vv pairs of equal ones, each
    duel's divided by its votes − 1 (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C).
    """
    votes_P = patterns_P_V.sum(1, keepdims=True)
    agreeing_R_V = times_R_P @ (patterns_P_V * (patterns_P_V - 1) / (votes_P - 1))
    n_R_V = (times_R_P @ patterns_P_V).astype(np.float64)
    n_R = n_R_V.sum(1)
    by_chance_R = (n_R_V * (n_R[:, None] - n_R_V)).sum(1)
    disagreeing_R = (n_R_V - agreeing_R_V).sum(1)
    with np.errstate(invalid="ignore"):
        return 1.0 - (n_R - 1) * disagreeing_R / by_chance_R


def _gold_accuracy(answers: Iterable[Answer]) -> RateOut:
    return rate(outcome == gold for outcome, gold in _with_gold(answers))


def _gold_kappa(answers: Iterable[Answer]) -> float | None:
    return kappa(_with_gold(answers))


def _with_gold(answers: Iterable[Answer]) -> list[tuple[str, str]]:
    """(what was said, what is right) of every answer to a gold duel."""
    return [(answer.outcome, answer.gold) for answer in answers if answer.gold is not None]


def _counts(votes: Iterable[Answer]) -> Counts:
    """counts_D_V: the votes for each outcome of each duel, by duel, so that no order of answers changes a last bit."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for vote in votes:
        counts[vote.query][vote.outcome] += 1
    rows = [[duel[outcome] for outcome in OUTCOMES] for _, duel in sorted(counts.items())]
    return np.array(rows, dtype=np.int64).reshape(-1, len(OUTCOMES))
