"""A run's rounds, played through with the seconds that its stages take.

The driver does one thing after the other. Samplers work beside it as far as ``sampler.ahead`` allows, and do what they
are asked in that order: new weights wait for the samples that were begun before. Answers come when they come.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

from sea_agent.config.oracle import OracleConfig, RemoteOracleConfig
from sea_agent.plan.answering import Answering
from sea_agent.plan.planned import Costs, Planned

OF_PARTS = {
    "sample": "samplers",
    "learn": "learner",
    "publish": "publishing",
    **dict.fromkeys(("select", "imagine", "label", "update"), "posterior"),
}
"""The part that works in a stage."""


@dataclass
class Played:
    """What came out. Times are in seconds."""

    wall: float = 0.0
    rounds: int = 0
    answers: int = 0
    busy: dict[str, float] = field(default_factory=dict)
    """Seconds of work of each part."""
    waited: float = 0.0
    """Seconds in which everything else waited for answers."""
    open_duels: float = 0.0
    """Duels without an answer, in the mean over rounds that ask."""


def play(planned: Planned, costs: Costs, answering: Answering) -> Played:
    """Play a run through until its budget of answers is spent."""
    config, done, samplers = planned.config, Played(), _Samplers(planned, costs)
    now = costs.evaluation
    due, next_evaluation, asking_rounds = 0.0, config.evaluation.every, 0
    open_: list[float] = []  # when the answers to open duels come
    while due >= 1 or done.answers < config.budget.oracle_queries:
        asks = due < 1
        stages = costs.asked if asks else costs.imagined
        done.rounds += 1
        now = samplers.draw(now, asks)
        learnt = 1.0  # of the pairs that the stage was measured with
        if asks:
            now += stages.get("select", 0.0)
            room = config.budget.oracle_queries - done.answers
            share = config.mixing.oracle_share if done.answers >= config.mixing.burn_in else 1.0
            for at in answering.ask(now, min(math.ceil(share * config.batch_size), room - len(open_))):
                heapq.heappush(open_, at)
            until = max(now, _round_may_go_on(open_, config.oracle, room))
            done.waited += until - now
            now, before = until, len(open_)
            while open_ and open_[0] <= now:
                heapq.heappop(open_)
            answered = before - len(open_)
            done.answers += answered
            learnt = (answered + math.floor((1 - share) * config.batch_size)) / config.batch_size
            done.open_duels += len(open_)
            asking_rounds += 1
            now += stages.get("label", 0.0)
        else:
            due -= 1
            now += stages.get("imagine", 0.0)
        now += stages["learn"] * learnt
        now = samplers.publish(now, stages["publish"])
        now += stages.get("update", 0.0) + costs.rest
        if asks and done.answers >= config.imagination.start and costs.imagined:
            due += config.imagination.rounds * costs.imagined_share
        if due < 1 and done.answers >= min(next_evaluation, config.budget.oracle_queries):
            next_evaluation = done.answers + config.evaluation.every
            now = samplers.publish(now, costs.evaluation)
        for stage, seconds in stages.items():
            if stage in OF_PARTS:
                done.busy[OF_PARTS[stage]] = done.busy.get(OF_PARTS[stage], 0.0) + seconds
    done.busy["oracle"] = answering.busy
    done.wall, done.open_duels = now, done.open_duels / max(asking_rounds, 1)
    return done


class _Samplers:
    """All samplers as one, which is as fast as their number makes it."""

    def __init__(self, planned: Planned, costs: Costs) -> None:
        config = planned.config
        self._costs, self._ahead = costs, config.sampler.ahead
        self._free = 0.0
        self._begun: deque[float] = deque()
        chunks = math.ceil(config.batch_size * config.sampler.candidates / config.sampler.chunk)
        now, then = (math.ceil(chunks / actors) for actors in (config.sampler.actors, costs.actors))
        self._speed = then / now

    def draw(self, now: float, asks: bool) -> float:
        """When the samples of a round are there; those of the next rounds are begun at that moment."""
        ready = max(now, self._begun.popleft() if self._begun else self._begin(now, asks))
        while len(self._begun) < self._ahead:
            self._begun.append(self._begin(ready, asks))
        return ready

    def publish(self, now: float, seconds: float) -> float:
        """When every sampler has done what takes it ``seconds``, after what it has begun."""
        self._free = max(now, self._free) + seconds
        return self._free

    def _begin(self, now: float, asks: bool) -> float:
        stages = self._costs.asked if asks else self._costs.imagined
        self._free = max(now, self._free) + stages["sample"] / self._speed
        return self._free


def _round_may_go_on(open_: list[float], oracle: OracleConfig, room: int) -> float:
    """When few enough duels are open: none, or with ``oracle.wait=false`` fewer than ``oracle.pending``."""
    if not open_:
        return 0.0
    if not isinstance(oracle, RemoteOracleConfig) or oracle.wait:
        return max(open_)
    most = min(oracle.pending, room) - 1
    answered = len(open_) - most
    return heapq.nsmallest(answered, open_)[-1] if answered > 0 else 0.0
