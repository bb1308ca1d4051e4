"""Limits of size and rate."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, StringConstraints
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sea_agent.web.problems import Problem, problem_response

TEXT_CHARACTERS = 100_000
"""Longest prompt, response or instruction."""

MOST_BUCKETS = 10_000
"""Callers who are remembered before those are forgotten who may ask as often as a stranger."""

_NO_NUL = r"^[^\x00]*$"

LongText = Annotated[str, StringConstraints(max_length=TEXT_CHARACTERS, pattern=_NO_NUL)]
Comment = Annotated[str, StringConstraints(max_length=2000, pattern=_NO_NUL)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_NO_NUL)]


def _no_folder(name: Any) -> Any:
    """Refuses the names that a path cannot hold: clients and proxies take them out of it."""
    if name in (".", ".."):
        raise ValueError(
            f"{name} stands for a folder in a path, so whoever is called that could be neither ended nor erased; "
            "choose another name"
        )
    return name


# The pattern says the same to readers of OpenAPI.
Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, pattern=r"^([^\x00.]|\.[^\x00.]|\.\.[^\x00])[^\x00]*$"),
    BeforeValidator(_no_folder),
]
"""The name of a person, of a key or of a user of live mode: what is done about them is at a path with their name."""


class BodyLimit:
    """Refuse bodies above a size: at once where a length is given, while reading where none is.

    Paths that end in a key of ``others`` have the size there as their limit instead of ``largest``; those that end in a
    key of ``shapes`` tell of it in a shape of their own.
    """

    def __init__(
        self, app: ASGIApp, largest: int, others: Mapping[str, int], shapes: Mapping[str, Callable[[Problem], ASGIApp]]
    ) -> None:
        self._app = app
        self._largest = largest
        self._others = others
        self._shapes = shapes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        limits = (limit for ending, limit in self._others.items() if scope["path"].endswith(ending))
        largest = next(limits, self._largest)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > largest:
            shapes = (shape for ending, shape in self._shapes.items() if scope["path"].endswith(ending))
            shape = next(shapes, problem_response)
            return await shape(_too_large(largest))(scope, receive, send)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > largest:
                raise _too_large(largest)
            return message

        await self._app(scope, counted, send)


def _too_large(largest: int) -> Problem:
    return Problem(413, f"The body is larger than {largest:,} bytes; send less at once.")


class RateLimit:
    """A token bucket for each key: ``burst`` requests at once, ``rate`` a second on average."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        self._most = MOST_BUCKETS

    def take(self, key: str) -> None:
        """Take one request from a key's bucket.

        Raises:
            Problem: 429 when it is empty, with the seconds until it is not.
        """
        now = self._clock()
        if key not in self._buckets and len(self._buckets) >= self._most:
            self._forget_full(now)
        tokens, since = self._buckets.get(key, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        if tokens < 1:
            self._buckets[key] = (tokens, now)
            seconds = math.ceil((1 - tokens) / self._rate)
            raise Problem(429, "Too many requests with this key.", headers={"Retry-After": str(seconds)})
        self._buckets[key] = (tokens - 1, now)

    def _forget_full(self, now: float) -> None:
        """Let go of buckets that are full again, as that of a stranger is."""
        kept = ((key, own) for key, own in self._buckets.items() if own[0] + (now - own[1]) * self._rate < self._burst)
        self._buckets = dict(kept)
        self._most = max(MOST_BUCKETS, 2 * len(self._buckets))
