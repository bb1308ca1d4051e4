"""A run's rounds, played through with the seconds that its stages take.

The driver does one thing after the other. Samplers work beside it as far as ``sampler.ahead`` allows, and do what they
are asked in that order: new weights wait for the samples that were begun before. Answers come when they come.
"""

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from sea_agent.config.oracle import OracleConfig, RemoteOracleConfig
from sea_agent.plan.answering import Answering
from sea_agent.plan.planned import Costs, Planned

_NEARLY = 1e-9  # what rounding takes from a whole number


@dataclass
class Played:
    """What came out. Times are in seconds."""

    wall: float = 0.0
    rounds: int = 0
    answers: int = 0
    busy: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds of work of each part."""
    waited: float = 0.0
    """Seconds in which the loop waited for answers."""
    open_duels: float = 0.0
    """Duels without an answer, in the mean over rounds that ask."""


def play(planned: Planned, costs: Costs, answering: Answering) -> Played:
    """Play a run through until its budget of answers is spent."""
    return _Play(planned, costs, answering).through()


class _Play:
    def __init__(self, planned: Planned, costs: Costs, answering: Answering) -> None:
        self._config, self._costs, self._answering = planned.config, costs, answering
        self._done = Played()
        self._samplers = _Samplers(planned, costs, self._done)
        self._now = costs.once
        self._imagined_due = 0.0
        self._to_ask = 0.0  # of a duel: what rounding has left from the oracle's share of earlier rounds
        self._open: list[float] = []  # when the answers to open duels come

    def through(self) -> Played:
        self._evaluate()
        next_evaluation, asking_rounds = self._config.evaluation.every, 0
        done, budget = self._done, self._config.budget.limit
        while self._imagined_due >= 1 or done.answers < budget:
            done.rounds += 1
            asks = self._imagined_due < 1
            if not asks:
                self._imagined_due -= 1
            self._now = self._samplers.draw(self._now, asks, self._coming(asks))
            if asks:
                asking_rounds += 1
                self._asking_round()
                if done.answers >= self._config.imagination.start:
                    self._imagined_due += self._imagined_rounds
            else:
                self._work("imagine", "posterior", asks)
                self._learn(asks)
            if self._imagined_due < 1 and done.answers >= min(next_evaluation, budget):
                self._evaluate()
                next_evaluation = (done.answers // self._config.evaluation.every + 1) * self._config.evaluation.every
        done.busy["oracle"] = self._answering.busy
        done.wall, done.open_duels = self._now, done.open_duels / asking_rounds
        return done

    def _asking_round(self) -> None:
        config, done = self._config, self._done
        self._work("select", "posterior", True)
        share = config.mixing.oracle_share if done.answers >= config.mixing.burn_in else 1.0
        self._to_ask += share * config.batch_size
        asked = math.floor(self._to_ask + _NEARLY)
        self._to_ask -= asked
        room = config.budget.limit - done.answers
        for at in self._answering.ask(self._now, min(asked, room - len(self._open))):
            heapq.heappush(self._open, at)
        until = max(self._now, _round_may_go_on(self._open, config.oracle, room))
        done.waited += until - self._now
        self._now, before = until, len(self._open)
        while self._open and self._open[0] <= until:
            heapq.heappop(self._open)
        answered = before - len(self._open)
        done.answers += answered
        done.open_duels += len(self._open)
        self._work("label", "posterior", True)
        self._learn(True, (answered + config.batch_size - asked) / config.batch_size)
        self._work("update", "posterior", True)

    def _learn(self, asks: bool, of_a_batch: float = 1.0) -> None:
        self._work("learn", "learner", asks, of_a_batch)
        seconds = self._stages(asks)["publish"]
        self._now = self._samplers.together(self._now, seconds)
        self._done.busy["publishing"] += seconds

    def _evaluate(self) -> None:
        self._now = self._samplers.together(self._now, self._costs.evaluation)
        self._done.busy["evaluation"] += self._costs.evaluation

    def _work(self, stage: str, part: str, asks: bool, times: float = 1.0) -> None:
        seconds = times * self._stages(asks).get(stage, 0.0)
        self._now += seconds
        self._done.busy[part] += seconds

    def _stages(self, asks: bool) -> dict[str, float]:
        return self._costs.asked if asks else self._costs.imagined

    @property
    def _imagined_rounds(self) -> float:
        """After a round that asks."""
        return self._config.imagination.rounds * self._costs.imagined_share if self._costs.imagined else 0.0

    def _coming(self, asks: bool) -> Iterator[bool]:
        """Whether each round after one that ``asks`` or not will ask, if every duel is answered, as the run expects."""
        answers, due = self._done.answers, self._imagined_due
        while True:
            if asks:
                answers += self._config.batch_size
                due += self._imagined_rounds if answers >= self._config.imagination.start else 0.0
            asks = due < 1
            due -= not asks
            if asks and answers >= self._config.budget.limit:
                return
            yield asks


class _Samplers:
    """All samplers as one, which is as fast as their number makes it."""

    def __init__(self, planned: Planned, costs: Costs, done: Played) -> None:
        self._ahead, self._done = planned.config.sampler.ahead, done
        self._seconds = {
            asks: stages["sample"] * planned.turns(asks) / planned.turns(asks, costs.actors)
            for asks, stages in ((True, costs.asked), (False, costs.imagined))
            if stages
        }
        self._free = 0.0
        self._begun: deque[tuple[bool, float]] = deque()

    def draw(self, now: float, asks: bool, coming: Iterable[bool]) -> float:
        """When the samples of a round are there; those of the ``coming`` rounds are begun at that moment."""
        if self._begun and self._begun[0][0] != asks:
            self._begun.clear()
        ready = max(now, self._begun.popleft()[1] if self._begun else self._begin(now, asks))
        for step, kind in enumerate(islice(coming, self._ahead)):
            if step >= len(self._begun):
                self._begun.append((kind, self._begin(ready, kind)))
        return ready

    def together(self, now: float, seconds: float) -> float:
        """When every sampler has done what takes it ``seconds``, after what it has begun."""
        self._free = max(now, self._free) + seconds
        return self._free

    def _begin(self, now: float, asks: bool) -> float:
        self._done.busy["samplers"] += self._seconds[asks]
        return self.together(now, self._seconds[asks])


def _round_may_go_on(open_: list[float], oracle: OracleConfig, room: int) -> float:
    """When few enough duels are open: none, or with ``oracle.wait=false`` fewer than ``oracle.pending``."""
    if not open_:
        return 0.0
    if not isinstance(oracle, RemoteOracleConfig) or oracle.wait:
        return max(open_)
    most = min(oracle.pending, room) - 1
    answered = len(open_) - most
    return heapq.nsmallest(answered, open_)[-1] if answered > 0 else 0.0
