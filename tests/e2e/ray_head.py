"""A Ray cluster of one node in processes of its own, with token authentication, and the commands that use it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

PATIENCE = 240.0
TOKEN = "5ea" + "0" * 61


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that other processes bring about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as open_:
        sockets = [open_.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


class Head:
    """`ray start --head`, until it is closed."""

    def __init__(self) -> None:
        # Ray's sockets lie below its directory, and their paths must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="sea-ray-", dir="/tmp"))
        gcs, dashboard, client, agent = _free_ports(4)
        self.address = f"http://127.0.0.1:{dashboard}"
        self._commands = 0
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))},
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "HOME": str(self.folder),  # where Ray would look for a token, and keep one
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "COLUMNS": "200",
        }
        ports = {"port": gcs, "dashboard-port": dashboard, "ray-client-server-port": client}
        ports |= {"dashboard-agent-listen-port": agent}
        options = [f"--{name}={port}" for name, port in ports.items()]
        options += [f"--temp-dir={self.folder / 'ray'}", "--num-cpus=4", "--dashboard-host=127.0.0.1"]
        with (self.folder / "head.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )

    def await_ready(self) -> None:
        until(self._answers, f"a head at {self.address}: {(self.folder / 'head.log').read_text()[-2000:]}")

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self.folder / "head.log").read_text()
        try:
            answer = httpx.get(f"{self.address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10)
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    def processes(self, title: str) -> list[psutil.Process]:
        """Those of the cluster whose command line contains ``title``."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                pass
        return found

    def close(self) -> None:
        """End the cluster, all of it."""
        family = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        self._process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=30)
        for process in alive:
            process.kill()
        self._process.wait(PATIENCE)
        assert psutil.wait_procs(alive, timeout=30)[1] == []
        shutil.rmtree(self.folder)

    def start(self, *command: str | Path, cwd: Path, environment: Mapping[str, str | None] | None = None) -> "Command":
        """`python -m COMMAND` as a user of the cluster; None takes a variable away."""
        self._commands += 1
        return Command(
            command, cwd, {**self.environment, **(environment or {})}, self.folder / f"command-{self._commands}.log"
        )

    def do(self, *command: str | Path, cwd: Path, environment: Mapping[str, str | None] | None = None) -> "Ended":
        """The same, to its end."""
        return self.start(*command, cwd=cwd, environment=environment).end()

    def start_ray(self, verb: str, *rest: str | Path, cwd: Path = Path("/")) -> "Command":
        """`ray job VERB`, as anybody types it."""
        return self.start("ray.scripts.scripts", "job", verb, "--address", self.address, *rest, cwd=cwd)

    def ray(self, verb: str, *rest: str | Path, cwd: Path = Path("/")) -> "Ended":
        """The same, to its end."""
        return self.start_ray(verb, *rest, cwd=cwd).end()


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    printed: str


class Command:
    """A process that runs."""

    def __init__(
        self, command: Sequence[str | Path], cwd: Path, environment: Mapping[str, str | None], log: Path
    ) -> None:
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *map(str, command)],
                cwd=cwd,
                env={name: value for name, value in environment.items() if value is not None},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Tests that were started in the background may have inherited an ignored interrupt.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def printed(self) -> str:
        """What it has printed so far."""
        return self._log.read_text()

    def until(self, text: str) -> None:
        """Wait until it has printed ``text``."""
        until(lambda: text in self.printed() or self.process.poll() is not None, text)
        assert text in self.printed(), self.printed()

    def end(self) -> Ended:
        """Wait for its end."""
        try:
            self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        return Ended(self.process.returncode, self.printed())
