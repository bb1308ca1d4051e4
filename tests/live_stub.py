"""An engine of live mode that answers scripted tokens over real HTTP, and fails, waits or dies on order.

It speaks what ``actors.live_engine`` speaks, loads no model, and needs the standard library alone. A response that goes
on after ``stop_after`` has in its last line the versions of the new tokens, and the text of the whole response.

    with StubEngine(token="secret") as engine:
        engine.die_after = 2  # every stream breaks after two tokens, until this is None again
        post(engine.url + "/generate", …)
"""

import json
import math
import random
import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

# Of one byte to four a character, so that who cuts texts anywhere is found out.
WORDS = ("rice", "keeps", "für", "Tage", "naïve", "米飯", "冷凍", "🍚", "well", "cold", "and", "then", "warm", "again")
FIRST_ID = 10
"""Token id of the first word."""
END = 1
LONGEST_WAIT = 60.0

Script = Callable[[dict[str, Any]], Sequence[tuple[int, str]]]
"""The tokens of the response to a request's body, each with its text; the end token's text is empty."""


def scripted(body: dict[str, Any], length: int = 6) -> list[tuple[int, str]]:
    """``length`` words drawn by the request's seed, then the end token: the same for the same seed."""
    drawn = random.Random(body.get("seed", 0)).choices(range(len(WORDS)), k=length)
    return [*((FIRST_ID + word, " " * (place > 0) + WORDS[word]) for place, word in enumerate(drawn)), (END, "")]


