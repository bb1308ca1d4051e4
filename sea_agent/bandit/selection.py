"""Selection rules: which two candidates of each prompt are duelled (arXiv 2411.01493, section 4.3 and algorithm 1).

Every rule maps (rewards_S_P_M, valid_P_M, generator) to pairs_P_2 and never pairs a candidate with
itself or with one that is not valid. The draws come in an order of its own for each prompt
(``Posterior.draw``), so "draw 0" below is a fresh Thompson draw for every prompt. A reward may be anything,
even NaN, where a candidate is not valid.

Dimension legend: S posterior draws, P prompts, M candidates of a prompt, Q duels to choose from.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sea_agent.errors import RunFailure, UserError
from sea_agent.plugins import Plugin, accepted, is_own

Rule = Callable[..., Tensor]
"""(rewards_S_P_M, valid_P_M, generator) → pairs_P_2, and ``variance`` where it is among the parameters."""
Variance = Literal["probability", "difference"]
_CONTRACT = (
    "a rule is a function (rewards_S_P_M, valid_P_M, generator) that returns pairs_P_2, for each prompt the indices of "
    "two different candidates that valid_P_M marks"
)


def load_rule(name: str) -> Rule:
    """The built-in rule of that name, or a user's own from ``file.py:name``, which is tried on made-up draws.

    Raises:
        UserError: when the user's file, its function or what that returns is not as it has to be.
    """
    if not is_own(name):
        return RULES[name]
    rule = Plugin("selection.rule", name, _CONTRACT)
    chance = np.random.default_rng(0)
    for prompts, candidates in ((3, 5), (1, 2)):
        rewards_S_P_M = torch.from_numpy(chance.normal(size=(4, prompts, candidates)).astype(np.float32))
        valid_P_M = torch.arange(candidates).expand(prompts, -1) < torch.arange(2, prompts + 2)[:, None]
        # What is no candidate has the largest and the smallest rewards, so that a rule that overlooks this is found.
        rewards_S_P_M = torch.where(valid_P_M, rewards_S_P_M, 9.0 * (-1.0) ** torch.arange(candidates))
        select_pairs(rule, rewards_S_P_M, valid_P_M, chance)
    return rule


def select_pairs(
    rule: str | Rule,
    rewards_S_P_M: Tensor | None,
    valid_P_M: Tensor,
    generator: np.random.Generator,
    *,
    variance: Variance = "probability",
) -> Tensor:
    """The duel of each prompt, pairs_P_2 (int64): indices of the first and the second response.

    Args:
        rule: a name in ``RULES``, or a function like those there.
        rewards_S_P_M: posterior draws, for ``apl`` the implicit rewards as a single draw; None will do for
            ``passive`` and ``uniform``.
        valid_P_M: which candidates exist, bool.
        generator: decides what a rule leaves to chance; of the built-in ones only ``uniform`` and ``apl`` draw from it.
        variance: what ``sea_bai`` and ``uncertainty`` call uncertain.

    Raises:
        ValueError: when there is no such rule, a prompt has fewer than two valid candidates, or a rule lacks the
            rewards it needs.
        UserError: when the rule returns anything but a pair of different valid candidates for each prompt.
        RunFailure: when the reward of a valid candidate is not finite.
    """
    if isinstance(rule, str) and rule not in RULES:
        raise ValueError(f"unknown selection rule {rule!r}: give {', '.join(RULES)}, or a function of your own")
    function = RULES[rule] if isinstance(rule, str) else rule
    if (valid_P_M.sum(1) < 2).any():
        raise ValueError("a duel needs two different candidates: leave out prompts that have fewer than two")
    if rewards_S_P_M is None:
        if function not in (passive, uniform):
            raise ValueError(f"the selection rule {_name(function)} needs posterior draws of the rewards")
    elif function not in (passive, uniform) and not (rewards_S_P_M.isfinite() | ~valid_P_M).all():
        raise RunFailure("the posterior gave rewards that are not finite: check its settings and features")
    pairs_P_2 = function(rewards_S_P_M, valid_P_M, generator, **accepted(function, {"variance": variance}))
    if problem := _problem(pairs_P_2, valid_P_M):
        raise UserError(f"{_name(function)}: {problem}; {_CONTRACT}")
    return pairs_P_2.to(torch.int64)


def pad_candidates(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The candidates of P prompts, features (M_p, D) of each, as one tensor with zeros where a prompt has fewer.

    Returns:
        features_P_M_D, M the largest of the M_p, and valid_P_M, which entries are candidates.
    """
    features_P_M_D = pad_sequence(list(rows), batch_first=True)
    counts_P = torch.tensor([len(row) for row in rows])
    return features_P_M_D, torch.arange(features_P_M_D.shape[1]) < counts_P[:, None]


