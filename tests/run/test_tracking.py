"""Every row of metrics reaches every tracker, one that fails ends nothing, and what Grafana asks for is there.

Prometheus is the real one. Of the others, real packages are used where they are installed, and otherwise stand-ins that
take what the packages' documentation says and nothing else.
"""

import importlib.util
import json
import re
import socket
import sys
import urllib.request
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from e2e.test_run import world_config
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sea_agent.config import RunConfig, TrackingConfig
from sea_agent.config.files import load_config
from sea_agent.errors import UserError
from sea_agent.persistence.rounds import Evaluation, RoundMetrics, Seconds, meanings
from sea_agent.run import tracking
from sea_agent.run.lifecycle import run
from sea_agent.run.preflight import check
from sea_agent.run.session import Watch
from sea_agent.run.tracking import Prometheus, tracked
from sea_agent.service.metrics import Metrics

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
REAL_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None

Settings = dict[str, Any]


def configured(*to: str, port: int = 0) -> RunConfig:
    return load_config("sea", [f"tracking.to=[{', '.join(to)}]", f"tracking.prometheus_port={port}", "seed=3"])


def parts(*to: str, port: int = 0) -> tuple[TrackingConfig, Settings]:
    """What ``tracked`` takes of a configuration."""
    config = configured(*to, port=port)
    return config.tracking, config.model_dump(mode="json")


def row(number: int, **more: Any) -> RoundMetrics:
    seconds = {"learn": Seconds(wall=0.5, cpu=0.25)}
    named = {"round": number, "oracle_queries": 8 * number, "loss": 1.0 / (1 + number), "seconds": seconds}
    return RoundMetrics(**(named | more))


class Recorder:
    """A tracker that keeps what it gets."""

    def __init__(self, config: TrackingConfig, settings: Settings, out: Path) -> None:
        self.rounds: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def log(self, values: dict[str, float], step: int) -> None:
        self.rounds.append((step, dict(values)))

    def finish(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def tracked_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, list[RoundMetrics]]:
    """What a tracker got of a real run, and the run's metrics."""
    out = tmp_path_factory.mktemp("run") / "out"
    kept: list[Recorder] = []

    def make(config: TrackingConfig, settings: Settings, out: Path) -> Recorder:
        kept.append(Recorder(config, settings, out))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tracking._MAKERS, "prometheus", make)
        run(world_config(tracking={"to": ["prometheus"]}, selection__rule="sea_ee"), out)
    (recorder,) = kept
    file = out / "metrics.jsonl"
    return recorder, [RoundMetrics.parse(line, file) for line in file.read_text().splitlines()]


def test_every_row_of_a_run_reaches_a_tracker(tracked_run: tuple[Recorder, list[RoundMetrics]]) -> None:
    recorder, rows = tracked_run
    assert len(rows) > 2
    assert recorder.rounds == [(row.round, row.numbers()) for row in rows]
    assert recorder.closed


def test_the_watch_still_gets_its_rows(tmp_path: Path) -> None:
    seen: list[RoundMetrics] = []
    with tracked(*parts(), tmp_path, Watch(on_round=seen.append)) as watch:
        watch.on_round(row(1))
    assert seen == [row(1)]


# --- trackers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Put a module in place of a package."""

    def put(name: str, **members: Any) -> ModuleType:
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        for key, value in members.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return put


class SummaryWriter:
    """torch.utils.tensorboard.SummaryWriter as it is documented."""

    folders: dict[str, list[tuple[str, float, int]]] = {}  # noqa: RUF012

    def __init__(
        self,
        log_dir: str | None = None,
        comment: str = "",
        purge_step: int | None = None,
        max_queue: int = 10,
        flush_secs: int = 120,
        filename_suffix: str = "",
    ) -> None:
        kept = self.folders.setdefault(str(log_dir), [])
        kept[:] = [one for one in kept if purge_step is None or one[2] < purge_step]
        self._waiting: list[tuple[str, float, int]] = []
        self._kept = kept

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        assert global_step is not None
        self._waiting.append((tag, float(scalar_value), global_step))

    def flush(self) -> None:
        self._kept += self._waiting
        self._waiting = []

    def close(self) -> None:
        self.flush()


