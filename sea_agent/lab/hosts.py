"""Where cells are run: processes of this machine, or of the nodes of a Ray cluster."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from actors.cluster import knock
from sea_agent.errors import UserError

_PACKAGES = str(Path(__file__).resolve().parents[2])
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Task:
    """A run to be done in a process of its own. Paths are absolute; ``directory`` is what the configuration's relative
    paths are relative to; what the process prints goes to ``log``."""

    config: str
    out: str
    log: str
    directory: str
    threads: int
    gpu: bool


class Host(Protocol):
    """Runs tasks, at most ``slots`` at once. Leaving its context ends the processes that still run."""

    slots: int

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def start(self, task: Task) -> None:
        """Start a task."""

    def ended(self) -> Iterator[tuple[Task, str | None]]:
        """Tasks that ended since the last call, after a short wait; with how, unless it was well."""


def start_process(task: Task, packages: str, keep: tuple[int, ...] = ()) -> "subprocess.Popen[bytes]":
    """Start the process of a task in a session of its own; it inherits the file descriptors ``keep``.

    Its stdin must stay open: the process ends when it closes, also when this process is killed.
    """
    # The working directory is kept off the import path, where a user's oracle.py or learner.py would hide our packages.
    path = os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH"))))
    settings = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(task.threads), "TOKENIZERS_PARALLELISM": "false"}
    with open(task.log, "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "sea_agent.lab.worker", task.config, task.out],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=task.directory,
            env=os.environ | settings,
            start_new_session=True,
            pass_fds=keep,
        )


def _end(process: "subprocess.Popen[bytes]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _manner(code: int) -> str | None:
    """How a process ended that gave this exit code; None when well."""
    if code == 0:
        return None
    return f"ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"


class LocalHost:
    """Processes of this machine. They hold ``lock`` open, so that it outlives a killed runner until they are gone."""

    def __init__(self, slots: int, lock: int) -> None:
        self.slots = slots
        self._lock = lock
        self._running: list[tuple[Task, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for _, process in self._running:
            _end(process)

    def start(self, task: Task) -> None:
        """Start a process."""
        self._running.append((task, start_process(task, _PACKAGES, keep=(self._lock,))))

    def ended(self) -> Iterator[tuple[Task, str | None]]:
        """Processes that ended, and how unless well."""
        time.sleep(_LOOK_SECONDS)
        for entry in [entry for entry in self._running if entry[1].poll() is not None]:
            self._running.remove(entry)
            task, process = entry
            if process.stdin is not None:
                process.stdin.close()
            yield task, _manner(process.returncode)


class RayHost:
    """Tasks of a Ray cluster. Every node must see the experiment's directory and the working directory under the same
    paths, and needs the package installed there.

    Raises:
        UserError: when no cluster answers at ``address``.
    """

    def __init__(self, address: str, slots: int | None) -> None:
        self._address = address
        self._slots = slots
        self._running: dict[Any, Task] = {}

    def __enter__(self) -> Self:
        import ray

        # Only an instance of our own takes options.
        place: dict[str, Any] = {"include_dashboard": False} if self._address == "local" else {}
        try:
            knock(self._address)
            ray.init(self._address, log_to_driver=False, logging_level="error", configure_logging=False, **place)
        except (OSError, ValueError) as error:
            raise UserError(f"--ray-address {self._address}: no Ray cluster answers there ({error})") from None
        # What runs on the nodes must arrive without an import; see start_process.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        self._remote = ray.remote(_on_node)
        self.slots = self._slots or max(1, int(ray.cluster_resources().get("CPU", 1)))
        return self

    def __exit__(self, *error: object) -> None:
        import ray

        for reference in self._running:
            ray.cancel(reference, force=True)
        ray.shutdown()

    def start(self, task: Task) -> None:
        """Hand a task to the cluster."""
        import ray

        there = ray.cluster_resources()
        for kind, count in (("CPU", task.threads), ("GPU", int(task.gpu))):
            if count > there.get(kind, 0):
                raise UserError(
                    f"--ray-address {self._address}: a run needs {count} {kind}, the cluster has "
                    f"{there.get(kind, 0):g}; lower threads, set device=cpu, or use another cluster"
                )
        place = self._remote.options(num_cpus=task.threads, num_gpus=int(task.gpu), max_retries=0)
        self._running[place.remote(task, _PACKAGES)] = task

    def ended(self) -> Iterator[tuple[Task, str | None]]:
        """Tasks that ended, and how unless well."""
        import ray

        done, _ = ray.wait(list(self._running), num_returns=1, timeout=_LOOK_SECONDS)
        for reference in done:
            task = self._running.pop(reference)
            try:
                yield task, ray.get(reference)
            except ray.exceptions.RayError as error:
                yield task, str(error)


def _on_node(task: Task, packages: str) -> str | None:
    """Run a task on the node this is called on; how it ended, unless well."""
    for path in (task.directory, task.config):
        if not os.path.exists(path):
            return f"{path} is not there on the node {os.uname().nodename}; use a file system that all nodes share"
    process = start_process(task, packages)
    try:
        return _manner(process.wait())
    finally:
        if process.poll() is None:
            _end(process)