def diverse_duels(margins_S_Q: Tensor, count: int) -> Tensor:
    """Which ``count`` of Q possible duels to ask together, so that their labels tell most about the rewards.

    Greedily maximises ½ log det(I + W½ C W½), the information of labels with Gaussian noise: C is the covariance of the
    margins over the draws, W the curvature p (1 − p) of a label, its mean over the draws. Each choice is conditioned on
    those before it, so that two duels which tell the same are not both asked.

    Args:
        margins_S_Q: posterior draws of the reward of the first response minus that of the second; one draw must be one
            reward function for all Q duels, or their covariance says nothing.

    Returns:
        chosen_count (int64): indices of different duels, the most informative first.

    Raises:
        ValueError: when there are fewer than ``count`` duels.
    """
    draws, duels = margins_S_Q.shape
    if duels < count:
        raise ValueError(f"cannot choose {count} of {duels} duels")
    centred_S_Q = margins_S_Q - margins_S_Q.mean(0)
    covariance_Q_Q = centred_S_Q.T @ centred_S_Q / draws
    chance_S_Q = torch.sigmoid(margins_S_Q)
    curvature_Q = (chance_S_Q * (1 - chance_S_Q)).mean(0)
    free_Q = torch.ones_like(curvature_Q, dtype=torch.bool)
    chosen = [torch.empty(0, dtype=torch.int64, device=margins_S_Q.device)]
    for _ in range(count):
        gain_Q = curvature_Q * covariance_Q_Q.diagonal()
        best_1 = _best(gain_Q, free_Q)[None]
        chosen.append(best_1)
        free_Q = free_Q & (torch.arange(duels, device=best_1.device) != best_1)
        row_1_Q = covariance_Q_Q.index_select(0, best_1)
        known_1 = (curvature_Q / (1 + gain_Q)).index_select(0, best_1)
        covariance_Q_Q = covariance_Q_Q - known_1 * row_1_Q.T @ row_1_Q
    return torch.cat(chosen)


def belief(rewards_S_P_M: Tensor, pairs_P_2: Tensor) -> tuple[Tensor, Tensor]:
    """What the posterior thinks of each duel before it is labelled.

    Returns:
        mean_P and deviation_P, over the draws, of the probability that the first response is preferred.
    """
    draws, prompts, _ = rewards_S_P_M.shape
    rewards_S_P_2 = rewards_S_P_M.gather(2, pairs_P_2.expand(draws, prompts, 2))
    chance_S_P = torch.sigmoid(rewards_S_P_2[..., 0] - rewards_S_P_2[..., 1])
    return chance_S_P.mean(0), chance_S_P.std(0, correction=0)


def typical_disagreement(rewards_S_P_M: Tensor, valid_P_M: Tensor) -> Tensor:
    """disagreement_P: the mean over all pairs of a prompt's candidates of the deviation that ``belief`` returns."""
    first_Q, second_Q = _all_pairs(valid_P_M.shape[1])
    valid_P_Q = valid_P_M[:, first_Q] & valid_P_M[:, second_Q]
    deviation_P_Q = torch.sigmoid(_gaps(rewards_S_P_M)).std(0, correction=0)
    return (deviation_P_Q * valid_P_Q).sum(1) / valid_P_Q.sum(1)