@pytest.fixture
def scalars_of(stand_in: Callable[..., ModuleType]) -> Callable[[Path, str], list[tuple[int, float]]]:
    """What TensorBoard would show of a folder: steps and values of a tag."""
    if REAL_TENSORBOARD:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        def read(folder: Path, tag: str) -> list[tuple[int, float]]:
            events = EventAccumulator(str(folder))
            events.Reload()
            return [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]

    else:
        SummaryWriter.folders.clear()
        stand_in("tensorboard")
        stand_in("torch.utils.tensorboard", SummaryWriter=SummaryWriter)

        def read(folder: Path, tag: str) -> list[tuple[int, float]]:
            return [(step, value) for name, value, step in SummaryWriter.folders[str(folder)] if name == tag]

    return read


def test_tensorboard_gets_each_figure_and_rounds_that_come_again_count_once(
    tmp_path: Path, scalars_of: Callable[[Path, str], list[tuple[int, float]]]
) -> None:
    for first, last, loss in ((0, 4, 1.0), (3, 6, 2.0)):  # a run that is resumed from its third round
        with tracked(*parts("tensorboard"), tmp_path, Watch()) as watch:
            for number in range(first, last):
                watch.on_round(row(number, loss=loss))
    found = scalars_of(tmp_path / "tensorboard", "loss")
    assert found == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]
    assert scalars_of(tmp_path / "tensorboard", "seconds/learn/wall")[0] == (0, 0.5)


class Online:
    """wandb and trackio as they are documented: ``init``, then ``log`` with a step, then ``finish``."""

    def __init__(self) -> None:
        self.begun: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def wandb_init(self, *, project: str, group: str, dir: str, config: dict[str, Any]) -> "Online":
        self.begun = {"project": project, "group": group, "dir": dir, "config": config}
        return self

    def trackio_init(self, *, project: str, group: str, config: dict[str, Any], embed: bool) -> "Online":
        assert not embed
        self.begun = {"project": project, "group": group, "config": config}
        return self

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.logged.append((step, metrics))

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_trackio_get_the_configuration_and_every_round(
    name: str, tmp_path: Path, stand_in: Callable[..., ModuleType]
) -> None:
    online = Online()
    stand_in(name, init=getattr(online, f"{name}_init"), log=online.log, finish=online.finish)
    with tracked(*parts(name), tmp_path / "mine", Watch()) as watch:
        watch.on_round(row(1))
        watch.on_round(row(2))
    assert (online.begun["project"], online.begun["group"]) == ("sea-agent", "mine")
    assert online.begun["config"] == configured(name).model_dump(mode="json")
    assert online.logged == [(1, row(1).numbers()), (2, row(2).numbers())]
    assert online.finished == 1


def scraped(port: int, host: str = "127.0.0.1") -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Samples by name and labels."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=60) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def test_prometheus_reads_the_latest_figures_on_this_machine_only(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tracked(*parts("prometheus", port=port), tmp_path / "mine", Watch()) as watch:
        watch.on_round(row(1, evaluation=Evaluation(win_rate=0.6)))
        watch.on_round(row(2))
        found = scraped(port)
        with pytest.raises(OSError, match="refused"):
            scraped(port, "127.0.0.2")
    own = {("run", "mine"), ("method", "sea_ee")}
    assert found["sea_agent_run_oracle_queries", frozenset(own)] == 16
    assert found["sea_agent_run_win_rate", frozenset(own)] == 0.6, "of the last evaluation"
    stage = frozenset({*own, ("stage", "learn"), ("clock", "cpu")})
    assert found["sea_agent_run_seconds", stage] == 0.25
    with pytest.raises(OSError, match="refused"):
        scraped(port)


def test_a_port_in_use_is_told_before_the_run_begins(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = parts("prometheus", port=taken.getsockname()[1])
        with (
            pytest.raises(UserError, match=r"tracking\.to=prometheus: cannot begin .*in use"),
            tracked(*config, tmp_path, Watch()),
        ):
            pass


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_told_with_the_command_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=f"tracking.to={name}: {name} is not installed: pip install"):
        check(configured(name))


