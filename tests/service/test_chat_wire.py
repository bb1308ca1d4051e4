"""The gateway's own HTTP client: answers in any pieces, connections that are kept, and those that are not whole."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from sea_agent.service.chat import wire
from sea_agent.service.chat.wire import Broken, Wire

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = b'5\r\n{"a":\r\n7\r\n1}\n{"b"\r\n5\r\n:2}\n\n\r\n0\r\n\r\n'
LINES = [b'{"a":1}', b'{"b":2}']


@dataclass
class Server:
    """Answers each request with these pieces, one by one; ``connections`` counts who came."""

    pieces: Sequence[bytes]
    hangs_up: bool = False
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    url: str = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                for piece in self.pieces:
                    writer.write(piece)
                    await asyncio.sleep(0)
                if self.hangs_up:
                    break
        except asyncio.IncompleteReadError:  # they left
            pass
        writer.close()


@asynccontextmanager
async def asking(server: Server) -> AsyncIterator[Wire]:
    async with await asyncio.start_server(server.answer, "127.0.0.1", 0) as listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/generate"
        own = Wire("secret")
        yield own
        own.close()


async def lines(own: Wire, server: Server) -> list[bytes]:
    async with own.post(server.url, {"text": "für 米飯"}) as answer:
        assert answer.status == 200
        return [line async for line in answer.lines()]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_lines_are_the_same_in_whatever_pieces_they_come(size: int) -> None:
    whole = HEAD + BODY
    server = Server([whole[start : start + size] for start in range(0, len(whole), size)])
    async with asking(server) as own:
        assert [await lines(own, server) for _ in range(3)] == [LINES] * 3
    assert server.connections == 1
    first = server.requests[0].decode()
    assert first.startswith("POST /generate HTTP/1.1\r\n")
    assert "\r\nAuthorization: Bearer secret\r\n" in first
    assert first.endswith('{"text": "für 米飯"}')


async def test_requests_at_once_have_connections_of_their_own() -> None:
    server = Server([HEAD + BODY])
    async with asking(server) as own:
        assert await asyncio.gather(*(lines(own, server) for _ in range(5))) == [LINES] * 5
        assert server.connections == 5
        assert await lines(own, server) == LINES
    assert server.connections == 5


async def test_a_connection_is_not_used_again_unless_its_answer_was_read_to_the_end() -> None:
    server = Server([HEAD + BODY[:22]])
    async with asking(server) as own:
        async with own.post(server.url, {}) as answer:
            assert await anext(answer.lines()) == LINES[0]
        server.pieces = [HEAD + BODY]
        assert await lines(own, server) == LINES
    assert server.connections == 2


async def test_a_connection_that_was_closed_or_rested_too_long_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server([HEAD + BODY], hangs_up=True)
    async with asking(server) as own:
        for _ in range(3):
            assert await lines(own, server) == LINES
            await asyncio.sleep(0.01)  # until its end has come
        assert server.connections == 3
        server.hangs_up = False
        assert [await lines(own, server) for _ in range(2)] == [LINES] * 2
        assert server.connections == 4
        monkeypatch.setattr(wire, "IDLE_SECONDS", 0.0)
        assert await lines(own, server) == LINES
        assert await lines(own, server) == LINES
    assert server.connections == 6


@pytest.mark.parametrize("sent", [b"", HEAD[:30], HEAD, HEAD + BODY[:20], HEAD + BODY[:-5]])
async def test_an_answer_that_is_cut_is_no_answer(sent: bytes) -> None:
    server = Server([sent], hangs_up=True)
    async with asking(server) as own:
        with pytest.raises(Broken):
            await lines(own, server)


async def test_what_is_no_http_and_who_says_nothing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server([b"220 mail.example ready\r\n"])
    async with asking(server) as own:
        with pytest.raises(ValueError, match="no HTTP"):
            await lines(own, server)
        server.pieces = [HEAD]
        monkeypatch.setattr(wire, "READ_SECONDS", 0.01)
        with pytest.raises(TimeoutError):
            await lines(own, server)
    with pytest.raises(OSError, match="Connect"):
        await lines(own, server)
