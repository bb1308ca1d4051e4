"""The nodes of a Ray cluster, and what is reserved on them for the actors of a run."""

import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from actors.placement import Bundle, Need, Node, Shortage, bundles, require_room, shortage, total
from sea_agent.errors import RunFailure, UserError

_COUNTED = ("CPU", "GPU", "memory")
_FREE_SECONDS = 30.0  # how long what another run has just left may take to be free
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


def living_nodes() -> list[Node]:
    """The nodes of the cluster this process is connected to."""
    import ray

    return [
        Node(row["NodeManagerAddress"], *(row["Resources"].get(name, 0.0) for name in _COUNTED))
        for row in ray.nodes()
        if row["Alive"]
    ]


def nodes_at(address: str) -> list[Node]:
    """The nodes of the cluster at ``address``. Raises: UserError when nobody answers there."""
    with connected(address):
        return living_nodes()


def end_others(namespace: str, known: Sequence[str]) -> None:
    """End the lasting actors of ``namespace`` but the ``known`` ones."""
    import ray

    for row in ray.util.list_named_actors(all_namespaces=True):
        if row["namespace"] == namespace and row["name"] not in known:
            ray.kill(ray.get_actor(row["name"], namespace))


class Places:
    """What is reserved for the actors of a run: all of it at once, or nothing. Needs a connection to the cluster.

    Ray frees it when this process ends, however it ends, and reserves what was on a dead node anew on another one.
    """

    def __init__(self, needs: Sequence[Need], deadline_seconds: float) -> None:
        """Raises: Shortage when the cluster does not hold the run."""
        self._needs = {need.actor: need for need in needs}
        self._deadline = deadline_seconds
        self._group: Any = None
        nodes = living_nodes()
        require_room(needs, nodes)
        # Where others have taken a part of each large node, the ranks of the learner may still have room apart.
        for reserved in (bundles(needs, nodes), bundles(needs)):
            if self._reserve(reserved):
                return
        raise Shortage(
            f"{shortage(needs, nodes)}, but others use a part of it. Wait until they have ended, or look for what "
            "holds it with `ray status`"
        )

    def _reserve(self, reserved: Sequence[Bundle]) -> bool:
        from ray.util import placement_group, remove_placement_group

        self._bundle_of = {need.actor: index for index, bundle in enumerate(reserved) for need in bundle}
        if not reserved:
            return True
        amounts = [dict(zip(_COUNTED, total(bundle), strict=False)) for bundle in reserved]
        self._group = placement_group(amounts, strategy="SPREAD")
        if self._is_ready(_FREE_SECONDS):
            return True
        remove_placement_group(self._group)
        return False

    def _is_ready(self, seconds: float) -> bool:
        import ray

        # Unlike the group's own wait, this one can be interrupted.
        ready, _ = ray.wait([self._group.ready()], timeout=seconds)
        return bool(ready)

    def options(self, actor: str) -> dict[str, Any]:
        """Ray's options for ``actor``: what it takes, and of which bundle.

        Raises:
            RunFailure: when its node is dead, and before the deadline no other had room.
        """
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        need = self._needs[actor]
        options: dict[str, Any] = {"num_cpus": need.cpus, "num_gpus": need.gpus}
        if actor not in self._bundle_of:
            return options
        if not self._is_ready(self._deadline):
            what = shortage(list(self._needs.values()), living_nodes())
            raise RunFailure(
                f"{actor} has lost its node, and no other with room for it came within {self._deadline:g} s: {what}. "
                "Add a node, then go on with `sea-agent resume`."
            )
        return options | {"scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, self._bundle_of[actor])}
