"""One life of a run: its rounds, with checkpoints along the way, and what is done when a part of it dies."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from actors.samplers import SamplerPool
from sea_agent.agent import Agent
from sea_agent.errors import ActorDied, Stopped, UnfitState
from sea_agent.loop.candidates import Source
from sea_agent.persistence.checkpoint import Checkpoint, Checkpoints
from sea_agent.persistence.directory import MetricsFile
from sea_agent.persistence.ledger import Ledger
from sea_agent.persistence.rounds import RoundMetrics
from sea_agent.saved_state import require

_MOST_DEATHS = 3
_LIVED_OTHERWISE = (
    "rounds after the checkpoint came to other weights than the first time (another machine, version of a library or "
    "number of threads rounds otherwise). No answer is lost or asked for again. Where the present policy gives a "
    "response other log-probabilities than learner.max_logprob_gap allows, its answer counts as a late one: the "
    "posterior learns from it, the policy only if learner.max_staleness allows that."
)
_FORM = {"agent": dict, "spent": {"wall_seconds": float, "cpu_seconds": float}, "metrics_bytes": int}


@dataclass(frozen=True)
class Watch:
    """Who looks on: gets the row of each round, lines to show meanwhile, and says when to stop."""

    on_round: Callable[[RoundMetrics], None] = lambda row: None
    tell: Callable[[str], None] = lambda line: None
    stopping: Callable[[], bool] = lambda: False


NOBODY = Watch()


class Beside(Protocol):
    """What live mode adds to a run."""

    def source(self, samplers: SamplerPool, reference: SamplerPool | None, ledger: Ledger) -> Source:
        """Where the rounds get their prompts and duels."""

    def between(self, agent: Agent, save: Callable[[], None]) -> None:
        """Called before each round but the very first; returns when the next one may begin. ``save`` makes the present
        state the only one on disk.

        Raises:
            Stopped: when the run should stop while it waits.
        """

    def after(self, agent: Agent, save: Callable[[], None]) -> None:
        """Called once the budget is spent and everything is on disk."""


class Session:
    """Runs an agent from a checkpoint, or from its start, to the end of its budget."""

    def __init__(
        self,
        agent: Agent,
        metrics: MetricsFile,
        checkpoints: Checkpoints,
        watch: Watch,
        cpu_seconds: Callable[[], float],
        beside: Beside | None = None,
    ) -> None:
        self._agent, self._metrics, self._checkpoints, self._watch = agent, metrics, checkpoints, watch
        self._cpu_seconds, self._beside = cpu_seconds, beside
        self._began = time.monotonic()
        self._before = {"wall_seconds": 0.0, "cpu_seconds": 0.0}  # of earlier lives
        self._lived_otherwise = False

    def run(self, found: Checkpoint | None) -> None:
        """The rounds after ``found``.

        Raises:
            ActorDied: when the same round kills parts of the run again and again.
            Stopped: when the watch asked for it; a checkpoint was written.
            UserError: when ``found`` is no state of this run.
        """
        if found is None:
            self._metrics.cut(0)
        else:
            self._go_on_from(found)
            self._before = found.state["spent"]
        deaths = Counter[int]()
        last: ActorDied | None = None
        while True:
            try:
                if last is not None:
                    self._recover(last)
                if self._agent.begun:
                    self._between()
                self._agent.run(self._after_round)
                break
            except ActorDied as death:
                deaths[self._agent.rounds] += 1
                if deaths[self._agent.rounds] == _MOST_DEATHS:
                    raise ActorDied(
                        f"round {self._agent.rounds} cost a part its life {_MOST_DEATHS} times and is not tried again. "
                        f"The latest checkpoint is whole: find what kills it, then resume the run. {death}"
                    ) from death
                last = death
        self._save()

    def outlast(self) -> None:
        """What goes on beside the run once its budget is spent and everything is on disk.

        Raises:
            Stopped: when it should stop.
        """
        if self._beside is not None:
            self._beside.after(self._agent, self._save_alone)

    def spent(self) -> dict[str, float]:
        """Seconds so far, those of earlier lives included."""
        return {
            "wall_seconds": round(self._before["wall_seconds"] + time.monotonic() - self._began, 3),
            "cpu_seconds": round(self._before["cpu_seconds"] + self._cpu_seconds(), 3),
        }

    def _after_round(self, row: RoundMetrics) -> None:
        self._metrics.add(row)
        self._watch.on_round(row)
        if self._agent.relived_rounds and not self._lived_otherwise:
            self._lived_otherwise = True
            self._watch.tell(_LIVED_OTHERWISE)
        stopping = self._watch.stopping()
        if stopping or self._checkpoints.is_due(self._agent.rounds):
            self._save()
        if stopping:
            raise Stopped
        self._between()

    def _between(self) -> None:
        if self._beside is not None:
            self._beside.between(self._agent, self._save_alone)

    def _save_alone(self) -> None:
        self._save()
        self._checkpoints.forget_others()

    def _save(self) -> None:
        agent = self._agent
        state: dict[str, Any] = {
            "agent": agent.state(),
            "spent": self.spent(),
            "metrics_bytes": self._metrics.length,
        }
        self._checkpoints.save(agent.rounds, state, agent.evaluator.latest.win_rate)

    def _recover(self, death: ActorDied) -> None:
        """New parts for those that died, and back to the latest checkpoint."""
        self._checkpoints.finish()
        latest = self._checkpoints.latest()
        if latest is None:
            raise death
        self._watch.tell(str(death).partition("\n")[0])
        self._agent.revive()
        self._go_on_from(latest)

    def _go_on_from(self, found: Checkpoint) -> None:
        self._watch.tell(f"resuming from {found.name}")
        try:
            require(found.state, _FORM, "state")
            self._agent.load_state(found.state["agent"])
            self._metrics.cut(found.state["metrics_bytes"])
        except UnfitState as error:
            raise self._checkpoints.refusal(found.name, error) from None
