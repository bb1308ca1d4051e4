"""A Ray cluster of two nodes on this machine, the parts of a run that are on it, and how they die."""

import os
import signal
from contextlib import suppress
from typing import Any

import psutil
from ray.cluster_utils import Cluster

# A node without an answer is dead after eight seconds, which a busy machine may take; by default Ray waits for fifteen.
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 8}


class TwoNodes:
    """The head, where the run's own process is, with two GPUs that do not exist; and a worker that can be killed."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.head = self.cluster.add_node(num_cpus=5, num_gpus=2, include_dashboard=False, _system_config=HEALTH)
        self.worker = self.cluster.add_node(num_cpus=7)
        self.address = self.cluster.address

    def spread(self) -> dict[str, int]:
        """How many actors of the run there are on each node that is alive."""
        return {
            name: sum(child.name().startswith("ray::_Shell") for child in raylet_of(node).children())
            for name, node in (("head", self.head), ("worker", self.worker))
            if is_alive(node)
        }

    def lose_the_worker(self) -> None:
        """As when its power fails: all of its processes end at once."""
        raylet = raylet_of(self.worker)
        for process in [raylet, *raylet.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # it has already followed its raylet
                process.kill()

    def mend(self) -> None:
        """A new worker in the place of one that was lost."""
        if not is_alive(self.worker):
            self.cluster.remove_node(self.worker, allow_graceful=False)
            self.worker = self.cluster.add_node(num_cpus=7)


def is_at_work(process: psutil.Process) -> bool:
    return process.status() != psutil.STATUS_ZOMBIE


def is_alive(node: Any) -> bool:
    [info] = node.all_processes["raylet"]
    return info.process.poll() is None


def raylet_of(node: Any) -> psutil.Process:
    [info] = node.all_processes["raylet"]
    return psutil.Process(info.process.pid)


def parts() -> list[int]:
    """Process ids of the actors that nodes of this process host, the oldest first."""
    family = psutil.Process().children(recursive=True)
    shells = [member for member in family if member.name().startswith("ray::_Shell") and is_at_work(member)]
    return [member.pid for member in sorted(shells, key=lambda member: (member.create_time(), member.pid))]


def kill(pid: int) -> None:
    """End a process without warning."""
    os.kill(pid, signal.SIGKILL)
