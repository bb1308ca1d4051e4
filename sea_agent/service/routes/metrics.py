"""Metrics for Prometheus."""

from functools import partial

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from sea_agent.service.auth import ReaderOfAll
from sea_agent.service.state import Service
from sea_agent.service.store import publications
from sea_agent.service.store import runs as store
from sea_agent.web.problems import documented

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=PlainTextResponse, responses=documented(401, 403, 422, 429, 503))
async def metrics(service: Service, caller: ReaderOfAll) -> Response:
    """Counts, latencies and the state of the store, in the text format of Prometheus."""
    leases, waiting = await service.database.read(partial(store.load, now=service.now()))
    service.metrics.look(service.database.queued, leases, waiting)
    if service.serving is not None:
        live = await service.database.read(partial(publications.serving, run=service.serving.live.live.run))
        service.metrics.look_live(service.serving.live.live.run, live.get("live"), service.serving.engines)
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
