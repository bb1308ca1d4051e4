"""The application: routes, limits and problem documents around one open store."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from sea_agent import __version__
from sea_agent.service import refusals
from sea_agent.service.chat.gateway import gateway
from sea_agent.service.chat.serving import Serving
from sea_agent.service.erasing import keep_to_retention
from sea_agent.service.keyring import KeyRing
from sea_agent.service.limits import BodyLimit, RateLimit
from sea_agent.service.metrics import Measure, Metrics
from sea_agent.service.pages import Static
from sea_agent.service.routes import (
    admin_page,
    assignments,
    chat,
    chat_page,
    erasure,
    events,
    feedback,
    files,
    health,
    keys,
    label_page,
    labels,
    leases,
    live,
    live_operating,
    live_page,
    metrics,
    people,
    quality,
    queries,
    runs,
    sign_in,
)
from sea_agent.service.settings import Settings
from sea_agent.service.state import State
from sea_agent.service.store.database import Database
from sea_agent.web import problems
from sea_agent.web.head import Head
from sea_agent.web.security import SecurityHeaders
from sea_agent.web.subpath import SubPath, require_free

logger = logging.getLogger(__name__)


def make_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application; its lifespan opens and closes the store (``app.state.service``).

    Raises:
        UserError: when the directory of runs is none, or the root path is one of the service's own.
    """
    measured = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            Database(settings.url, settings.deadline_seconds, measured.committed) as database,
            AsyncExitStack() as ending,
        ):
            keyring = await KeyRing.load(database, settings.clock)
            rate = RateLimit(settings.requests_per_second, settings.burst)
            serving = endpoint = None
            if settings.live is not None:
                serving = Serving(database, settings.live, settings.clock)
                opened = gateway(database, settings.live, serving, settings.clock, settings.seed)
                endpoint = await ending.enter_async_context(opened)
            service = State(settings, database, keyring, rate, measured, settings.cookie, serving, endpoint)
            app.state.service = service
            tasks = [_begin(keep_to_retention(service), "texts whose time has passed are erased no more")]
            if serving is not None:
                tasks.append(_begin(serving.keep(), "engines are not told any more which weights are live"))
            try:
                yield
            finally:  # also of a service that is refused as it starts: the database is closed next
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    app = FastAPI(
        title="sea-agent feedback service",
        version=__version__,
        lifespan=lifespan,
        root_path=settings.root_path,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # its scripts come from elsewhere
        redoc_url=None,
    )
    others, shapes = {files.IMPORT: settings.file_bytes}, {chat.COMPLETIONS: chat.openai_error}
    app.add_middleware(BodyLimit, largest=settings.body_bytes, others=others, shapes=shapes)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Measure, metrics=measured)
    app.add_middleware(Head)
    if settings.root_path:
        app.add_middleware(SubPath, root=settings.root_path)
    problems.install(app)
    refusals.install(app)
    # Routes are tried in this order, so those whose callers wait come first.
    app.include_router(chat.router, prefix="/v1")
    office = (leases, labels, queries, runs, assignments, events, quality, files, keys, people, erasure)
    for module in (*office, feedback, live, live_operating):
        app.include_router(
            module.router, prefix="/v1", responses=problems.documented(400, 401, 403, 413, 422, 429, 503)
        )
    for module in (health, metrics, sign_in, label_page, admin_page, chat_page, live_page):
        app.include_router(module.router)
    app.mount("/static", Static(), name="static")
    if settings.runs is not None:
        from sea_agent.service.routes import dashboard  # its statistics take seconds to import

        app.include_router(dashboard.router(settings.runs))
    require_free(settings.root_path, [getattr(route, "path", "/") for route in app.routes])
    _describe_problems(app)
    return app


def _begin(work: Coroutine[Any, Any, None], otherwise: str) -> asyncio.Task[None]:
    """Do something for as long as the service runs; ``otherwise`` is what its failure means until the next start."""
    task = asyncio.create_task(work)

    def tell_failure(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s until the service starts again", otherwise, exc_info=error)

    task.add_done_callback(tell_failure)
    return task


def _describe_problems(app: FastAPI) -> None:
    """Let OpenAPI know the shape of a problem, which every route refers to."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        document.setdefault("components", {}).setdefault("schemas", {})["Problem"] = problems.SCHEMA
        return document

    app.openapi = openapi  # type: ignore[method-assign]
