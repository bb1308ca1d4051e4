"""`sea-agent serve` as a process of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

SECONDS = 60  # for a process to start or to end
GIVEN_KEY = "given-" + "k" * 32
SERVE = (sys.executable, "-m", "sea_agent", "serve")
ALTERED = (sys.executable, str(Path(__file__).with_name("altered.py")))


@dataclass
class Process:
    """A running service, and everything it has printed until it listened."""

    process: subprocess.Popen[str]
    lines: list[str]
    errors: Path

    @property
    def url(self) -> str:
        (ready,) = [line for line in self.lines if line.startswith("Ready: ")]
        assert ready.endswith("/label")
        return ready.removeprefix("Ready: ").removesuffix("/label")

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    @property
    def printed_keys(self) -> list[str]:
        return re.findall(r"sea_[\w-]{43}", " ".join(self.lines))

    def client(self, key: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=SECONDS)

    def stop(self, by: int = signal.SIGTERM) -> int:
        self.process.send_signal(by)
        return self.process.wait(SECONDS)

    def end(self) -> None:
        """Leave nothing behind, whatever has happened."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=SECONDS)


def launch(
    folder: Path,
    *options: str | int | Path,
    key: str | None = None,
    program: Sequence[str] = SERVE,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start a service in a folder, on a free port unless ``options`` name one; return when it listens.

    ``program`` may be a script that serves in a broken way, for negative controls.
    """
    variables = {**os.environ, **(environment or {})}
    variables.pop("SEA_AGENT_ADMIN_KEY", None)
    if key is not None:
        variables["SEA_AGENT_ADMIN_KEY"] = key
    number = len(list(folder.glob("errors-*.txt")))
    errors = folder / f"errors-{number}.txt"
    with errors.open("w") as sink:
        process = subprocess.Popen(
            [*program, "--port", "0", *map(str, options)],
            cwd=folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
        )
    started = Process(process, [], errors)
    watchdog = threading.Timer(SECONDS, process.kill)
    watchdog.start()
    assert process.stdout is not None
    for line in process.stdout:
        started.lines.append(line.strip())
        if line.startswith("Ready: "):
            break
    watchdog.cancel()
    if not any(line.startswith("Ready: ") for line in started.lines):
        started.end()
        raise AssertionError(f"the service did not start: {errors.read_text()}")
    return started
