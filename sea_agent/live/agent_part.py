"""The agent of live mode: a run whose rounds begin when users have answered, and whose weights go live.

    python -m sea_agent.live.agent_part CONFIG.yaml --out OUT

Between two rounds it tells the decider what the posterior has learnt, publishes weights, looks at audits, erases what
users want erased, and waits. All of it may be repeated: a life that ends in between leaves nothing half done that the
next one does not find.
"""

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from actors.samplers import SamplerPool
from oracle.live import LiveOracle
from oracle.service_client import Unavailable
from sea_agent.agent import Agent
from sea_agent.config import CheckpointConfig, RunConfig
from sea_agent.config.files import load_config
from sea_agent.errors import RunFailure, Stopped, UserError
from sea_agent.live.engine_scores import engine_score
from sea_agent.live.log import MOST_ROWS, LiveLog
from sea_agent.live.measuring import Measuring
from sea_agent.live.publishing import Publishing
from sea_agent.live.source import LivePrompts, LiveSource
from sea_agent.loop.candidates import CandidateSource
from sea_agent.persistence.checkpoint import Checkpoints
from sea_agent.persistence.ledger import Ledger
from sea_agent.persistence.rounds import RoundMetrics
from sea_agent.pretrained import context_length
from sea_agent.run.assembly import warm
from sea_agent.run.lifecycle import resume
from sea_agent.run.preflight import Inputs
from sea_agent.run.resumption import kept
from sea_agent.run.session import NOBODY, Watch

SNAPSHOTS, WEIGHTS, SETTINGS = "decider", "weights", "live.json"
SPENT = "the budget is spent: nothing more is learnt, and audits, canaries and erasures are watched on"
_POLL_SECONDS = 5
_RECENT = 8
"""Conversations that imagined rounds draw from, as a multiple of those that they take."""


