"""A server on one address: one uvicorn worker that says when it listens and ends in order."""

import ipaddress
import socket
from collections.abc import Callable, Sequence

import uvicorn
from fastapi import FastAPI

from sea_agent.errors import UserError
from sea_agent.web.signals import Signals

SHUTDOWN_SECONDS = 5
REST_SECONDS = 150
"""How long a connection may rest: longer than httpx (5 s), aiohttp (15 s), nginx (60 s) and Caddy (120 s) keep theirs.
Who sends must close it first: otherwise a request meets a connection that is being closed now and then."""
LOOPBACK = ("127.0.0.1", "::1")
"""Whose ``X-Forwarded-Proto`` is always believed: only this machine sends from there."""


def proxy_network(text: str) -> str:
    """An address or network of proxies, as it is compared with.

    Raises:
        UserError: when it is neither; names are not looked up.
    """
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise UserError(f"--proxy {text}: expected an address such as 172.18.0.1, or a network ({error})") from None


async def listen(
    app: FastAPI,
    host: str,
    port: int,
    path: str,
    signals: Signals,
    announce: Callable[[str], None],
    proxies: Sequence[str] = (),
) -> None:
    """Serve an app whose lifespan has begun until SIGTERM or Ctrl-C, and announce the address of its page at ``path``.
    ``proxies`` are believed when they say by ``X-Forwarded-Proto`` how they were asked, as is this machine.

    Raises:
        UserError: when the address cannot be used.
    """
    with _bind(host, port) as listener:
        config = uvicorn.Config(
            app,
            lifespan="off",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            timeout_keep_alive=REST_SECONDS,
            server_header=False,
            forwarded_allow_ips=[*LOOPBACK, *proxies],
        )
        await _Server(config, path, signals, announce).serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Tells when it listens, and ends the requests that wait before it waits for them."""

    def __init__(self, config: uvicorn.Config, path: str, signals: Signals, announce: Callable[[str], None]) -> None:
        super().__init__(config)
        self._path = path
        self._signals = signals
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            self._announce(f"Ready: http://{f'[{host}]' if ':' in host else host}:{port}{self._path}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._signals.close()
        await super().shutdown(sockets)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: cannot listen there ({error.strerror})") from None
    return listener
