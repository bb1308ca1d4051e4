"""The dashboard by itself: directories of runs, shown on one address of this machine, without a feedback service."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from sea_agent import __version__
from sea_agent.dashboard.board import Board
from sea_agent.dashboard.routes import Server, make_router
from sea_agent.web import problems
from sea_agent.web.addresses import is_loopback
from sea_agent.web.head import Head
from sea_agent.web.listening import listen
from sea_agent.web.security import SecurityHeaders
from sea_agent.web.signals import Signals

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
"""What requests may call this machine."""


def make_app(board: Board, signals: Signals, *, public: bool = False) -> FastAPI:
    """The dashboard as an ASGI application; its streams end when ``signals`` close.

    Unless it is ``public``, requests that name another host are refused, so that no foreign page can reach it through
    a name of its own that leads to this machine.
    """
    app = FastAPI(title="sea-agent dashboard", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["*"] if public else list(LOOPBACK_NAMES))
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Head)
    problems.install(app)

    @app.get("/")
    async def start() -> Response:
        return RedirectResponse("dashboard/")

    app.include_router(make_router(board, Server(signals=lambda request: signals)))
    return app


def serve(root: Path, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Show the runs below ``root`` until SIGTERM or Ctrl-C. ``announce`` gets the lines for the operator's terminal.

    Raises:
        UserError: when ``root`` is not a directory or the address cannot be used.
    """
    board, signals, public = Board(root), Signals(), not is_loopback(host)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if public:
        announce(
            f"Everybody who reaches {host} can read these runs, their prompts and responses. Behind keys the dashboard "
            "is shown by: sea-agent serve --runs DIR"
        )
    board.read_ahead()
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again after it has shut down in order
        asyncio.run(listen(make_app(board, signals, public=public), host, port, "/dashboard/", signals, announce))
