"""Wall and CPU seconds of each stage of a round."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sea_agent.persistence.rounds import Seconds


class Stopwatch:
    """``with stopwatch("sample"): ...`` adds to the stage; ``take()`` hands the sums over and starts anew."""

    def __init__(self, cpu_seconds: Callable[[], float]) -> None:
        self._cpu_seconds = cpu_seconds
        self._sums: dict[str, tuple[float, float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure one stage."""
        wall, cpu = time.perf_counter(), self._cpu_seconds()
        yield
        before = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = (before[0] + time.perf_counter() - wall, before[1] + self._cpu_seconds() - cpu)

    def take(self) -> dict[str, Seconds]:
        """Seconds by stage since the last call."""
        sums, self._sums = self._sums, {}
        return {name: Seconds(wall=wall, cpu=cpu) for name, (wall, cpu) in sums.items()}
