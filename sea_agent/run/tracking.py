"""The metrics of every round for trackers of experiments and for Prometheus, beside ``metrics.jsonl``.

A tracker that fails is dropped with a line that says so: the run and what its answers cost are worth more.
"""

import importlib
import importlib.util
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from sea_agent.config import RunConfig
from sea_agent.errors import UserError
from sea_agent.run.session import Watch

PREFIX = "sea_agent_run"
# What must be importable for a tracker, and how it is installed.
_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}

Row = Mapping[str, Any]


class Tracker(Protocol):
    """Takes the figures of a round."""

    def log(self, figures: Mapping[str, float], number: int) -> None:
        """Take the figures of round ``number``; after a resume, rounds come again."""

    def close(self) -> None:
        """Write out what is left."""


def require_packages(config: RunConfig) -> None:
    """Refuse trackers whose package is not installed.

    Raises:
        UserError: with the command that installs it.
    """
    for name in config.tracking.to:
        package = _PACKAGES.get(name)
        if package is not None and importlib.util.find_spec(package) is None:
            raise UserError(f"tracking.to={name}: {package} is not installed; install it with: pip install {package}")


@contextmanager
def tracked(config: RunConfig, out: Path, watch: Watch) -> Iterator[Watch]:
    """``watch``, and every round's record also goes to the trackers of ``config``.

    Raises:
        UserError: when a tracker cannot begin.
    """
    with ExitStack() as stack:
        trackers: dict[str, Tracker] = {}
        for name in config.tracking.to:
            try:
                trackers[name] = _MAKERS[name](config, out)
            except Exception as error:  # trackers raise what they like
                raise UserError(f"tracking.to={name}: cannot begin ({type(error).__name__}: {error})") from error
            stack.callback(_attempt, name, trackers[name].close, watch)

        def on_round(row: dict[str, Any]) -> None:
            watch.on_round(row)
            figures = scalars(row)
            for name, tracker in list(trackers.items()):
                if not _attempt(name, partial(tracker.log, figures, int(row["round"])), watch):
                    del trackers[name]

        yield replace(watch, on_round=on_round)


def _attempt(name: str, act: Callable[[], None], watch: Watch) -> bool:
    try:
        act()
    except Exception as error:  # trackers raise what they like, and none of it may end the run
        watch.tell(f"tracking: {name} failed and is left out from here on ({type(error).__name__}: {error})")
        return False
    return True


def scalars(row: Row) -> dict[str, float]:
    """The numbers of a record by name: both ends of intervals, and the seconds of stages as ``seconds/STAGE/CLOCK``."""
    figures: dict[str, float] = {}
    for name, value in row.items():
        if name == "seconds":
            for stage, clocks in value.items():
                figures |= {f"seconds/{stage}/{clock}": float(seconds) for clock, seconds in clocks.items()}
        elif name.endswith("_ci") and isinstance(value, Sequence):
            figures |= {f"{name}/low": float(value[0]), f"{name}/high": float(value[1])}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            figures[name] = float(value)
    return figures


class TensorBoard:
    """Event files in the run's directory, for ``tensorboard --logdir``."""

    def __init__(self, config: RunConfig, out: Path) -> None:
        self._make = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._folder = str(out / "tensorboard")
        self._writer: Any = None

    def log(self, figures: Mapping[str, float], number: int) -> None:
        """Scalars by name; the first round of a resumed run voids those after it."""
        if self._writer is None:
            self._writer = self._make(log_dir=self._folder, purge_step=number)
        for name, value in figures.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """A run of the project, in the group of the run's directory; a resumed run is another one of that group."""

    def __init__(self, config: RunConfig, out: Path) -> None:
        self._run = importlib.import_module("wandb").init(
            project=config.tracking.project, group=out.name, dir=str(out), config=config.model_dump(mode="json")
        )

    def log(self, figures: Mapping[str, float], number: int) -> None:
        """All figures of a round at once."""
        self._run.log(dict(figures), step=number)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class Trackio:
    """A run of the project, in the group of the run's directory."""

    def __init__(self, config: RunConfig, out: Path) -> None:
        self._trackio = importlib.import_module("trackio")
        self._trackio.init(
            project=config.tracking.project, group=out.name, config=config.model_dump(mode="json"), embed=False
        )

    def log(self, figures: Mapping[str, float], number: int) -> None:
        """All figures of a round at once."""
        self._trackio.log(dict(figures), step=number)

    def close(self) -> None:
        """End the run."""
        self._trackio.finish()


class Prometheus:
    """The latest figures as gauges ``sea_agent_run_NAME``, on an address of this machine.

    The seconds of stages are ``sea_agent_run_seconds{stage, clock}``.
    """

    def __init__(self, config: RunConfig, out: Path) -> None:
        self._registry = CollectorRegistry()
        self._labels = {"run": out.name, "method": config.selection.rule}
        self._gauges: dict[str, Gauge] = {}
        self._server, self._thread = start_http_server(
            config.tracking.prometheus_port, addr=config.tracking.prometheus_host, registry=self._registry
        )

    def log(self, figures: Mapping[str, float], number: int) -> None:
        """Set the gauges; a figure that is not in this round keeps its value."""
        for name, value in figures.items():
            if not math.isnan(value):
                self._gauge(name).set(value)

    def close(self) -> None:
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
            self._gauges[plain] = Gauge(plain, "See docs/dashboard.md.", list(labels), registry=self._registry)
        return self._gauges[plain].labels(**labels)


_MAKERS: dict[str, Callable[[RunConfig, Path], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
    "prometheus": Prometheus,
}
