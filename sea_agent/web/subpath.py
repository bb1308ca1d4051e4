"""A service below a path of its host, such as ``https://labels.example/feedback``, behind a proxy."""

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from sea_agent.errors import UserError

_SUB_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")


def sub_path(text: str) -> str:
    """``--root-path`` without a slash at its end; empty for the whole host.

    Raises:
        UserError: when it is no path.
    """
    path = text.rstrip("/")
    if path and not _SUB_PATH.fullmatch(path):
        raise UserError(
            f"--root-path {text}: expected a path such as /feedback, of letters, digits and . _ ~ - between the slashes"
        )
    return path


def require_free(root: str, routes: Iterable[str]) -> None:
    """Refuse a sub-path that begins like a route: a request for the one would look like one for the other.

    Raises:
        UserError: naming the route.
    """
    first = root.split("/")[1] if root else ""
    if first and first in {route.split("/")[1] for route in routes}:
        raise UserError(f"--root-path {root}: /{first} is a path of the service itself; choose another, as /feedback")


class SubPath:
    """Give each request the path that its browser shows, whether or not the proxy has taken the sub-path away."""

    def __init__(self, app: ASGIApp, root: str) -> None:
        self._app = app
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not f"{scope['path']}/".startswith(f"{self._root}/"):
            scope = {**scope, "path": self._root + scope["path"]}
        await self._app(scope, receive, send)
