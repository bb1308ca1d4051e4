"""Where a part of the agent lives: in this process, or in a Ray actor. The part itself cannot tell.

``spawn`` hosts an object, ``Remote.call`` starts one of its methods, ``Pending.result`` waits with a deadline.
A ``Pending`` given as an argument to another call is passed on without a detour through this process.
An object whose process has died raises ``ActorDied``; ``restart`` builds it anew, as it was at first.
"""

import pickle
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

from actors.cluster import Places, connected
from actors.placement import Need
from sea_agent.config import Compute
from sea_agent.errors import ActorDied, RunFailure, UserError

_PING_SECONDS = 5.0
_PACKAGES = str(Path(__file__).resolve().parent.parent)


class Pending(Protocol):
    """An answer on its way."""

    def result(self) -> Any:
        """Wait for the answer; its errors are raised here."""


class Remote(Protocol):
    """A hosted object."""

    def call(self, method: str, *args: Any) -> Pending:
        """Start ``method(*args)`` on the object."""

    def is_dead(self) -> bool:
        """Whether the object's process has died."""

    def end(self) -> None:
        """End the object's process; nothing is called any more."""

    def restart(self) -> None:
        """Build the object anew, whatever has become of it."""


class Runtime(Protocol):
    """Hosts objects and knows what they cost."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def spawn(self, name: str, factory: Callable[..., Any], *args: Any) -> Remote:
        """Host ``factory(*args)`` under ``name``."""

    def results(self, pending: Sequence[Pending]) -> list[Any]:
        """All answers in order. The first error is raised at once, however long the others still take."""

    def cpu_seconds(self) -> float:
        """CPU time of this process and of the hosted objects so far, in seconds."""


class _Done:
    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        return self._value


class _InlineRemote:
    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self._target = build()

    def is_dead(self) -> bool:
        return False

    def end(self) -> None:
        self._target = None

    def restart(self) -> None:
        self._target = self._build()

    def call(self, method: str, *args: Any) -> Pending:
        values = [arg.result() if isinstance(arg, _Done) else arg for arg in args]
        return _Done(getattr(self._target, method)(*values))


class InlineRuntime:
    """Everything in this process, one call after the other."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def spawn(self, name: str, factory: Callable[..., Any], *args: Any) -> Remote:
        """Build the object here."""
        return _InlineRemote(partial(factory, *args))

    def results(self, pending: Sequence[Pending]) -> list[Any]:
        """The answers, which are there already."""
        return [one.result() for one in pending]

    def cpu_seconds(self) -> float:
        """CPU time of this process, in seconds."""
        return time.process_time()


class _Shell:
    """The Ray actor around a hosted object; every answer carries the actor's CPU time so far."""

    def __init__(self, packages: str, part: bytes) -> None:
        # Ray puts the user's directory first, where a file called oracle.py or learner.py would hide our packages;
        # so they are put before it, and only then is anything unpickled that imports them.
        sys.path.insert(0, packages)
        factory, args = pickle.loads(part)
        self._problem: Exception | None = None
        try:
            self._target = factory(*args)
        except (UserError, RunFailure) as problem:
            self._problem = problem  # told at the first call: Ray keeps only the text of a constructor's error

    def call(self, method: str, *args: Any) -> tuple[Any, float]:
        if self._problem is not None:
            raise self._problem
        # A Pending of another actor arrives as that actor's whole answer, any other argument as a one-tuple.
        return getattr(self._target, method)(*(arg[0] for arg in args)), time.process_time()


class _RayPending:
    def __init__(self, runtime: "RayRuntime", ref: Any, actor: str, method: str) -> None:
        self.ref = ref
        self._runtime = runtime
        self._actor = actor
        self._method = method

    def is_ready(self, seconds: float) -> bool:
        import ray

        return bool(ray.wait([self.ref], timeout=seconds)[0])

    def result(self, seconds: float | None = None) -> Any:
        return self._runtime.wait(self.ref, self._actor, self._method, seconds)


class _RayRemote:
    def __init__(self, runtime: "RayRuntime", name: str, start: Callable[[], Any]) -> None:
        self._runtime = runtime
        self._name = name
        self._start = start
        self._actor = start()

    def call(self, method: str, *args: Any) -> _RayPending:
        values = [arg.ref if isinstance(arg, _RayPending) else (arg,) for arg in args]
        return _RayPending(self._runtime, self._actor.call.remote(method, *values), self._name, method)

    def is_dead(self) -> bool:
        import ray

        try:
            ray.get(self._actor.__ray_ready__.remote(), timeout=_PING_SECONDS)
        except ray.exceptions.GetTimeoutError:
            return False  # it is busy
        except (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError):
            return True
        return False

    def end(self) -> None:
        import ray

        ray.kill(self._actor)
        self._runtime.forget(self._name, self._actor)

    def restart(self) -> None:
        self.end()
        self._actor = self._start()


LastingRemote = _RayRemote
"""A hosted object whose answers can be waited for a little."""


