"""When the answers to duels come: at once, from people who work some hours a day, or from a judge."""

import heapq
from collections.abc import Sequence
from typing import Protocol

from numpy.random import Generator

from sea_agent.plan.machine import Judge, Machine, People

_DAY = 24 * 3600.0


class Answering(Protocol):
    """Who answers. All times are seconds since the run began."""

    busy: float
    """Seconds of work on answers so far, of everybody together."""

    def could_work(self, until: float) -> float:
        """Seconds that they were there for, of everybody together."""

    def ask(self, now: float, duels: int) -> Sequence[float]:
        """When each duel that is asked about ``now`` has its answer, the earliest first."""


class AtOnce:
    """An oracle that computes: all answers come together, after as long as a recorded run or the model says."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self.busy = seconds, 0.0

    def could_work(self, until: float) -> float:
        """See ``Answering``."""
        return until

    def ask(self, now: float, duels: int) -> Sequence[float]:
        """See ``Answering``."""
        self.busy += self._seconds
        return [now + self._seconds] * duels


class Workers:
    """People, or the parallel requests of a judge: whoever is free takes the oldest duel not yet theirs."""

    def __init__(self, workers: People | Judge, votes: int, generator: Generator) -> None:
        self._share = workers.day_share
        self._median, self._spread = workers.seconds, workers.spread
        self._votes, self._generator, self.busy = votes, generator, 0.0
        self._free = [0.0] * workers.at_once  # when each is free, on a clock that stands still outside working hours

    def ask(self, now: float, duels: int) -> Sequence[float]:
        """See ``Answering``."""
        begin = self._worked(now)
        done = []
        for _ in range(duels):
            takers = [heapq.heappop(self._free) for _ in range(self._votes)]
            ends = []
            for free in takers:
                seconds = self._median * self._generator.lognormal(0.0, self._spread)
                self.busy += seconds
                ends.append(max(free, begin) + seconds)
                heapq.heappush(self._free, ends[-1])
            done.append(self._on_the_clock(max(ends)))
        return sorted(done)

    def could_work(self, until: float) -> float:
        """See ``Answering``."""
        return len(self._free) * self._worked(until)

    def _worked(self, clock: float) -> float:
        """Seconds of working time before ``clock``; each day begins with them."""
        days, rest = divmod(clock, _DAY)
        return days * self._share * _DAY + min(rest, self._share * _DAY)

    def _on_the_clock(self, worked: float) -> float:
        days, rest = divmod(worked, self._share * _DAY)
        return days * _DAY + rest


def answering(machine: Machine, votes: int, seconds: float, generator: Generator) -> Answering:
    """Who answers on this machine; otherwise an oracle that takes ``seconds`` for a round."""
    workers = machine.workers
    return AtOnce(seconds) if workers is None else Workers(workers, votes, generator)
