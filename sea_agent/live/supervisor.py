"""Starts the parts of live mode as processes, waits until they are well, and starts those again that die.

A part that dies is started anew after a pause that grows with each death and is forgotten after a good while. A part
that never comes up ends everything: something is wrong with it that another start would not mend. So does one that says
on its first start that it was given something wrong. Said later, it is of what comes and goes, such as a database.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from sea_agent.errors import RunFailure
from sea_agent.service.chat.settings import located

POLL_SECONDS = 0.2
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
GOOD_WHILE = 60.0
"""Seconds alive after which earlier deaths are forgotten."""
START_SECONDS = 300.0
"""Longest wait for a part to be well that names none of its own."""
END_SECONDS = 60.0
"""Longest time in which everything ends: what starts it must leave it more. Each group of parts has an equal share, and
what others have left of theirs; then it is killed."""
KILL_SECONDS = 5.0
"""Longest wait for a part that was killed."""
LIFELINE = ("-m", "sea_agent.live.lifeline")
USER_ERROR = 2
"""The exit code of a part that was given something wrong."""
_TAIL = 2000


@dataclass
class Part:
    """A process. ``url`` is where it listens, or the file that says so, and answers ``/healthz`` with 200 once it is
    well; None for one that is well as soon as it runs. ``environment`` is its own beside that of all, and ``deadline``
    in seconds."""

    name: str
    arguments: Sequence[str]
    url: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    deadline: float = START_SECONDS
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    began: float = field(default=0.0, init=False)
    deaths: int = field(default=0, init=False)
    restarts: int = field(default=0, init=False)
    again_at: float = field(default=0.0, init=False)


class Supervisor:
    """The parts in groups, in the order in which these start.

    Args:
        logs: directory for what they print.
        environment: of all of them.
        tell: gets lines for the operator.
    """

    def __init__(
        self,
        logs: Path,
        environment: Mapping[str, str],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._groups: list[Sequence[Part]] = []
        self._logs, self._environment, self._tell = logs, dict(environment), tell
        self._clock, self._pause = clock, pause
        self._stopping = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    @property
    def parts(self) -> list[Part]:
        """Those that were started, in this order."""
        return [part for group in self._groups for part in group]

    def stop(self, *_: object) -> None:
        """Let ``start`` and ``watch`` return; for signals."""
        self._stopping = True

    def start(self, *parts: Part) -> bool:
        """Start a group of parts side by side, and wait until each is well; False when ``stop`` was called meanwhile.

        Raises:
            RunFailure: when one dies or is not well in time; names its log.
        """
        self._groups.append(parts)
        for part in parts:
            self._begin(part)
        for part in parts:
            while not self._stopping and not self._is_well(part):
                self._require_life(part)
                self._pause(POLL_SECONDS)
        return not self._stopping

    def watch(self) -> None:
        """Keep the parts alive until ``stop`` is called.

        Raises:
            RunFailure: when a part was given something wrong to start with.
        """
        while not self._stopping:
            for part in self.parts:
                self._look(part)
            self._pause(POLL_SECONDS)

    def end(self) -> None:
        """End all groups, the last that began first, and the parts of each side by side."""
        share, began = END_SECONDS / max(1, len(self._groups)), self._clock()
        for place, group in enumerate(reversed(self._groups), start=1):
            processes = [(part.name, part.process) for part in group if part.process is not None]
            for _, process in processes:
                process.send_signal(signal.SIGTERM)
            for name, process in processes:
                try:
                    process.wait(max(0.0, began + place * share - self._clock()))
                except subprocess.TimeoutExpired:
                    self._tell(f"{name} did not end in time and is killed")
                    os.killpg(process.pid, signal.SIGKILL)  # and what it started: its session is its own
                    process.wait(KILL_SECONDS)

    def _begin(self, part: Part) -> None:
        self._logs.mkdir(parents=True, exist_ok=True)
        with self._log(part).open("ab") as log:
            # A session of its own: Ctrl-C reaches this process, which ends the parts in order.
            part.process = subprocess.Popen(
                [sys.executable, *LIFELINE, *part.arguments],
                stdin=subprocess.PIPE,  # never written to: it ends with this process
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment, **part.environment},
                start_new_session=True,
            )
        part.began = self._clock()

    def _look(self, part: Part) -> None:
        now = self._clock()
        assert part.process is not None  # it was started
        code = part.process.poll()
        if code is None:
            if part.deaths and now - part.began > GOOD_WHILE:
                part.deaths = 0
            return
        if code == USER_ERROR and not part.restarts:
            raise RunFailure(f"{part.name} cannot go on: {self._last_words(part)}")
        if part.again_at == 0.0:
            part.deaths += 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (part.deaths - 1))
            part.again_at = now + pause
            how = f"exit code {code}" if code >= 0 else f"signal {-code}"
            self._tell(f"{part.name} has ended ({how}); it starts again in {pause:g} s. {self._log(part)} says more.")
        elif now >= part.again_at:
            part.again_at = 0.0
            part.restarts += 1
            self._begin(part)

    def _is_well(self, part: Part) -> bool:
        if part.url is None:
            return True
        try:
            return httpx.get(f"{located(part.url)}/healthz", timeout=2.0, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _require_life(self, part: Part) -> None:
        assert part.process is not None  # it was started
        if part.process.poll() is not None:
            raise RunFailure(f"{part.name} did not start: {self._last_words(part)}")
        if self._clock() - part.began > part.deadline:
            raise RunFailure(f"{part.name} was not ready within {part.deadline:.0f} s; {self._log(part)} says more")

    def _log(self, part: Part) -> Path:
        return self._logs / f"{part.name}.log"

    def _last_words(self, part: Part) -> str:
        said = self._log(part).read_bytes()[-_TAIL:].decode(errors="replace").strip().splitlines()
        return f"{said[-1]} ({self._log(part)})" if said else f"it said nothing ({self._log(part)})"
