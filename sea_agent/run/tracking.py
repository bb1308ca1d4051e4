"""The metrics of every round for trackers of experiments and for Prometheus, beside ``metrics.jsonl``.

A tracker that fails is dropped with a line that says so: the run and what its answers cost are worth more.
"""

import importlib.util
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from sea_agent.config import TrackingConfig
from sea_agent.errors import UserError
from sea_agent.persistence.rounds import RoundMetrics, meanings
from sea_agent.run.session import Watch

PREFIX = "sea_agent_run"
_PACKAGES = ("tensorboard", "wandb", "trackio")  # each is the package of the tracker of its name

Settings = Mapping[str, Any]
"""The configuration of a run as plain values."""


class Tracker(Protocol):
    """Takes the numbers of each round; the trackers of ``accelerate`` are of this kind."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Take the numbers of round ``step``; after a resume, rounds come again."""

    def finish(self) -> None:
        """Write out what is left."""


def require_packages(config: TrackingConfig) -> None:
    """Refuse trackers whose package is not installed.

    Raises:
        UserError: with the command that installs it.
    """
    for name in config.to:
        if name in _PACKAGES and importlib.util.find_spec(name) is None:
            raise UserError(f"tracking.to={name}: {name} is not installed: pip install 'sea-agent[trackers]'")


@contextmanager
def tracked(config: TrackingConfig, settings: Settings, out: Path, watch: Watch) -> Iterator[Watch]:
    """``watch``, and the row of every round also goes to the trackers; they are told the run's ``settings``.

    Raises:
        UserError: when a tracker cannot begin.
    """
    with ExitStack() as stack:
        trackers: dict[str, Tracker] = {}
        for name in config.to:
            try:
                trackers[name] = _MAKERS[name](config, settings, out)
            except Exception as error:  # trackers raise what they like
                raise UserError(f"tracking.to={name}: cannot begin ({type(error).__name__}: {error})") from error
            stack.callback(_attempt, name, trackers[name].finish, watch)

        def on_round(row: RoundMetrics) -> None:
            watch.on_round(row)
            for name, tracker in list(trackers.items()):
                if not _attempt(name, partial(tracker.log, row.numbers(), row.round), watch):
                    del trackers[name]

        yield replace(watch, on_round=on_round)


def _attempt(name: str, act: Callable[[], None], watch: Watch) -> bool:
    try:
        act()
    except Exception as error:  # trackers raise what they like, and none of it may end the run
        watch.tell(f"tracking: {name} failed and is left out from here on ({type(error).__name__}: {error})")
        return False
    return True


class TensorBoard:
    """Event files in the run's directory, for ``tensorboard --logdir``."""

    def __init__(self, config: TrackingConfig, settings: Settings, out: Path) -> None:
        self._out = out
        self._tracker: Any = None

    def log(self, values: dict[str, float], step: int) -> None:
        """Scalars by name; the first round of a resumed run voids those after it."""
        if self._tracker is None:
            self._tracker = _accelerate("TensorBoardTracker", "tensorboard", logging_dir=self._out, purge_step=step)
        self._tracker.log(values, step)

    def finish(self) -> None:
        """Close the file."""
        if self._tracker is not None:
            self._tracker.finish()


def _wandb(config: TrackingConfig, settings: Settings, out: Path) -> Tracker:
    """A run of the project, in the group of the run's directory; a resumed run is another one of that group."""
    return _accelerate("WandBTracker", config.project, group=out.name, dir=str(out), config=dict(settings))


def _trackio(config: TrackingConfig, settings: Settings, out: Path) -> Tracker:
    return _accelerate("TrackioTracker", config.project, group=out.name, config=dict(settings), embed=False)


def _accelerate(tracker: str, *arguments: object, **options: object) -> Any:
    """A tracker of ``accelerate``, started."""
    from accelerate import PartialState, tracking

    PartialState(cpu=True)  # its trackers log through it
    made = getattr(tracking, tracker)(*arguments, **options)
    made.start()
    return made


class Prometheus:
    """The latest figures as gauges ``sea_agent_run_NAME``, on an address of this machine.

    The seconds of stages are ``sea_agent_run_seconds{stage, clock}``.
    """

    def __init__(self, config: TrackingConfig, settings: Settings, out: Path) -> None:
        self._registry = CollectorRegistry()
        self._labels = {"run": out.name, "method": settings["selection"]["rule"]}
        self._gauges: dict[str, Gauge] = {}
        self._server, self._thread = start_http_server(
            config.prometheus_port, addr=config.prometheus_host, registry=self._registry
        )

    def log(self, values: dict[str, float], step: int) -> None:
        """Set the gauges; a figure that is not in this round keeps its value."""
        for name, value in values.items():
            if not math.isnan(value):
                self._gauge(name).set(value)

    def finish(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _gauge(self, name: str) -> Gauge:
        labels = dict(self._labels)
        if name.startswith("seconds/"):
            name, labels["stage"], labels["clock"] = name.split("/")
        plain = f"{PREFIX}_{re.sub(r'[^a-zA-Z0-9]+', '_', name)}"
        if plain not in self._gauges:
            meaning = meanings().get(name.partition("/")[0], "What the oracle counts.")
            self._gauges[plain] = Gauge(plain, meaning, list(labels), registry=self._registry)
        return self._gauges[plain].labels(**labels)


_MAKERS: dict[str, Callable[[TrackingConfig, Settings, Path], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": _wandb,
    "trackio": _trackio,
    "prometheus": Prometheus,
}