class RayRuntime:
    """Each part is a Ray actor, on a cluster when an address is given, else on a local instance of our own.

    ``needs`` names every part that will be hosted. An actor whose node has died is built anew on another one.
    """

    def __init__(self, address: str | None, needs: Sequence[Need], threads: int, deadline_seconds: float) -> None:
        self._address = address
        self._needs = needs
        self._threads = threads
        self._deadline = deadline_seconds
        self._actors: list[Any] = []
        self._actor_seconds: dict[str, float] = {}
        self._seconds_of_the_dead = 0.0

    def __enter__(self) -> Self:
        import ray

        with ExitStack() as stack:
            stack.enter_context(connected(self._address))
            self._places = Places(self._needs, self._deadline)
            self._connection = stack.pop_all()
        # The shell must arrive without an import; see its constructor.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        return self

    def __exit__(self, *error: object) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._connection.close()

    def spawn(self, name: str, factory: Callable[..., Any], *args: Any) -> Remote:
        """Start an actor that builds the object; errors of its constructor surface at the first call."""
        return _RayRemote(self, name, self._starter(partial(self._places.options, name), factory, args))

    def lasting(self, need: Need, namespace: str, factory: Callable[..., Any], *args: Any) -> LastingRemote:
        """Host an object that stays where it is when this process dies, as ``need.actor`` in ``namespace``; or find the
        one that a process left there. Who leaves this runtime in order ends it, like any other."""
        options = {"num_cpus": need.cpus, "num_gpus": need.gpus, "scheduling_strategy": "SPREAD"}
        options |= {"name": need.actor, "namespace": namespace, "lifetime": "detached", "get_if_exists": True}
        return _RayRemote(self, need.actor, self._starter(lambda: options, factory, args))

    def _starter(
        self, choose: Callable[[], dict[str, Any]], factory: Callable[..., Any], args: Sequence[Any]
    ) -> Callable[[], Any]:
        """What starts an actor for an object, with the options of that time."""
        import ray

        environment = {
            "OMP_NUM_THREADS": str(self._threads),
            "TOKENIZERS_PARALLELISM": "false",
        }
        part = ray.cloudpickle.dumps((factory, args))

        def start() -> Any:
            options = choose()
            # Ray leaves the GPUs visible to actors that asked for none; to the others it shows what it gave them.
            hidden = {} if options["num_gpus"] else {"CUDA_VISIBLE_DEVICES": ""}
            shell = ray.remote(_Shell).options(runtime_env={"env_vars": environment | hidden}, **options)
            actor = shell.remote(_PACKAGES, part)
            self._actors.append(actor)
            return actor

        return start

    def forget(self, name: str, actor: Any) -> None:
        """An actor has ended; its CPU time stays counted."""
        self._actors.remove(actor)
        self._seconds_of_the_dead += self._actor_seconds.pop(name, 0.0)

    def results(self, pending: Sequence[Pending]) -> list[Any]:
        """All answers in order; see ``Runtime``."""
        import ray

        by_ref = {one.ref: one for one in pending if isinstance(one, _RayPending)}
        deadline = time.monotonic() + self._deadline
        waiting = list(by_ref)
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            # Without one that is ready the deadline has passed, which the first of the others tells.
            for ref in ready or waiting[:1]:
                by_ref[ref].result(seconds=0.0)
        return [one.result() for one in pending]

    def wait(self, ref: Any, actor: str, method: str, seconds: float | None = None) -> Any:
        """The answer behind ``ref``, or an error that names who did not give it before the deadline, or ``seconds``."""
        import ray

        from sea_agent.pretrained import ran_out_of_memory

        what = f"{actor}.{method}"
        try:
            value, self._actor_seconds[actor] = ray.get(ref, timeout=self._deadline if seconds is None else seconds)
        except ray.exceptions.GetTimeoutError:
            raise RunFailure(
                f"{what} gave no answer within {self._deadline:.0f} s. Look at its log under /tmp/ray/session_latest/"
                "logs; if it is only slow, raise deadline_seconds."
            ) from None
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, (UserError, RunFailure)):
                raise cause from None
            if isinstance(cause, ray.exceptions.RayError):  # it was to work on what another actor did not deliver
                raise ActorDied(f"{what}: {cause}") from error
            if ran_out_of_memory(cause):
                raise MemoryError(f"{what}: {cause}") from None
            raise RunFailure(f"{what} failed: {error}") from error
        except (
            ray.exceptions.RayActorError,
            ray.exceptions.ActorUnschedulableError,  # its node died before it was there
            ray.exceptions.ObjectLostError,
            ray.exceptions.OutOfMemoryError,
        ) as error:
            raise ActorDied(f"{what}: the actor died. {error}") from error
        return value

    def cpu_seconds(self) -> float:
        """CPU time of this process and of every actor up to its latest answer, in seconds."""
        return time.process_time() + sum(self._actor_seconds.values()) + self._seconds_of_the_dead


def make_runtime(kind: str, compute: Compute, needs: Sequence[Need]) -> Runtime:
    """The runtime that ``runtime: kind`` names, for parts that take ``needs``."""
    if kind == "ray":
        return RayRuntime(compute.ray_address, needs, compute.threads, compute.deadline_seconds)
    return InlineRuntime()
