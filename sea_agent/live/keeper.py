"""Keeps an engine of live mode on a Ray cluster: a detached actor, which outlives this process.

    SEA_AGENT_LIVE_TOKEN=… python -m sea_agent.live.keeper SETTINGS.json

It finds the engine that an earlier keeper left, or places a new one, writes down its URL, and waits. When the engine
ends, so does the keeper, and whoever keeps it alive starts both again, perhaps on another node. SIGTERM ends the engine
too. Whatever else ends the keeper costs no request: the engine serves on, and the next keeper finds it.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import httpx
from pydantic import BaseModel, ConfigDict

from actors.cluster import end_others
from actors.live_host import EngineHost
from actors.placement import Need, describe
from actors.runtime import LastingRemote, RayRuntime
from sea_agent import __version__
from sea_agent.config import Compute
from sea_agent.config.live import TOKEN
from sea_agent.config.section import read_settings as settings_in
from sea_agent.errors import RunFailure, Stopped, UserError, first_line
from sea_agent.live.supervisor import Part
from sea_agent.persistence.files import write_whole
from sea_agent.service.chat.settings import FILE

ANSWER_SECONDS = 120.0
"""Longest wait for an actor: for room in the cluster, for its process to start, and for an answer."""
END_SECONDS = 5.0
_LOOK_SECONDS = 1.0
_HEALTH_SECONDS = 5.0


class KeeperSettings(BaseModel):
    """The file that a keeper is started with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path
    """Directory of live mode, which all nodes see."""
    ray_address: str
    namespace: str
    """Of the engines of this live mode, and of nothing else."""
    index: int
    engines: int
    """How many there are; the keeper of the first one ends what an earlier start left beyond them."""
    cpus: float
    gpus: float
    deadline_seconds: float
    """Longest wait for the engine to be ready."""
    engine: dict[str, Any]
    """Settings of the engine, without its address."""

    @property
    def need(self) -> Need:
        """The engine's actor, and what it takes of its node."""
        return Need(f"engine-{self.index}", "engine", self.cpus, self.gpus)

    @property
    def url(self) -> Path:
        """The file that says where the engine is."""
        return self.out / f"{self.need.actor}.url"

    def mark(self, token: str) -> str:
        """Tells this engine from one with other settings, of another version, or with another token."""
        made_of = json.dumps([__version__, self.cpus, self.gpus, self.engine, token], sort_keys=True)
        return hashlib.sha256(made_of.encode()).hexdigest()


def engine_part(out: Path, run: str, need: Need, engines: int, compute: Compute, engine: dict[str, Any]) -> Part:
    """The keeper of an engine as a part of live mode, with its settings on disk."""
    assert compute.ray_address is not None  # only there engines are actors
    digest = hashlib.sha256(str(out).encode()).hexdigest()[:8]
    settings = KeeperSettings(
        out=out,
        ray_address=compute.ray_address,
        namespace=f"sea-agent-live-{run}-{digest}",
        index=int(need.actor.rpartition("-")[2]),
        engines=engines,
        cpus=need.cpus,
        gpus=need.gpus,
        deadline_seconds=compute.deadline_seconds,
        engine=engine,
    )
    file = out / f"{need.actor}.json"
    write_whole(file, settings.model_dump_json(indent=2) + "\n")
    settings.url.unlink(missing_ok=True)  # the engine of an earlier start may be somewhere else
    arguments = ["-m", "sea_agent.live.keeper", str(file)]
    deadline = compute.deadline_seconds + 3 * ANSWER_SECONDS
    return Part(need.actor, arguments, f"{FILE}{settings.url}", deadline=deadline)


@dataclass(frozen=True)
class Keeper:
    """Keeps one engine until ``stopping``."""

    settings: KeeperSettings
    token: str
    stopping: threading.Event
    tell: Callable[[str], None]

    def run(self) -> None:
        """Until it is stopped; then the engine has ended, too.

        Raises:
            UserError: the engine refuses its settings.
            RunFailure: the engine ended or died, does not come up, or the cluster does not answer.
        """
        settings, need = self.settings, self.settings.need
        with ExitStack() as stack:
            try:
                runtime = stack.enter_context(
                    RayRuntime(settings.ray_address, (), settings.engine["threads"], ANSWER_SECONDS)
                )
            except UserError as error:  # it answered when live mode was checked, and may be back soon
                raise RunFailure(str(error)) from None
            if settings.index == 0:
                end_others(settings.namespace, [f"engine-{index}" for index in range(settings.engines)])
            mark = settings.mark(self.token)
            engine = runtime.lasting(
                need, settings.namespace, EngineHost, mark, settings.engine, str(settings.out), self.token
            )
            try:
                if not self._is_well(engine, mark):
                    self.tell(f"{need.actor}: the one that was there is not well or has other settings; it is replaced")
                    engine.restart()
                self._watch(engine)
            except Stopped:
                with suppress(RunFailure):  # it has died already
                    engine.call("close").result(END_SECONDS)

    def _is_well(self, engine: LastingRemote, mark: str) -> bool:
        """Whether an engine that may have been there before is the wanted one, and serves or will."""
        try:
            if self._ask(engine, "mark") != mark:
                return False
            url = self._ask(engine, "look", 0.0)
            return url is None or httpx.get(f"{url}/healthz", timeout=_HEALTH_SECONDS, trust_env=False).is_success
        except (RunFailure, httpx.HTTPError):
            return False

    def _watch(self, engine: LastingRemote) -> NoReturn:
        name, begun, known = self.settings.need.actor, time.monotonic(), None
        while True:
            url = self._ask(engine, "look", _LOOK_SECONDS)
            if url is not None and url != known:
                write_whole(self.settings.url, url + "\n")
                self.tell(f"{name} is at {url}")
            elif url is None and time.monotonic() - begun > self.settings.deadline_seconds:
                raise RunFailure(f"{name} was not ready within {self.settings.deadline_seconds:.0f} s")
            known = url

    def _ask(self, engine: LastingRemote, method: str, *args: Any) -> Any:
        """The answer of the engine's actor.

        Raises:
            Stopped: while it is waited for.
            UserError, RunFailure: what the engine ended with, or there is no answer.
        """
        answer, begun = engine.call(method, *args), time.monotonic()
        while not answer.is_ready(_LOOK_SECONDS):
            if time.monotonic() - begun > ANSWER_SECONDS:
                raise RunFailure(
                    f"no answer within {ANSWER_SECONDS:.0f} s of {describe([self.settings.need])[0]}. See with "
                    "`ray status` whether the cluster has room for it."
                )
            if self.stopping.is_set():
                raise Stopped
        if self.stopping.is_set():
            raise Stopped
        return answer.result()


def read_settings(path: str) -> KeeperSettings:
    """Raises: UserError when the file cannot be read or holds no settings of a keeper."""
    return settings_in(KeeperSettings, Path(path), "a keeper")


def main() -> int:
    """The exit code: 0 after a signal, 1 when the engine is to be started again, 2 when that would not mend it."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        if len(sys.argv) != 2:
            raise UserError("usage: python -m sea_agent.live.keeper SETTINGS.json")
        token = os.environ.get(TOKEN, "")
        if not token:
            raise UserError(f"{TOKEN} is not set. Set it to a secret that the engine's callers know.")
        Keeper(read_settings(sys.argv[1]), token, stopping, lambda text: print(text, flush=True)).run()
    except (UserError, RunFailure) as error:
        print(first_line(error), file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