def pair_information(rewards_S_P_M: Tensor) -> Tensor:
    """information_P_Q: what a label of each pair would tell about the reward, in nats, pairs as ``torch.triu_indices``.

    That is the mutual information between the label and the draw, H(mean p) − mean H(p), where p is the preference
    probability under one draw and H the entropy of a coin (arXiv 1112.5745).
    """
    # Close to the end of learning this is a small difference of large numbers.
    chance_S_P_Q = torch.sigmoid(_gaps(rewards_S_P_M.to(torch.float64)))
    return _entropy(chance_S_P_Q.mean(0)) - _entropy(chance_S_P_Q).mean(0)


def passive(_rewards: Tensor | None, valid_P_M: Tensor, _generator: np.random.Generator) -> Tensor:
    """The first two distinct samples, as online DPO takes them."""
    return valid_P_M.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :2]


def uniform(_rewards: Tensor | None, valid_P_M: Tensor, generator: np.random.Generator) -> Tensor:
    """Two different candidates at random, in random order."""
    keys_P_M = torch.from_numpy(generator.random(valid_P_M.shape)).masked_fill(~valid_P_M, -1.0)
    return keys_P_M.topk(2, dim=1).indices


def sea_ee(rewards_S_P_M: Tensor, valid_P_M: Tensor, _generator: np.random.Generator) -> Tensor:
    """Explore and exploit: the best of draw 0 against the best of the first draw that names another candidate.

    When every draw names the same candidate, its opponent is the best of the others under the last draw.
    """
    best_S_P = _best(rewards_S_P_M, valid_P_M)
    first_P = best_S_P[0]
    differs_S_P = best_S_P != first_P
    earliest_1_P = differs_S_P.to(torch.int8).argmax(0, keepdim=True)
    runner_up_P = _best(rewards_S_P_M[-1], valid_P_M & _other_than(first_P, valid_P_M))
    second_P = torch.where(differs_S_P.any(0), best_S_P.gather(0, earliest_1_P)[0], runner_up_P)
    return torch.stack([first_P, second_P], 1)


def sea_bai(
    rewards_S_P_M: Tensor, valid_P_M: Tensor, _generator: np.random.Generator, variance: Variance = "probability"
) -> Tensor:
    """Best-arm identification: the best of draw 0 against the opponent whose duel with it is least certain.

    ``variance`` names what has the posterior variance: the preference ``probability`` σ(r(y) − r(first)), as the
    paper writes it, or the reward ``difference`` r(y) − r(first).
    """
    first_P = _best(rewards_S_P_M[0], valid_P_M)
    first_S_P_1 = first_P[:, None].expand(len(rewards_S_P_M), -1, 1)
    doubt_P_M = _doubt(rewards_S_P_M - rewards_S_P_M.gather(2, first_S_P_1), variance)
    second_P = _best(doubt_P_M, valid_P_M & _other_than(first_P, valid_P_M))
    return torch.stack([first_P, second_P], 1)


def uncertainty(
    rewards_S_P_M: Tensor, valid_P_M: Tensor, _generator: np.random.Generator, variance: Variance = "probability"
) -> Tensor:
    """The least certain pair of all; ``variance`` as in ``sea_bai``."""
    return _best_pair(_doubt(_gaps(rewards_S_P_M), variance), valid_P_M)


def information(rewards_S_P_M: Tensor, valid_P_M: Tensor, _generator: np.random.Generator) -> Tensor:
    """The pair whose label tells most about the reward (BALD, arXiv 1112.5745). Unlike a variance, what a label tells
    does not count what chance decides."""
    return _best_pair(pair_information(rewards_S_P_M), valid_P_M)


def best_worst(rewards_S_P_M: Tensor, valid_P_M: Tensor, _generator: np.random.Generator) -> Tensor:
    """The top and the bottom candidate under draw 0."""
    best_P = _best(rewards_S_P_M[0], valid_P_M)
    worst_P = _best(-rewards_S_P_M[0], valid_P_M & _other_than(best_P, valid_P_M))
    return torch.stack([best_P, worst_P], 1)


