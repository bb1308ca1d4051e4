"""JSON over HTTP/1.1 to engines and the decider, on connections that are kept.

A small policy has its first token within milliseconds, of which a general client would take two.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import SplitResult, urlsplit

import httptools

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
"""Longest wait for the next bytes."""
IDLE_SECONDS = 3.0
"""A connection that rested for longer is not used again: uvicorn closes those that rest for five."""
_MOST_BYTES = 65_536  # of one read


class Broken(Exception):
    """The other side hung up before its answer was whole."""


class Answer:
    """The answer on a connection, as far as it has come: ``httptools`` calls the methods that begin with ``on_``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._parser = httptools.HttpResponseParser(self)
        self._came: list[bytes] = []
        self.status = 0
        self.is_whole = False
        self._stays = False

    @classmethod
    async def to(cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> Self:
        """The answer to a request, once its head is there. Raises: Broken, TimeoutError, OSError, ValueError."""
        answer = cls(reader, writer)
        writer.write(request)
        while not answer.status:
            await answer._read()
        return answer

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._came.append(body)

    def on_message_complete(self) -> None:
        self.is_whole, self._stays = True, self._parser.should_keep_alive()

    async def lines(self) -> AsyncGenerator[bytes]:
        """Each line of the body as it comes, without its end; empty ones are left out."""
        rest = b""
        while piece := await self._next():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line:
                    yield line
        if rest:
            yield rest

    async def whole(self) -> bytes:
        """The body."""
        came = b""
        while piece := await self._next():
            came += piece
        return came

    def leave(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """End it here; the connection, if it can be used again."""
        if self.is_whole and self._stays and not self._reader.at_eof():
            return self._reader, self._writer
        self._writer.close()
        return None

    async def _next(self) -> bytes:
        """What of the body has come; nothing at its end."""
        while not self._came and not self.is_whole:
            await self._read()
        came, self._came = b"".join(self._came), []
        return came

    async def _read(self) -> None:
        async with asyncio.timeout(READ_SECONDS):
            data = await self._reader.read(_MOST_BYTES)
        if not data:
            raise Broken("it hung up")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise ValueError(f"it speaks no HTTP ({error})") from None


class Wire:
    """Requests of one caller, who shows ``token``."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._idle: dict[str, list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]]] = {}

    def close(self) -> None:
        """Let go of the connections that rest."""
        for resting in self._idle.values():
            for _, _, writer in resting:
                writer.close()
        self._idle.clear()

    @asynccontextmanager
    async def post(self, url: str, body: Any) -> AsyncIterator[Answer]:
        """The answer to a body, once its head has come. A connection whose answer is not read to its end is closed.

        Raises:
            Broken, TimeoutError, OSError: nobody answers there.
            ValueError: they do not speak HTTP.
        """
        to = urlsplit(url)
        reader, writer = self._resting(to.netloc) or await _connect(to)
        try:
            answer = await Answer.to(reader, writer, self._request(to, body))
        except BaseException:
            writer.close()
            raise
        try:
            yield answer
        finally:
            if (connection := answer.leave()) is not None:
                self._rest(to.netloc, *connection)

    def _request(self, to: SplitResult, body: Any) -> bytes:
        data = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        head = (
            f"POST {to.path} HTTP/1.1\r\nHost: {to.netloc}\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data

    def _rest(self, place: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep a connection for later, and let go of those that rest for too long."""
        resting, now = self._idle.setdefault(place, []), time.monotonic()
        while resting and now - resting[0][0] >= IDLE_SECONDS:
            resting.pop(0)[2].close()
        resting.append((now, reader, writer))

    def _resting(self, place: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection that was used lately and is open."""
        resting = self._idle.get(place, [])
        while resting:
            since, reader, writer = resting.pop()
            if time.monotonic() - since < IDLE_SECONDS and not reader.at_eof():
                return reader, writer
            writer.close()
        return None


async def _connect(to: SplitResult) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    is_secure = to.scheme == "https"
    async with asyncio.timeout(CONNECT_SECONDS):
        return await asyncio.open_connection(to.hostname, to.port or (443 if is_secure else 80), ssl=is_secure or None)