@dataclass
class LiveRun:
    """What live mode does between rounds; see ``Beside``."""

    config: RunConfig
    inputs: Inputs
    out: Path
    watch: Watch = NOBODY
    clock: Callable[[], float] = time.monotonic
    _snapshot: int = field(default=-1, init=False)
    """Answers that the posterior of the latest snapshot has learnt from."""

    def __post_init__(self) -> None:
        config, oracle = self.config, self.inputs.oracle
        assert config.live is not None  # the configuration was checked
        assert isinstance(oracle, LiveOracle)
        assert config.oracle.kind == "live"
        if oracle.service is None:
            raise UserError("oracle.url is not set: start live mode with `sea-agent live`, which fills it in")
        self._live, self._oracle = config.live, oracle
        self._log, self._patience = LiveLog(oracle.service, config.oracle.run), config.oracle.wait_hours * 3600
        longest = context_length(config.policy.path) - config.sampler.max_new_tokens
        recent = min(_RECENT * config.batch_size, MOST_ROWS)
        self._prompts = LivePrompts(self._log, seed=config.seed, recent=recent, longest=longest)
        self._publishing = Publishing(
            self._live,
            self._log,
            self.out / WEIGHTS,
            Measuring(
                seed=config.seed,
                temperature=config.sampler.temperature,
                judge=self.inputs.judge,
                score=engine_score(self.out / SETTINGS),
            ),
            self._prompts.heldout,
            self.watch.tell,
        )

    def source(self, samplers: SamplerPool, reference: SamplerPool | None, ledger: Ledger) -> LiveSource:
        """Where the rounds get their prompts and duels."""
        config = self.config
        imagined = CandidateSource(
            config.sampler,
            self._prompts,
            samplers,
            reference,
            batch_size=config.batch_size,
            selection=config.selection,
            imagined_candidates=config.imagination.candidates,
        )
        self._source = LiveSource(
            self._live,
            self._log,
            self._oracle,
            ledger,
            self._prompts,
            imagined,
            batch_size=config.batch_size,
            rule=config.selection.rule,
        )
        return self._source

    def between(self, agent: Agent, save: Callable[[], None]) -> None:
        """See ``Beside.between``."""
        if agent.rounds == 0:
            self._publishing.begin(agent)
        self._look(agent, save, 0)
        self._tell_decider(agent)
        if agent.imagined_rounds_due:
            return
        self._publishing.offer(agent)
        if agent.ledger.oracle_queries < self.config.budget.limit:
            self._wait(agent, save)

    def after(self, agent: Agent, save: Callable[[], None]) -> None:
        """See ``Beside.after``: what was published is watched, and users are erased, until the run is stopped."""
        self.watch.tell(SPENT)
        while not self.watch.stopping():
            self._look(agent, save, _POLL_SECONDS)
            self._publishing.offer(agent)  # the last weights may have waited for the end of a canary
        raise Stopped

    def _wait(self, agent: Agent, save: Callable[[], None]) -> None:
        """Until users have answered enough for a round."""
        begun = heard = self.clock()
        while not self._source.is_ready(agent.rounds + 1, self.clock() - begun):
            if self.watch.stopping():
                save()
                raise Stopped
            left = begun + self._live.round_seconds - self.clock()
            if self._look(agent, save, _POLL_SECONDS if left <= 0 else min(_POLL_SECONDS, max(1, int(left)))):
                heard = self.clock()
            elif self.clock() - heard > self._patience:
                raise RunFailure(
                    f"{self._oracle.name}: no answer for {self._patience / 3600:g} hours. See to it that users are "
                    "asked, then start the agent again; raise oracle.wait_hours to wait for longer."
                )
            self._publishing.offer(agent)  # these weights may have waited for the end of a canary

    def _look(self, agent: Agent, save: Callable[[], None], wait_s: int) -> bool:
        """Read what happened meanwhile and act on it; whether somebody answered."""
        try:
            grown = self._source.poll(wait_s)
        except Unavailable as error:
            self.watch.tell(f"the gateway does not answer ({error}); users are waited for all the same")
            return False
        serving = self._log.serving()
        if serving.erasures > self._source.erased:
            self._erase(agent, save)
        self._publishing.tend(serving, self._source.audits)
        return grown

    def _tell_decider(self, agent: Agent) -> None:
        """A snapshot of the posterior, if it has learnt anything since the latest."""
        answers = agent.ledger.oracle_queries
        if answers == self._snapshot or not agent.rounds:
            return
        self._write_snapshot(agent, alone=False)
        self._snapshot = answers

    def _write_snapshot(self, agent: Agent, *, alone: bool) -> None:
        directory = self.out / SNAPSHOTS
        latest = max((int(path.name.partition("-")[2]) for path in directory.glob("round-??????")), default=0)
        with Checkpoints(directory, CheckpointConfig(), kept(self.config)) as snapshots:
            snapshots.save(latest + 1, {"selector": agent.selector.call("state").result()}, None)
            if alone:
                snapshots.forget_others()

    def _erase(self, agent: Agent, save: Callable[[], None]) -> None:
        """Forget what users want forgotten: in the ledger, the posterior, every checkpoint and every snapshot."""
        ids, place = self._log.erased(self._source.erased)
        self._source.forget(ids)
        if agent.ledger.erase(ids):
            self._refit(agent)
        self._source.erased = place
        save()
        self._write_snapshot(agent, alone=True)
        self.watch.tell(f"{len(ids)} conversations were erased; the posterior was fitted without them")

    def _refit(self, agent: Agent) -> None:
        """A posterior that has never seen what is not in the ledger any more."""
        agent.selector.restart()
        if self.inputs.imported is not None:
            warm(self.inputs.imported, agent.ledger, agent.selector)
        candidates = self._source.scale(agent.rounds)
        if candidates:
            agent.selector.call("begin", candidates).result()
        for number, answers in agent.ledger.answers(agent.rounds):
            agent.selector.call("update", answers, number).result()


@dataclass(frozen=True)
class AgentPart:
    """The agent of ``config`` in ``out``, or the one that is there."""

    config: RunConfig
    out: Path
    watch: Watch = NOBODY

    def run(self) -> None:
        """Go on until it is stopped, also once the budget is spent.

        Raises:
            UserError, RunFailure, Stopped: as ``lifecycle.run``.
        """
        config, out, watch = self.config, self.out, self.watch
        if not config.is_live:
            raise UserError(f"oracle.kind={config.oracle.kind}: live mode needs oracle.kind=live")
        out.mkdir(parents=True, exist_ok=True)
        resume(config, out, watch=watch, beside=partial(LiveRun, config, out=out, watch=watch))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m sea_agent.live.agent_part")
    parser.add_argument("config")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())

    def on_round(row: RoundMetrics) -> None:
        if not row.is_imagined:
            print(f"round {row.round}: {row.oracle_queries} answers", flush=True)

    try:
        config = load_config(arguments.config, arguments.overrides)
        AgentPart(config, arguments.out, Watch(on_round, partial(print, flush=True), stopping.is_set)).run()
    except UserError as error:
        sys.exit(_told(error, 2))
    except Stopped:
        sys.exit(0)
    except RunFailure as error:
        sys.exit(_told(error, 1))


def _told(error: Exception, code: int) -> int:
    print(f"agent: {error}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    main()
