"""Run the service: one uvicorn worker, keys before anything listens beyond this machine."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable

import uvicorn

from sea_agent.addresses import is_loopback
from sea_agent.errors import UserError
from sea_agent.service.app import make_app
from sea_agent.service.keyring import KeyRing
from sea_agent.service.settings import Settings
from sea_agent.service.state import State
from sea_agent.service.store.signals import Signals

ADMIN_KEY = "SEA_AGENT_ADMIN_KEY"
SHORTEST_ADMIN_KEY = 32
SHUTDOWN_SECONDS = 5


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. ``announce`` gets the lines for the operator's terminal.

    Raises:
        UserError: when the database or the address cannot be used, or keys are missing for a public address.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again after it has shut down in order
        asyncio.run(_serve(settings, announce))


async def _serve(settings: Settings, announce: Callable[[str], None]) -> None:
    app = make_app(settings)
    async with app.router.lifespan_context(app):
        service: State = app.state.service
        await _first_key(service.keyring, settings.host, announce)
        with _listen(settings.host, settings.port) as listener:
            config = uvicorn.Config(
                app,
                lifespan="off",
                access_log=False,
                log_config=None,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
                server_header=False,
            )
            await _Server(config, service.database.signals, announce).serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Tells when it listens, and ends the requests that wait before it waits for them."""

    def __init__(self, config: uvicorn.Config, signals: Signals, announce: Callable[[str], None]) -> None:
        super().__init__(config)
        self._signals = signals
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            self._announce(f"Ready: http://{f'[{host}]' if ':' in host else host}:{port}/label")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._signals.close()
        await super().shutdown(sockets)


async def _first_key(keyring: KeyRing, host: str, announce: Callable[[str], None]) -> None:
    """See to it that somebody can make keys."""
    given = os.environ.get(ADMIN_KEY)
    if given is not None:
        if len(given) < SHORTEST_ADMIN_KEY or not given.isascii() or not given.isprintable() or " " in given:
            raise UserError(f"{ADMIN_KEY}: needs at least {SHORTEST_ADMIN_KEY} printable ASCII characters, no spaces")
        if not keyring.knows(given):
            await keyring.make("admin", frozenset({"admin"}), secret=given)
    if keyring.has_admin():
        return
    if not is_loopback(host):
        raise UserError(
            f"--host {host}: refused, as nobody has a key yet. Set {ADMIN_KEY} to a random text of at least "
            f"{SHORTEST_ADMIN_KEY} characters, or start once on 127.0.0.1 to get a key."
        )
    _, secret = await keyring.make("admin", frozenset({"admin"}))
    announce(f"Admin key, shown this once: {secret}")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: cannot listen there ({error.strerror})") from None
    return listener