def apl(rewards_S_P_M: Tensor, valid_P_M: Tensor, generator: np.random.Generator) -> Tensor:
    """The pair with the largest gap of mean reward, ties broken at random (arXiv 2402.08114).

    The paper's rewards are the implicit ones of the policy, β (log π − log π_ref), all zero before the first step:
    the first duels are then random pairs.
    """
    order_P_M = torch.from_numpy(generator.random(valid_P_M.shape)).argsort(1)
    mean_1_P_M = rewards_S_P_M.mean(0).gather(1, order_P_M)[None]
    return order_P_M.gather(1, best_worst(mean_1_P_M, valid_P_M.gather(1, order_P_M), generator))


RULES: dict[str, Rule] = {
    rule.__name__: rule for rule in (passive, uniform, sea_ee, sea_bai, uncertainty, information, best_worst, apl)
}


def _name(rule: Rule) -> str:
    return getattr(rule, "__name__", repr(rule))


def _problem(pairs_P_2: object, valid_P_M: Tensor) -> str | None:
    """What is wrong with what a rule returned, if anything."""
    prompts, candidates = valid_P_M.shape
    if not isinstance(pairs_P_2, Tensor):
        return f"returned {type(pairs_P_2).__name__}"
    if pairs_P_2.shape != (prompts, 2) or pairs_P_2.dtype not in (torch.int32, torch.int64):
        return f"returned {pairs_P_2.dtype} of shape {tuple(pairs_P_2.shape)} for {prompts} prompts"
    places_P_2 = pairs_P_2.to(torch.int64)
    exists_P_2 = (places_P_2 >= 0) & (places_P_2 < candidates)
    exists_P_2 &= valid_P_M.gather(1, places_P_2.clamp(0, candidates - 1))
    wrong_P = ~exists_P_2.all(1) | (places_P_2[:, 0] == places_P_2[:, 1])
    if not wrong_P.any():
        return None
    row = int(wrong_P.to(torch.int8).argmax())
    there = valid_P_M[row].nonzero()[:, 0].tolist()
    return f"paired {places_P_2[row].tolist()} where prompt {row} has the candidates {there}"


def _best(values_M: Tensor, allowed_M: Tensor) -> Tensor:
    """Index of the largest allowed value along the last dimension, the lowest index among equals."""
    return values_M.masked_fill(~allowed_M, -torch.inf).argmax(-1)


def _best_pair(score_P_Q: Tensor, valid_P_M: Tensor) -> Tensor:
    """pairs_P_2: the pair of valid candidates with the largest score, pairs in the order of ``_gaps``."""
    pairs_2_Q = _all_pairs(valid_P_M.shape[1])
    allowed_P_Q = valid_P_M[:, pairs_2_Q[0]] & valid_P_M[:, pairs_2_Q[1]]
    return pairs_2_Q.T[_best(score_P_Q, allowed_P_Q)]


def _all_pairs(candidates: int) -> Tensor:
    """index_2_Q: the places of all pairs, the first index below the second."""
    return torch.triu_indices(candidates, candidates, offset=1)


def _gaps(rewards_S_P_M: Tensor) -> Tensor:
    """gap_S_P_Q: reward differences of all pairs."""
    first_Q, second_Q = _all_pairs(rewards_S_P_M.shape[2])
    return rewards_S_P_M[..., first_Q] - rewards_S_P_M[..., second_Q]


def _doubt(gap_S_P_Q: Tensor, variance: Variance) -> Tensor:
    """doubt_P_Q: posterior variance of the preference probability or of the reward difference."""
    doubtful_S_P_Q = torch.sigmoid(gap_S_P_Q) if variance == "probability" else gap_S_P_Q
    return doubtful_S_P_Q.var(0, correction=0)


def _entropy(chance: Tensor) -> Tensor:
    """Entropy of a coin, in nats."""
    return torch.special.entr(chance) + torch.special.entr(1 - chance)


def _other_than(index_P: Tensor, like_P_M: Tensor) -> Tensor:
    """others_P_M: everything but one index of each row."""
    return torch.arange(like_P_M.shape[1], device=index_P.device) != index_P[:, None]