def test_a_tracker_that_fails_is_left_out_with_a_word_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Recorder):
        def log(self, values: dict[str, float], step: int) -> None:
            raise ConnectionError("no network")

    made = {"wandb": Failing(*parts(), tmp_path), "prometheus": Recorder(*parts(), tmp_path)}
    for name, tracker in made.items():
        monkeypatch.setitem(tracking._MAKERS, name, lambda *given, tracker=tracker: tracker)
    told: list[str] = []
    with tracked(*parts("wandb", "prometheus"), tmp_path, Watch(tell=told.append)) as watch:
        watch.on_round(row(1))
        watch.on_round(row(2))
    assert told == ["tracking: wandb failed and is left out from here on (ConnectionError: no network)"]
    assert [number for number, _ in made["prometheus"].rounds] == [1, 2]
    assert all(tracker.closed for tracker in made.values())


# --- Grafana ---------------------------------------------------------------------------------------------------------


def asked_for(board: dict[str, Any]) -> set[str]:
    """Names of the metrics and labels that a board's queries use."""
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [one["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    names: set[str] = set()
    for query in queries:
        names |= set(re.findall(r"\b(?:sea_agent|process)_\w+", query))
        names |= {label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")}
        names |= set(re.findall(r"[{,]\s*(\w+)(?==)", query))
    return names


def exposed(registry: CollectorRegistry) -> set[str]:
    """Names of the samples and labels that a registry can expose."""
    names: set[str] = set()
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        endings = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}.get(family.type, ("",))
        names |= {family.name + ending for ending in endings} | ({"le"} if family.type == "histogram" else set())
    for collector in registry._collector_to_names:
        names |= set(getattr(collector, "_labelnames", ()))
    return names


def board(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GRAFANA / f"{name}.json").read_text())
    return found


@pytest.fixture
def run_registry(tmp_path: Path) -> CollectorRegistry:
    """What Prometheus reads of a row that has everything."""
    evaluation = {name: (0.4, 0.6) if name.endswith("_ci") else 0 for name in Evaluation.model_fields}
    counts = dict.fromkeys(RoundMetrics.model_fields, 0)
    full = row(0, **(counts | {"oracle": {"spend": 1.5}, "evaluation": evaluation, "seconds": row(0).seconds}))
    prometheus = Prometheus(*parts("prometheus"), tmp_path)
    prometheus.log(full.numbers(), full.round)
    prometheus.finish()
    return prometheus._registry


def test_every_name_of_a_row_is_a_gauge_with_its_meaning(run_registry: CollectorRegistry) -> None:
    gauges = {family.name: family.documentation for family in run_registry.collect()}
    for name, meaning in meanings().items():
        ends = ("_low", "_high") if name.endswith("_ci") else ("",)
        for end in ends:
            gauge = f"sea_agent_run_{name.replace('NAME', 'spend')}{end}"
            assert gauges.pop(gauge) == (meaning if "NAME" not in name else "What the oracle counts."), gauge
    assert gauges == {}


def test_what_grafana_asks_of_a_run_is_exposed(run_registry: CollectorRegistry) -> None:
    assert asked_for(board("run")) - exposed(run_registry) == set()


def test_a_figure_that_no_row_has_is_found(run_registry: CollectorRegistry) -> None:
    wrong = json.loads(json.dumps(board("run")).replace("sea_agent_run_grad_norm", "sea_agent_run_gradient_norm"))
    assert asked_for(wrong) - exposed(run_registry) == {"sea_agent_run_gradient_norm"}


def test_what_grafana_asks_of_the_service_is_exposed() -> None:
    assert asked_for(board("service")) - exposed(Metrics().registry) == set()


def test_a_metric_or_label_that_is_not_exposed_is_found(tmp_path: Path) -> None:
    wrong = board("service")
    wrong["panels"][0]["targets"][0]["expr"] = 'sum by (nobody) (sea_agent_nothing_total{none="x"})'
    assert asked_for(wrong) - exposed(Metrics().registry) == {"nobody", "sea_agent_nothing_total", "none"}
