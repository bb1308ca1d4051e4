"""Wall and CPU seconds of each stage of a round."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """``with stopwatch("sample"): ...`` adds to the stage; ``take()`` hands the sums over and starts anew."""

    def __init__(self, cpu_seconds: Callable[[], float]) -> None:
        self._cpu_seconds = cpu_seconds
        self._sums: dict[str, dict[str, float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure one stage."""
        wall, cpu = time.perf_counter(), self._cpu_seconds()
        yield
        sums = self._sums.setdefault(name, {"wall": 0.0, "cpu": 0.0})
        sums["wall"] += time.perf_counter() - wall
        sums["cpu"] += self._cpu_seconds() - cpu

    def take(self) -> dict[str, dict[str, float]]:
        """Seconds by stage since the last call."""
        sums, self._sums = self._sums, {}
        return sums
