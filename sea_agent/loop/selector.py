"""From candidates to duels: features, posterior draws, the selection rule, and the source of each label.

Dimensions: S posterior draws, P prompts, M candidates (padded), D features.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sea_agent.bandit.betting import Wager
from sea_agent.bandit.foresight import HALF_LIFE, LUCK, VOUCHED, Foresight
from sea_agent.bandit.mixing import folded_pairs, label_source
from sea_agent.bandit.posterior import make_posterior
from sea_agent.bandit.selection import (
    RULES,
    belief,
    diverse_duels,
    load_rule,
    pad_candidates,
    select_pairs,
    typical_disagreement,
)
from sea_agent.config import BLIND_RULES, Compute, MixingConfig, PosteriorConfig, SelectionConfig
from sea_agent.features import Features
from sea_agent.pretrained import use_threads
from sea_agent.saved_state import require
from sea_agent.seeding import generator_for, id_for, seed_for
from sea_agent.types import (
    Answer,
    Candidates,
    Duel,
    Hindsight,
    LabelSource,
    Outcome,
    Preference,
    Prompt,
    Response,
    Verdict,
)


@dataclass(frozen=True)
class Look:
    """What a posterior believes of the M candidates of a prompt."""

    rewards_S_M: torch.Tensor
    """Draws, in an order drawn for this look."""
    mean_M: torch.Tensor | None
    """None before the first label."""


class Selector:
    """Holds the reward posterior and selects the duels of a round.

    ``make_features`` loads the features of the posterior; None if no decision uses the posterior. ``batch_size`` is the
    number of duels per round.
    """

    def __init__(
        self,
        selection: SelectionConfig,
        posterior: PosteriorConfig,
        mixing: MixingConfig,
        compute: Compute,
        *,
        batch_size: int,
        make_features: Callable[[], Features] | None,
    ) -> None:
        use_threads(compute.threads)
        self._selection, self._posterior_config, self._mixing = selection, posterior, mixing
        self._seed, self._batch_size = compute.seed, batch_size
        self._rule = load_rule(selection.rule)
        self._features = None if make_features is None else make_features()
        self._posterior: Any = None  # created with the first features
        self._foresight = Foresight(VOUCHED if posterior.prior else LUCK)
        self._wager = Wager()

    def select(
        self,
        candidates: Sequence[Candidates],
        number: int,
        oracle_labels: int,
        budget_left: int,
        implicit_rewards: Mapping[str, float] | None = None,
        own: bool = False,
    ) -> list[Duel]:
        """One duel for each prompt with two distinct candidates, at most ``budget_left`` of them for the oracle; with
        ``selection.prompt_choice: information`` for ``batch_size`` prompts of them.

        ``number`` is the round and ``oracle_labels`` the number of oracle labels before it. Prompts without two
        distinct candidates are skipped. If ``implicit_rewards`` of the policy are given, by response id, the rule uses
        them instead of the posterior. As far as the posterior is not to be trusted, and always if ``own``, duels are
        between the first two responses of the policy instead of those that the rule chooses.
        """
        self._begin_round()
        contested = [group for group in candidates if len(group.responses) >= 2]
        if not contested:
            return []
        rewards_S_P_M, valid_P_M = self._draw(contested, "select", number)
        generator = generator_for(self._seed, "rule", number)
        seen_S_P_M = rewards_S_P_M
        if implicit_rewards is not None:
            seen_S_P_M = torch.zeros(1, *valid_P_M.shape, dtype=torch.float64)
            seen_S_P_M[0, valid_P_M] = torch.tensor(
                [implicit_rewards[response.id] for group in contested for response in group.responses],
                dtype=torch.float64,
            )
        pairs_P_2 = select_pairs(self._rule, seen_S_P_M, valid_P_M, generator, variance=self._selection.variance)
        trust = 0.0 if own else 1.0 if self._selection.rule in BLIND_RULES else self.trust
        own_P = torch.from_numpy(self._generator("trust", number).random(len(contested)) >= trust)
        pairs_P_2 = torch.where(own_P[:, None], RULES["passive"](seen_S_P_M, valid_P_M, generator), pairs_P_2)
        sources = [self._source(group, number, oracle_labels) for group in contested]
        if self._mixing.pair == "best_worst" and LabelSource.POSTERIOR in sources:
            extremes_P_2 = RULES["best_worst"](rewards_S_P_M, valid_P_M, generator)
            imagined_P = torch.tensor([source is LabelSource.POSTERIOR for source in sources])
            pairs_P_2 = torch.where(imagined_P[:, None], extremes_P_2, pairs_P_2)
        rules = ["passive" if own else self._selection.rule for own in own_P.tolist()]
        duels = self._duels(contested, pairs_P_2, rules, sources, rewards_S_P_M, valid_P_M, number)
        if self._selection.prompt_choice == "information":
            duels = self._most_telling(duels, 0.0 if own else self.trust, number)
        return _within_budget(duels, budget_left)

    def _most_telling(self, duels: list[Duel], trust: float, number: int) -> list[Duel]:
        """``batch_size`` of the duels: as far as the posterior is trusted those that tell it most, then the first."""
        size = min(self._batch_size, len(duels))
        sides = [(duel.prompt, duel.first) for duel in duels] + [(duel.prompt, duel.second) for duel in duels]
        # As candidates of one prompt, because only then one draw is one reward function for all of them.
        rows_1_2Q_D = self._rows(sides)[None]
        first_S_Q, second_S_Q = self._posterior.draw(rows_1_2Q_D, self._generator("prompts", number))[:, 0].chunk(2, 1)
        telling = diverse_duels(first_S_Q - second_S_Q, round(trust * size)).tolist()
        others = [place for place in range(len(duels)) if place not in telling]
        return [duels[place] for place in sorted([*telling, *others[: size - len(telling)]])]

    @property
    def trust(self) -> float:
        """How far the posterior's beliefs are acted on, from 0 to 1; 0 before the first answer.

        The published methods, whose posterior is an ensemble, act on their beliefs from the start.
        """
        untested = self._features is None or self._posterior_config.family == "ensemble"
        return 1.0 if untested else self._foresight.trust

    def begin(self, candidates: Sequence[Candidates]) -> None:
        """Begin the posterior, where none is begun: fix the scale of its features by these responses.

        Where duels are chosen elsewhere, nothing else does so before the first answers; and those to a few duels would
        give a poor scale.
        """
        if self._posterior is None and self._features is not None:
            self._rows([(group.prompt, response) for group in candidates for response in group.responses])
            self._posterior = self._new_posterior()

    def imagine(self, candidates: Sequence[Candidates], number: int) -> tuple[list[Preference], float]:
        """Pairs of the candidates of each prompt, ordered by the posterior, with the probability of that order; and how
        far the posterior is to be trusted."""
        self._begin_round()
        contested = [group for group in candidates if len(group.responses) >= 2]
        if not contested:
            return [], self.trust
        rewards_S_P_M, valid_P_M = self._draw(contested, "imagine", number)
        assert rewards_S_P_M is not None  # a configuration with imagined rounds has a posterior
        preferences = [
            Preference(
                id=id_for("imagined", self._seed, number, contested[row].prompt.id, better),
                prompt=contested[row].prompt,
                chosen=contested[row].responses[better],
                rejected=contested[row].responses[worse],
                source=LabelSource.POSTERIOR,
                confidence=probability,
            )
            for row, (better, worse), probability in zip(
                *(tensor.tolist() for tensor in folded_pairs(rewards_S_P_M, valid_P_M)), strict=True
            )
        ]
        return preferences, self.trust

    def rewards(self, pairs: Sequence[tuple[Prompt, Response]], key: str, least: int) -> torch.Tensor | None:
        """rewards_S_X of responses under ``least`` posterior draws or more, each of which is one reward function for
        all of them; None before the first label. The draws are keyed by ``key``."""
        self._begin_round()
        if self._posterior is None or not self._posterior.labels:
            return None
        rows_1_X_D = self._rows(list(pairs))[None]  # as candidates of one prompt: they share each draw
        parts: list[torch.Tensor] = []
        while sum(map(len, parts)) < least:
            parts.append(self._posterior.draw(rows_1_X_D, generator_for(self._seed, key, len(parts)))[:, 0])
        return torch.cat(parts)

    def best(self, candidates: Sequence[Candidates]) -> list[Response]:
        """Best-of-N inference: the response to each prompt with the highest posterior mean reward.

        Without any label it is the first response.
        """
        if self._posterior is None or not self._posterior.labels:
            return [group.responses[0] for group in candidates]
        rows_N_D = self._rows([(group.prompt, response) for group in candidates for response in group.responses])
        rewards_N = self._posterior.mean(rows_N_D[None])[0]
        by_group = rewards_N.split([len(group.responses) for group in candidates])
        return [group.responses[int(rewards.argmax())] for group, rewards in zip(candidates, by_group, strict=True)]

    @property
    def is_blind(self) -> bool:
        """Whether the duels of the policy's own responses are wanted, whatever a posterior believes."""
        return self._features is None or self._selection.rule in BLIND_RULES

    @property
    def posterior_version(self) -> int:
        """Updates of the posterior so far."""
        return 0 if self._posterior is None else self._posterior.version

    @property
    def labels(self) -> int:
        """Answers that the posterior has learnt from."""
        return 0 if self._posterior is None else self._posterior.labels

    @property
    def is_borne_out(self) -> bool:
        """Whether answers bear out what the posterior believed of them before. Where they have nothing to do with the
        responses but for their places, the chance that this ever is so is ``betting.ERROR`` at most."""
        return self._wager.is_won

    def look(self, group: Candidates, key: str) -> Look | None:
        """What is believed of the candidates of one prompt; None before there is a posterior.

        A function of the posterior, the candidates and ``key``, whatever was asked before.
        """
        if self._posterior is None:
            return None
        self._begin_round()
        rows_1_M_D = self._rows([(group.prompt, response) for response in group.responses])[None]
        rewards_S_1_M = self._posterior.draw(rows_1_M_D, generator_for(self._seed, "look", key))
        mean_M = self._posterior.mean(rows_1_M_D)[0] if self._posterior.labels else None
        return Look(rewards_S_1_M[:, 0], mean_M)

    def label(self, duels: Sequence[Duel], number: int) -> list[Verdict]:
        """The posterior's verdicts on the duels that it labels, each under a fresh posterior draw."""
        duels = [duel for duel in duels if duel.label_source is LabelSource.POSTERIOR]
        if not duels:
            return []
        groups = [Candidates(duel.prompt, (duel.first, duel.second)) for duel in duels]
        rewards_S_P_M, _ = self._draw(groups, "label", number)
        assert rewards_S_P_M is not None  # a configuration with posterior labels has a posterior
        first_wins_P = (rewards_S_P_M[0, :, 0] > rewards_S_P_M[0, :, 1]).tolist()
        return [
            Verdict(duel.id, Outcome.FIRST if wins else Outcome.SECOND, "posterior", time.time())
            for duel, wins in zip(duels, first_wins_P, strict=True)
        ]

    def update(self, answers: Sequence[tuple[Duel, Verdict]], number: int) -> tuple[dict[str, float], list[Hindsight]]:
        """Train the posterior on the oracle's answers.

        Returns:
            metrics, including how well the answers were predicted, and the belief about each duel after the update.
        """
        if self._features is None:
            return {}, []
        labelled = [
            (duel, answer.annotator, wins)
            for duel, verdict in answers
            if duel.label_source is LabelSource.ORACLE
            for answer in self._said(verdict)
            if (wins := answer.outcome.first_wins) is not None
        ]
        if not labelled:
            return {"posterior_trust": self.trust}, []
        decided, who, wins_N = zip(*labelled, strict=True)
        first_wins_N = torch.tensor(wins_N)
        self.begin([Candidates(duel.prompt, (duel.first, duel.second)) for duel in decided])
        first_N_D = self._rows([(duel.prompt, duel.first) for duel in decided])
        second_N_D = self._rows([(duel.prompt, duel.second) for duel in decided])
        beliefs_N = self._posterior.chance(first_N_D, second_N_D, who)
        ids = (
            [f"{duel.id} {person}" for duel, person, _ in labelled]
            if self._tells_apart
            else [duel.id for duel in decided]
        )
        self._posterior.add(first_N_D, second_N_D, first_wins_N, ids, who=who)
        metrics = self._posterior.update(self._generator("update", number))
        found = {f"posterior_{name}": amount for name, amount in metrics.items()}
        self._heard(decided, beliefs_N, first_wins_N)
        found |= {"posterior_trust": self.trust} | _foresight(decided, beliefs_N, first_wins_N)
        once = list({duel.id: place for place, duel in enumerate(decided)}.values())
        sides_N_2_D = torch.stack([first_N_D[once], second_N_D[once]], 1)
        return found, self._hindsight([decided[place] for place in once], sides_N_2_D, number)

    def _said(self, verdict: Verdict) -> tuple[Answer, ...]:
        """What the posterior learns of a verdict: what each person said, where it tells people apart."""
        return verdict.by_person() if self._tells_apart else (Answer(verdict.annotator, verdict.outcome),)

    @property
    def _tells_apart(self) -> bool:
        return self._posterior_config.people == "shared"

    def warm(self, answers: Sequence[tuple[Duel, Verdict]], weights: Sequence[float]) -> None:
        """Train the posterior on imported preferences, before the first round.

        They then set the scale of the features. An ensemble takes as many steps as in rounds with this many labels. The
        last ones are foretold before they are learnt, so that what is known from the others can be acted on at once.
        """
        duels = [duel for duel, _ in answers]
        first_wins_N = torch.tensor([verdict.outcome.first_wins for _, verdict in answers])
        weights_N = torch.tensor(weights)
        who = [verdict.annotator for _, verdict in answers]
        rows_2N_D = self._rows([(duel.prompt, side) for duel in duels for side in (duel.first, duel.second)])
        self._posterior = self._new_posterior()

        def learn(part: slice) -> None:
            rows = rows_2N_D[::2][part], rows_2N_D[1::2][part], first_wins_N[part]
            self._posterior.add(*rows, [duel.id for duel in duels[part]], weights_N[part], who[part])
            self._posterior.update(self._generator("warm", 0), rounds=math.ceil(len(rows[0]) / self._batch_size))

        last = 0 if self._posterior_config.family == "ensemble" else min(len(duels) // 2, 2 * HALF_LIFE)
        rest, foretold = slice(len(duels) - last), slice(len(duels) - last, None)
        learn(rest)
        if last:
            chance_N = self._posterior.chance(rows_2N_D[::2][foretold], rows_2N_D[1::2][foretold], who[foretold])
            self._heard(duels[foretold], chance_N, first_wins_N[foretold])
            learn(foretold)

    def foretell(self, duels: Sequence[Duel]) -> list[float]:
        """What the posterior believes of each duel: the probability that the first response is preferred."""
        rows_2N_D = self._rows([(duel.prompt, side) for duel in duels for side in (duel.first, duel.second)])
        return self._posterior.chance(rows_2N_D[::2], rows_2N_D[1::2]).tolist()

    def state(self) -> dict[str, Any]:
        """The posterior and the scales of its features, as tensors and plain values."""
        return {
            "features": None if self._features is None else self._features.state(),
            "posterior": None if self._posterior is None else self._posterior.state(),
            "foresight": self._foresight.state(),
            "wager": self._wager.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore ``state``.

        Raises:
            UnfitState: if it was saved with other posterior settings, or is not the state of a selector.
        """
        if self._features is None:
            require(state, {"features": None, "posterior": None, "foresight": dict, "wager": dict}, "selector")
        else:
            require(state, {"features": list, "posterior": dict | None, "foresight": dict, "wager": dict}, "selector")
            self._features.load_state(state["features"])
        self._foresight.load_state(state["foresight"])
        self._wager.load_state(state["wager"])
        self._posterior = None
        if state["posterior"] is not None:
            self._posterior = self._new_posterior()
            self._posterior.load_state(state["posterior"])

    def _heard(self, duels: Sequence[Duel], beliefs_N: torch.Tensor, first_wins_N: torch.Tensor) -> None:
        """Put beliefs to the test by answers. Where something else than chance decided what is seen first, people who
        like one place better would seem to bear out, or to refute, whatever is believed."""
        by_chance_N = torch.tensor([duel.by_chance for duel in duels])
        self._foresight.add(beliefs_N[by_chance_N], first_wins_N[by_chance_N])
        self._wager.add(beliefs_N[by_chance_N], first_wins_N[by_chance_N])

    def _begin_round(self) -> None:
        if self._features is not None:
            self._features.forget()

    def _hindsight(self, duels: Sequence[Duel], rows_N_2_D: torch.Tensor, number: int) -> list[Hindsight]:
        rewards_S_N_2 = self._posterior.draw(rows_N_2_D, self._generator("hindsight", number))
        beliefs = belief(rewards_S_N_2, torch.tensor([[0, 1]]).expand(len(duels), 2))
        return [
            Hindsight(duel.id, mean, deviation)
            for duel, mean, deviation in zip(duels, *(tensor.tolist() for tensor in beliefs), strict=True)
        ]

    def _new_posterior(self) -> Any:
        assert self._features is not None  # only a selector with features has a posterior
        features = self._features
        return make_posterior(
            self._posterior_config,
            features.blocks,
            seed_for(self._seed, "posterior"),
            deviations=features.deviations,
            means=features.means,
        )

    def _draw(
        self, groups: Sequence[Candidates], purpose: str, number: int
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Posterior draws rewards_S_P_M, and valid_P_M, which marks the entries that are candidates."""
        pairs = [(group.prompt, response) for group in groups for response in group.responses]
        rows_N_D = torch.empty(len(pairs), 0) if self._features is None else self._rows(pairs)
        features_P_M_D, valid_P_M = pad_candidates(rows_N_D.split([len(group.responses) for group in groups]))
        if self._features is None:
            return None, valid_P_M
        if self._posterior is None:
            self._posterior = self._new_posterior()
        return self._posterior.draw(features_P_M_D, self._generator(purpose, number)), valid_P_M

    def _rows(self, pairs: list[tuple[Any, Response]]) -> torch.Tensor:
        assert self._features is not None  # only a selector with a posterior asks for features
        return self._features.features(pairs)

    def _generator(self, purpose: str, number: int) -> np.random.Generator:
        return generator_for(self._seed, purpose, number)

    def _source(self, group: Candidates, number: int, oracle_labels: int) -> LabelSource:
        return label_source(self._mixing, oracle_labels, self._seed, self._duel_id(group, number))

    def _duel_id(self, group: Candidates, number: int) -> str:
        return id_for("duel", self._seed, number, group.prompt.id)

    def _duels(
        self,
        groups: Sequence[Candidates],
        pairs_P_2: torch.Tensor,
        rules: Sequence[str],
        sources: Sequence[LabelSource],
        rewards_S_P_M: torch.Tensor | None,
        valid_P_M: torch.Tensor,
        number: int,
    ) -> list[Duel]:
        beliefs: list[tuple[float | None, ...]] = [(None, None, None)] * len(groups)
        if rewards_S_P_M is not None:
            typical_P = typical_disagreement(rewards_S_P_M, valid_P_M)
            beliefs = list(
                zip(*(part.tolist() for part in (*belief(rewards_S_P_M, pairs_P_2), typical_P)), strict=True)
            )
        return [
            Duel(
                id=self._duel_id(group, number),
                round=number,
                prompt=group.prompt,
                first=group.responses[first],
                second=group.responses[second],
                rule=rule,
                policy_version=group.responses[first].policy_version,
                posterior_version=self.posterior_version,
                label_source=source,
                belief=mean,
                disagreement=deviation,
                typical_disagreement=typical,
            )
            for group, (first, second), rule, source, (mean, deviation, typical) in zip(
                groups, pairs_P_2.tolist(), rules, sources, beliefs, strict=True
            )
        ]


def _within_budget(duels: Sequence[Duel], budget_left: int) -> list[Duel]:
    kept: list[Duel] = []
    asked = 0
    for duel in duels:
        asked += duel.label_source is LabelSource.ORACLE
        if duel.label_source is not LabelSource.ORACLE or asked <= budget_left:
            kept.append(duel)
    return kept


def _foresight(duels: Sequence[Duel], beliefs_N: torch.Tensor, first_wins_N: torch.Tensor) -> dict[str, float]:
    """Accuracy and Brier score of the beliefs before the answers, and the mean disagreements."""
    hits_N = ((beliefs_N > 0.5) == (first_wins_N > 0.5)).float()
    return {
        "foresight_accuracy": hits_N.mean().item(),
        "foresight_brier": ((beliefs_N - first_wins_N) ** 2).mean().item(),
        "disagreement": sum(duel.disagreement or 0.0 for duel in duels) / len(duels),
        "typical_disagreement": sum(duel.typical_disagreement or 0.0 for duel in duels) / len(duels),
    }
