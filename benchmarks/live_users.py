"""Simulated users of live mode, and one run of it without processes: requests, duels, answers, learning.

Dimension legend: P prompts, M responses of a prompt, D features, 6 equal parts of the requests.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.live_houses import RATE, Fixed, House, Request, Trained
from sea_agent.config import LiveConfig
from sea_agent.loop.deciding import Decision, decide, live_trust
from sea_agent.seeding import generator_for, id_for
from sea_agent.service.chat.asking import Asking, Plan
from sea_agent.types import Duel, LabelSource, Outcome, Response, Verdict

USERS = 100
ANSWERED = 0.6
"""Share of the duels that are answered at all."""
DELAY = 2 * 3600.0
"""Mean seconds until an answer."""
BLOCK = 50
"""Requests between two rounds of learning."""
_DAY = 86_400.0
_LIARS_WRITE = 4.0  # times as much as others


@dataclass(frozen=True)
class Arm:
    """How users are asked, and what becomes of their answers."""

    name: str
    ask_share: float
    considered_share: float
    learns: bool = True
    shuffled: bool = False
    """Each answer is that to some earlier duel."""
    liars: float = 0.0
    """Share of the users who prefer what is worse, and write four times as much."""
    quotas: bool = False
    """Nobody is asked more than their equal share of the duels, however much they write."""
    trains: bool = False
    prior: tuple[str, ...] = ()
    """Scores that the posterior starts from."""
    requests: int = 3000

    @property
    def settings(self) -> LiveConfig:
        """Without audits and held-out conversations, from which nothing is learnt."""
        fair = {"user_asks_per_day": self.ask_share * RATE * _DAY / USERS, "user_burst": 1.0}
        free = {"user_asks_per_day": 1e6, "user_burst": 1e6}
        return LiveConfig.model_validate(
            {
                "ask_share": self.ask_share,
                "considered_share": self.considered_share,
                "audit_share": 0.0,
                "heldout_share": 0.0,
                **(fair if self.quotas else free),
            }
        )


@dataclass(frozen=True)
class Record:
    """A run, in sixths of its requests where it says so."""

    regret_6: tuple[float, ...]
    asked_6: tuple[int, ...]
    answers: int
    lies: int
    trust: float
    """Whether the posterior is acted on at the end, 1 or 0."""


class Users:
    """Who writes when, about what, and what they answer; the same for all arms of a seed that have the same users."""

    def __init__(self, arm: Arm, prompts: int, seed: int) -> None:
        self._arm = arm
        liars = round(arm.liars * USERS)
        activity = np.where(np.arange(USERS) < liars, _LIARS_WRITE, 1.0)
        generator = generator_for("live", seed, "requests", liars)
        times = generator.exponential(1 / RATE, arm.requests).cumsum()
        users = generator.choice(USERS, arm.requests, p=activity / activity.sum())
        rows = generator.integers(prompts, size=arm.requests)
        self.requests = [
            Request(number, float(at), int(user), int(row))
            for number, (at, user, row) in enumerate(zip(times, users, rows, strict=True))
        ]
        self._liars, self._seed = liars, seed

    def lies(self, request: Request) -> bool:
        """Whether the user of a request is a liar."""
        return request.user < self._liars

    def answer(self, request: Request, margin: float) -> tuple[float, Outcome] | None:
        """When and what is answered to a duel whose first response is better by ``margin``; None for never."""
        generator = generator_for("live", self._seed, "answer", request.number)
        answered, wins, delay = generator.random(), generator.random(), generator.exponential(DELAY)
        if answered >= ANSWERED:
            return None
        first = wins < 1 / (1 + np.exp(-margin))
        return request.at + delay, Outcome.FIRST if first != self.lies(request) else Outcome.SECOND


def simulate(world: str, arm: Arm, seed: int) -> Record:
    """One run of live mode."""
    house: House = Trained(world, seed) if arm.trains else Fixed(world, seed, arm.prior)
    users = Users(arm, house.prompts, seed)
    asking = Asking(arm.settings, seed)
    regrets, asked = np.zeros(arm.requests), np.zeros(arm.requests, dtype=int)
    waiting: list[tuple[float, str, Duel, Outcome, int]] = []
    said: list[Outcome] = []
    answers = lies = 0
    for start in range(0, arm.requests, BLOCK):
        block = users.requests[start : start + BLOCK]
        arrived = []
        while waiting and waiting[0][0] <= block[0].at:
            at, _, duel, outcome, user = heapq.heappop(waiting)
            answers += 1
            arrived.append((duel, Verdict(duel.id, outcome, f"user-{user}", at)))
        if arrived and arm.learns:
            house.learn(arrived, start // BLOCK)
        offers = house.offers(block)
        for request, offer in zip(block, offers, strict=True):
            shown = [offer.alone]
            decision = _question(asking, arm, house, request, offer.responses, offer.shown)
            if decision is not None and decision.pair is not None:
                shown = list(decision.pair)
                asked[request.number] = 1
                streams = offer.shown is not None  # the one that is shown already comes first
                swapped = not streams and generator_for("live", seed, "order", request.number).random() >= 0.5
                first, second = decision.pair[::-1] if swapped else decision.pair
                answer = users.answer(request, offer.rewards[first] - offer.rewards[second])
                if answer is not None:
                    at, outcome = answer
                    said.append(outcome)
                    lies += users.lies(request)
                    if arm.shuffled:
                        outcome = said[generator_for("live", seed, "shuffle", request.number).integers(len(said))]
                    duel = _duel(request, house, offer.responses[first], offer.responses[second])
                    duel = replace(duel, by_chance=not streams or decision.as_sampled)
                    heapq.heappush(waiting, (at, duel.id, duel, outcome, request.user))
            regrets[request.number] = offer.best - np.mean([offer.rewards[place] for place in shown])
    return Record(
        tuple(float(part.mean()) for part in np.array_split(regrets, 6)),
        tuple(int(part.sum()) for part in np.array_split(asked, 6)),
        answers,
        lies,
        0.0 if house.selector is None else live_trust(house.selector),
    )


def _question(
    asking: Asking, arm: Arm, house: House, request: Request, responses: Sequence[Response], shown: int | None
) -> Decision | None:
    """The pair that is compared, if the user is asked."""
    user, name = f"user-{request.user}", f"request-{request.number}"
    if asking.consider(user, name, request.at) is Plan.PLAIN:
        return None
    selector = house.selector if arm.learns else None
    decision = decide(selector, house.prompt(request), responses, name, shown)
    if decision.pair is None:
        asking.note(name, 0.0)
        return None
    return decision if asking.ask(user, name, decision.information, request.at) else None


def _duel(request: Request, house: House, first: Response, second: Response) -> Duel:
    return Duel(
        id=id_for("duel", request.number),
        round=request.number // BLOCK,
        prompt=house.prompt(request),
        first=first,
        second=second,
        rule="sea_ee",
        policy_version=first.policy_version,
        posterior_version=0 if house.selector is None else house.selector.posterior_version,
        label_source=LabelSource.ORACLE,
    )
