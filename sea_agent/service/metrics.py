"""Metrics for Prometheus. Labels are routes, statuses, kinds and ids of runs, never a text or the name of a person."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from sqlalchemy import Row
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sea_agent.service.chat.serving import EngineState

NO_ROUTE = "(none)"
OTHER_METHOD = "(other)"
KINDS = ("vote", "repeat", "gold", "revision")
FEEDBACK_KINDS = ("choice", "thumbs", "edit", "used")
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counts of one service since it started, and its gauges."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own: dict[str, Any] = {"namespace": "sea_agent", "registry": self.registry}
        call = ("method", "route")
        self.requests = Counter("requests", "Requests answered.", (*call, "status"), **own)
        self.seconds = Histogram(
            "request_seconds", "Until an answer began, waiting for work included.", call, buckets=SECONDS, **own
        )
        self.labels = Counter("labels", "Entries of the label logs.", ["kind"], **own)
        self.batch = Histogram("writer_batch_size", "Requests that shared a commit.", buckets=BATCHES, **own)
        self.commit = Histogram("commit_seconds", "Of one commit.", buckets=SECONDS, **own)
        self.queue = Gauge("writer_queue_length", "Requests that wait for the writer.", **own)
        self.leases = Gauge("live_leases", "Duels that somebody is answering.", **own)
        self.open = Gauge("open_queries", "Duels that wait for votes, in the runs with most of them.", ["run"], **own)
        self.feedback = Counter("feedback", "Feedback of users, new or corrected.", ["kind"], **own)
        self.held = Gauge("engine_version", "Version of the weights that an engine holds.", ["engine"], **own)
        self.failing = Gauge("engine_failing", "1 for an engine that does not serve what it should.", ["engine"], **own)
        self.live = Gauge("live_version", "Version of the weights that are live.", ["run"], **own)
        for kind in KINDS:
            self.labels.labels(kind)
        for kind in FEEDBACK_KINDS:
            self.feedback.labels(kind)

    def committed(self, batch: int, seconds: float) -> None:
        """The writer committed a batch."""
        self.batch.observe(batch)
        self.commit.observe(seconds)

    def look(self, queue: int, leases: int, open_queries: Mapping[str, int]) -> None:
        """Set the gauges to what is the case now."""
        self.queue.set(queue)
        self.leases.set(leases)
        self.open.clear()
        for run, count in open_queries.items():
            self.open.labels(run).set(count)

    def look_live(self, run: str, live: Row | None, engines: Sequence[EngineState]) -> None:
        """Set the gauges of live mode."""
        self.live.labels(run).set(0 if live is None else live.version)
        for gauge in (self.held, self.failing):
            gauge.clear()  # an engine may have moved
        for engine in engines:
            self.held.labels(engine.url).set(-1 if engine.version is None else engine.version)
            self.failing.labels(engine.url).set(engine.error is not None)


class Measure:
    """Count every request, under the template of its route: ids in paths would make a series each."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, begun = time.perf_counter(), False

        async def watched(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self._count(scope, message["status"], time.perf_counter() - started)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            if not begun:
                self._count(scope, 500, time.perf_counter() - started)
            raise

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        template, methods = getattr(route, "path", NO_ROUTE), getattr(route, "methods", None) or ("GET", "HEAD")
        method = scope["method"] if scope["method"] in methods else OTHER_METHOD
        self._metrics.requests.labels(method, template, status).inc()
        self._metrics.seconds.labels(method, template).observe(seconds)
