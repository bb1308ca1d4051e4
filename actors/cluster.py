"""The nodes of a Ray cluster, and the actors of a run on them as the placement plan says."""

import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from actors.placement import Need, Node, Plan, Shortage, plan
from sea_agent.errors import RunFailure, UserError

_FREE_SECONDS = 60.0  # how long what another run has just left may take to be free
_POLL_SECONDS = 0.5
_KNOCK_SECONDS = 10.0


def knock(address: str) -> None:
    """See whether anybody listens at ``HOST:PORT``: Ray itself tries a silent address for many minutes.

    Raises:
        OSError, ValueError: when nobody does, or the address is none.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:  # others are names that Ray knows, such as auto
        socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep our answer to SIGTERM, a checkpoint, while Ray starts: it would put its own in place, which ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread has signals, and Ray leaves them alone elsewhere
        return
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, ours)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """This process as a driver of the cluster at ``address``, or of a local instance that ends with it.

    Raises:
        UserError: when it is connected already, or nobody answers there.
    """
    import ray

    if ray.is_initialized():
        raise UserError("runtime=ray: this process is already connected to Ray; call ray.shutdown() first")
    place = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        if address:
            knock(address)
        with _own_sigterm():
            ray.init(log_to_driver=False, logging_level="error", configure_logging=False, **place)
    except (OSError, ValueError) as error:
        raise UserError(f"ray_address={address}: no Ray cluster answers there ({error})") from None
    try:
        yield
    finally:
        ray.shutdown()


def living_nodes(*, free: bool) -> list[Node]:
    """The nodes of the cluster this process is connected to: what they have, or what nobody holds of it."""
    import ray
    from ray._private.state import available_resources_per_node  # Ray's own libraries read it there, too

    available = available_resources_per_node() if free else {}
    nodes = []
    for row in ray.nodes():
        if row["Alive"]:
            there = available.get(row["NodeID"], row["Resources"])
            amounts = [there.get(name, 0.0) for name in ("CPU", "GPU", "memory")]
            nodes.append(Node(row["NodeID"], row["NodeManagerAddress"], *amounts))
    return nodes


def nodes_at(address: str) -> list[Node]:
    """What the nodes of the cluster at ``address`` have. Raises: UserError when nobody answers there."""
    with connected(address):
        return living_nodes(free=False)


class Places:
    """Where the actors of a run are, and where they go when their nodes die. Needs a connection to the cluster."""

    def __init__(self, needs: Sequence[Need], deadline_seconds: float) -> None:
        """Raises: Shortage when the cluster does not hold the run."""
        self._needs = {need.actor: need for need in needs}
        self._deadline = deadline_seconds
        self._nodes: dict[str, Node] = {}  # each as it was when first seen, without an actor of this run
        self._plan: Plan = {}
        end = time.monotonic() + _FREE_SECONDS
        while True:
            try:
                self._replan()
                return
            except Shortage as shortage:
                plan(needs, living_nodes(free=False))  # more than there is will never be free
                if time.monotonic() > end:
                    raise Shortage(
                        f"{shortage}: the rest is in use by others. Wait until they have ended, or look for what "
                        "holds it with `ray status`"
                    ) from None
            self._nodes.clear()
            time.sleep(_POLL_SECONDS)

    def options(self, actor: str) -> dict[str, Any]:
        """Ray's options for ``actor``: what it takes, and on which node that is alive.

        Raises:
            RunFailure: when the nodes that are left do not hold it, and no other has come before the deadline.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        end = time.monotonic() + self._deadline
        while True:
            try:
                self._replan()
                break
            except Shortage as shortage:
                if time.monotonic() > end:
                    raise RunFailure(
                        f"{actor} has lost its node, and no other with room for it came within {self._deadline:g} s: "
                        f"{shortage}. Add a node, then go on with `sea-agent resume`."
                    ) from None
            time.sleep(_POLL_SECONDS)
        need = self._needs[actor]
        return {
            "num_cpus": need.cpus,
            "num_gpus": need.gpus,
            # Hard: an actor that went elsewhere would take what the plan has given to another one.
            "scheduling_strategy": NodeAffinitySchedulingStrategy(self._plan[actor], soft=False),
        }

    def _replan(self) -> None:
        living = living_nodes(free=True)
        for node in living:
            self._nodes.setdefault(node.id, node)
        there = [self._nodes[node.id] for node in living]
        if not self._plan or not {*self._plan.values()} <= {node.id for node in there}:
            self._plan = plan(list(self._needs.values()), there, before=self._plan)