class StubEngine:
    """Listens on a free port of the loopback while it is entered. Its public attributes are orders and records."""

    def __init__(
        self,
        token: str = "secret",
        *,
        version: int = 1,
        checksum: str = "0" * 32,
        context: int = 256,
        script: Script = scripted,
        initial_script: Script = scripted,
    ) -> None:
        self.token, self.context = token, context
        self.version, self.checksum, self.swaps = version, checksum, 0
        self.script, self.initial_script = script, initial_script

        self.answer: int | None = None
        """Answer every request but /healthz with this status, such as 503."""
        self.refuse: str | None = None
        """Refuse every prompt with this detail."""
        self.refuse_weights = False
        """Answer PUT /weights with 409."""
        self.die_after: int | None = None
        """Break each stream's connection after so many tokens of it; 0 is before its first."""
        self.hold_after: int | None = None
        """Send no more of a stream after so many tokens, until ``release`` is set or the client has left."""
        self.release = threading.Event()
        self.last_only = False
        """Read the last message of a conversation alone, as a policy without a chat template does."""
        self.logprob = -1.0
        """Log-probability of every token."""

        self.requests: list[dict[str, Any]] = []
        """Bodies of /generate, in the order they came."""
        self.published: list[dict[str, Any]] = []
        """Bodies of PUT /weights."""
        self.finished: list[str] = []
        """Ids of the requests whose last line was sent."""
        self.left: list[str] = []
        """Ids of the requests whose client closed the connection before its last line."""
        self.held = threading.Semaphore(0)
        """Released once for each stream that begins to hold: acquire it (with a timeout) to know that one does."""
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """Where it listens, or listened last."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self, port: int = 0) -> None:
        """Listen; on the same ``port`` again to come back from the dead."""
        handler = type("Handler", (_Handler,), {"engine": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more, and break every stream, as if the process was killed."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            for connection in list(server.connections):
                _break(connection)

    def state(self) -> dict[str, Any]:
        """What GET /state answers."""
        return {
            "version": self.version,
            "checksum": self.checksum,
            "backend": "stub",
            "running": len(self.requests) - len(self.finished) - len(self.left),
            "context": self.context,
            "swaps": self.swaps,
            "responses": len(self.requests),
        }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: StubEngine
    disable_nagle_algorithm = True

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._answer(200, {"status": "ok"})
        elif self._allowed():
            self._answer(200, self.engine.state()) if self.path == "/state" else self._answer(404, _detail("none"))

    def do_PUT(self) -> None:
        engine, body = self.engine, self._body()
        if not self._allowed():
            return
        engine.published.append(body)
        if engine.refuse_weights:
            self._answer(409, _detail("these are not the weights of that checksum"))
            return
        engine.version, engine.checksum = body["version"], body["checksum"]
        engine.swaps += 1
        self._answer(200, {"version": engine.version, "seconds": 0.0, "running": engine.state()["running"]})

    def do_POST(self) -> None:
        body = self._body()
        if not self._allowed():
            return
        if self.path == "/score":
            self._score(body)
        elif self.path == "/generate":
            self._generate(body)
        else:
            self._answer(404, _detail("none"))

    def _score(self, body: dict[str, Any]) -> None:
        if body["version"] != self.engine.version:
            self._answer(409, _detail(f"version {self.engine.version} is held"))
            return
        self._answer(200, {"logprobs": [[self.engine.logprob] * len(response) for _, response in body["rows"]]})

    def _generate(self, body: dict[str, Any]) -> None:
        engine = self.engine
        problem = engine.refuse or _problem(body)
        if problem:
            self._answer(422, _detail(problem))
            return
        engine.requests.append(body)
        initial = body.get("weights") == "initial"
        tokens = list((engine.initial_script if initial else engine.script)(body))
        whole = tokens[: body["max_new_tokens"]]
        done = len(body.get("stop_after") or ())
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self._line({"prompt": _prompt(body, engine.last_only)})
            versions: list[int] = []
            for sent, (token, text) in enumerate(whole[done:]):
                self._obey(sent)
                versions.append(0 if initial else engine.version)
                line = {"text": text, "token_ids": [token], "logprobs": [engine.logprob], "version": versions[-1]}
                self._line(line)
            self._obey(len(whole) - done)
            finish = "stop" if whole and whole[-1][0] == END else "length"
            text = "".join(text for _, text in whole)
            self._line({"finish": finish, "versions": list(dict.fromkeys(versions)), "text": text})
            self.wfile.write(b"0\r\n\r\n")
            engine.finished.append(body["id"])
        except OSError:
            engine.left.append(body["id"])

    def _obey(self, sent: int) -> None:
        """Die or wait here if so ordered. Raises: OSError when the connection is gone."""
        engine = self.engine
        if engine.die_after is not None and sent >= engine.die_after:
            _break(self.connection)
            raise OSError("died on order")
        if engine.hold_after is not None and sent == engine.hold_after and not engine.release.is_set():
            engine.held.release()
            for _ in range(int(LONGEST_WAIT / 0.02)):
                if engine.release.wait(0.02):
                    return
                if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                    raise OSError("the client has left")

    def _line(self, values: dict[str, Any]) -> None:
        data = json.dumps(values).encode() + b"\n"
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _body(self) -> dict[str, Any]:
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")

    def _allowed(self) -> bool:
        if self.headers.get("Authorization") != f"Bearer {self.engine.token}":
            self._answer(401, _detail("the token is wrong"))
            return False
        if self.engine.answer is not None:
            self._answer(self.engine.answer, _detail("ordered"))
            return False
        return True

    def _answer(self, status: int, values: dict[str, Any]) -> None:
        data = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _detail(text: str) -> dict[str, str]:
    return {"detail": text}


def _problem(body: dict[str, Any]) -> str | None:
    """What is wrong with a request, in words; a prompt of 10,000 characters or more is too long."""
    messages = body.get("messages")
    if not messages and not body.get("token_ids"):
        return "the prompt is empty. Give it at least one message, or remove it."
    if not math.isfinite(body["temperature"]) or body["temperature"] < 0:
        return "temperature must not be negative"
    if messages and sum(len(str(message["content"])) for message in messages) >= 10_000:
        return "the prompt is too long for the policy's context. Shorten it."
    return None


def _prompt(body: dict[str, Any], last_only: bool) -> dict[str, Any]:
    if body.get("token_ids"):
        return {"text": "", "token_ids": list(body["token_ids"]), "last_only": False}
    messages = body["messages"][-1:] if last_only else body["messages"]
    text = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
    return {"text": text, "token_ids": [2 + len(word) % 7 for word in text.split()], "last_only": last_only}


def _break(connection: socket.socket) -> None:
    """Close a connection as a dying process does: at once, whatever is on its way."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # closed already
        pass
