"""How weights go live: written to disk, published under a version of the store, compared by the gate, taken back.

    OUT/weights/<checksum>/model.safetensors   of a version, or of the initial policy
    OUT/weights/initial                        the checksum of the initial policy

A directory of weights is there as a whole or not at all. Versions come from the store, which never gives one twice.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from sea_agent.agent import Agent
from sea_agent.config import LiveConfig
from sea_agent.errors import UserError
from sea_agent.live.audits import evidence
from sea_agent.live.drift import drift
from sea_agent.live.gate import objections
from sea_agent.live.log import LiveLog, Publication, Serving
from sea_agent.live.measuring import FILE, Measuring
from sea_agent.persistence.files import to_disk, write_whole
from sea_agent.types import Prompt

_INITIAL = "initial"
_PART = ".part"


class Publishing:
    """Offers the weights of an agent, and takes back those that audits speak against.

    Args:
        weights: the directory of all weights.
        heldout: gives the newest held-out conversations, as many as asked for, the newest last.
    """

    def __init__(
        self,
        live: LiveConfig,
        log: LiveLog,
        weights: Path,
        measuring: Measuring,
        heldout: Callable[[int], list[Prompt]],
        tell: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._live, self._log, self._weights, self._measuring = live, log, weights, measuring
        self._heldout, self._tell, self._clock = heldout, tell, clock
        self._offered = ""

    def begin(self, agent: Agent) -> None:
        """Keep the initial policy, while the learner has it, and let it go live: what goes live later can be taken back
        to it."""
        path = self._save(agent)
        write_whole(self._weights / _INITIAL, agent.published)
        initial = self._log.publish(agent.published, 0, 0, str(path))
        if initial.state == "offered" and self._log.serving().live is None:
            self._log.decide(initial.version, "live", "the initial policy")

    def offer(self, agent: Agent) -> None:
        """Publish the agent's weights, unless they were offered already, and let the gate decide.

        While a canary is tried, newer weights wait: each would take its place, and none would ever have its time.
        """
        if agent.published in (self._offered, self._initial().name) or self._log.serving().canary is not None:
            return
        path, labels = self._save(agent), agent.ledger.oracle_queries
        offered = self._log.publish(agent.published, agent.rounds, labels, str(path))
        if offered.state == "offered":
            self._judge(agent, offered)
        self._offered = agent.published
        self._forget_old()

    def tend(self, serving: Serving, audits: dict[int, list[float]]) -> None:
        """Take back versions that audits speak against, and let a canary's go live when its time is over."""
        for version, state in ((serving.live, "withdrawn"), (serving.canary, "rejected")):
            outcomes = [] if version is None else audits.get(version, [])
            speaks = evidence(outcomes)
            if version is None or speaks < 1 / self._live.gate.rollback_error or self._is_initial(version):
                continue
            lost, won = sum(one < 0.5 for one in outcomes), sum(one > 0.5 for one in outcomes)
            reason = f"lost {lost} of {lost + won} audits against the initial policy"
            report = {"audits": len(outcomes), "lost": lost, "won": won, "evidence": speaks}
            if self._log.decide(version, state, reason, report):
                self._tell(f"version {version} is taken back: it {reason}")
            return
        canary = None if serving.canary is None or serving.frozen else self._log.publication(serving.canary)
        if canary is not None and self._clock() >= (canary.decided_at or 0.0) + self._live.gate.canary_seconds:
            self._log.decide(canary.version, "live", "served the canary's users without objection")

    def _judge(self, agent: Agent, offered: Publication) -> None:
        serving, gate = self._log.serving(), self._live.gate
        live = None if serving.live is None else self._log.publication(serving.live)
        if live is not None and not (Path(live.path) / FILE).is_file():
            self._log.decide(offered.version, "rejected", f"the live weights are not at {live.path} to compare with")
            return
        directory, version = (None, 0) if live is None else (Path(live.path), live.version)
        prompts = self._heldout(2 * gate.prompts)
        recent, earlier = prompts[-gate.prompts :], prompts[: -gate.prompts]
        figures = self._measuring.measure(agent, recent, self._initial(), directory, version)
        report = figures.report() | {"drift": drift(recent, earlier)}
        against = objections(figures, gate)
        if serving.frozen:
            against.append("an operator has frozen what is live")
        if against:
            self._log.decide(offered.version, "rejected", "; ".join(against), report)
            self._tell(f"version {offered.version} stays back: {'; '.join(against)}")
            return
        state = "canary" if gate.canary_share and self._live.engines > 1 else "live"
        reason = f"win rate {figures.win_rate:.3f} against version {version}, at least {figures.win_low:.3f}"
        if self._log.decide(offered.version, state, reason, report):
            self._tell(f"version {offered.version} goes {state}: {reason}")

    def _is_initial(self, version: int) -> bool:
        found = self._log.publication(version)
        return found is not None and found.checksum == self._initial().name

    # --- on disk

    def _initial(self) -> Path:
        try:
            return self._weights / (self._weights / _INITIAL).read_text()
        except OSError as error:
            raise UserError(
                f"{self._weights}: the initial weights are not there ({error}), so nothing can be compared with them. "
                "Restore the directory, or start anew in another one."
            ) from None

    def _save(self, agent: Agent) -> Path:
        """The directory of the agent's weights, written unless it is there."""
        target = (self._weights / agent.published).absolute()
        if target.exists():
            return target
        part = target.with_name(target.name + _PART)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        agent.learner.save_weights(str(part / FILE))
        for written in (part / FILE, part):
            to_disk(written)
        part.rename(target)
        to_disk(self._weights)
        return target

    def _forget_old(self) -> None:
        """Keep the live weights and those to go back to, ``keep_versions`` together, the last ones that were turned
        down, which an operator may want after all, and the initial policy."""
        there = {str(path.absolute()) for path in self._weights.iterdir() if path.is_dir()}
        there.discard(str(self._initial().absolute()))
        known: list[Publication] = []
        for one in self._log.publications():
            if one.path in there:
                known.append(one)
            if {one.path for one in known} == there:
                break
        good = [one for one in known if one.state in ("live", "canary", "retired")]
        good.sort(key=lambda one: (one.state == "retired", -one.version))
        turned_down = [one for one in known if one.state in ("offered", "rejected")]
        stays = {one.path for one in [*good[: self._live.keep_versions], *turned_down[:1]]}
        for one in known:
            if one.path not in stays and one.state == "offered":  # the agent ended before the gate had decided
                self._log.decide(one.version, "rejected", "later weights were offered before it was decided")
            if one.path not in stays:
                self._log.tell_deleted(one.version)
        for path in there - stays:
            shutil.rmtree(path)
