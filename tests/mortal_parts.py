"""Parts of a run that live in this process and can die as Ray actors do, for what needs no process to be shown."""

from collections.abc import Callable
from typing import Any

import pytest

from actors.runtime import InlineRuntime, Pending, Remote
from sea_agent.errors import ActorDied
from sea_agent.run import lifecycle


class Lost:
    """The answer of a part that is dead."""

    def __init__(self, what: str) -> None:
        self._what = what

    def result(self) -> Any:
        raise ActorDied(self._what)


class MortalPart:
    """Hosted until it is killed; ``restart`` builds it anew, as it was at first."""

    def __init__(self, runtime: "MortalRuntime", name: str, hosted: Remote) -> None:
        self._runtime, self._name, self._hosted = runtime, name, hosted
        self.dead = False

    def call(self, method: str, *args: Any) -> Pending:
        self._runtime.before_call(self._name, method, args)
        if self.dead:
            return Lost(f"{self._name}.{method}: the actor died.")
        lost = [arg for arg in args if isinstance(arg, Lost)]
        return lost[0] if lost else self._hosted.call(method, *args)

    def is_dead(self) -> bool:
        return self.dead

    def kill(self) -> None:
        """End it without warning; what it held is gone."""
        self._hosted.end()
        self.dead = True

    end = kill

    def restart(self) -> None:
        self._runtime.restarts.append(self._name)
        self._hosted.restart()
        self.dead = False


class MortalRuntime(InlineRuntime):
    """Hosts such parts under their names. ``before_call(name, method, args)`` may kill one."""

    def __init__(self) -> None:
        self.parts: dict[str, MortalPart] = {}
        self.restarts: list[str] = []
        self.before_call: Callable[[str, str, tuple[Any, ...]], None] = lambda name, method, args: None

    def spawn(self, name: str, factory: Callable[..., Any], *args: Any) -> MortalPart:
        self.parts[name] = MortalPart(self, name, super().spawn(name, factory, *args))
        return self.parts[name]

    def kill(self, name: str) -> None:
        """A part dies."""
        self.parts[name].kill()


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> MortalRuntime:
    """Where the runs of a test with ``runtime=ray`` have their parts; the others are hosted as always."""
    make, runtime = lifecycle.make_runtime, MortalRuntime()
    monkeypatch.setattr(lifecycle, "make_runtime", lambda kind, *rest: runtime if kind == "ray" else make(kind, *rest))
    return runtime
