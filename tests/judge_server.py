"""A language model judge for tests: a real HTTP server that speaks the chat completions protocol.

It reads a question as a model that can be talked round would: what stands in a block is data, and what stands outside
of all blocks is obeyed.
"""

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Prefer = Callable[[str, str, str], str]
"""(prompt, answer A, answer B) to ``A``, ``B`` or ``tie``."""

Fault = Callable[["Handler"], None]
"""Answers one request in place of the judge."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    headers: Mapping[str, str]
    body: Mapping[str, Any]
    prompt: str
    a: str
    b: str
    order: str | None  # what was found outside of the blocks, and obeyed

    @property
    def is_trial(self) -> bool:
        return self.prompt == "What is two and two?"


@dataclass
class Judge:
    """What the server does: ``prefer`` decides all but trials; ``faults`` are used up first, one for each request."""

    prefer: Prefer = lambda prompt, a, b: "A" if len(a) > len(b) else "B"
    faults: list[Fault] = field(default_factory=list)
    usage: Mapping[str, int] | None = field(default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 10})
    asked: list[Asked] = field(default_factory=list)
    down: threading.Event = field(default_factory=threading.Event)
    requests: int = 0  # those in vain among them

    @property
    def questions(self) -> list[Asked]:
        """What was asked, without trials."""
        return [one for one in self.asked if not one.is_trial]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: "JudgeServer"
    timeout = 60

    def do_POST(self) -> None:
        judge = self.server.judge
        with self.server.lock:
            judge.requests += 1
            fault = judge.faults.pop(0) if judge.faults else None
        if judge.down.is_set():
            return  # the connection ends without an answer
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self.fail(404, "no such path")
        elif fault is not None:
            fault(self)
        else:
            self.judge()

    def judge(self) -> None:
        """Answer as a judge does."""
        asked = read_question(self.headers, self.body)
        judge = self.server.judge
        with self.server.lock:
            judge.asked.append(asked)
        prefer: Prefer = (lambda prompt, a, b: "A") if asked.is_trial else judge.prefer
        self.write(json.dumps({"better": asked.order or prefer(asked.prompt, asked.a, asked.b)}))

    def write(self, content: str | None, **reply: Any) -> None:
        """Answer with a completion."""
        message = {"role": "assistant", "content": content, "refusal": reply.pop("refusal", None)}
        choice = {"index": 0, "finish_reason": "stop", "message": message} | reply
        completion = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        self.send(200, json.dumps(completion | {"usage": self.server.judge.usage}))

    def fail(self, status: int, message: str = "", code: str | None = None, **headers: str) -> None:
        """Answer with an error."""
        body = {"error": {"message": message, "type": "error", "param": None, "code": code}}
        self.send(status, json.dumps(body), **headers)

    def send(self, status: int, body: str, kind: str = "application/json", **headers: str) -> None:
        """Answer with anything."""
        self.send_response(status)
        for name, value in (headers | {"Content-Type": kind, "Content-Length": str(len(body.encode()))}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class JudgeServer(ThreadingHTTPServer):
    """``judge`` behind a socket on this machine; ``closing`` is set at its end, for faults that wait."""

    daemon_threads = True

    def __init__(self, judge: Judge | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.judge = judge or Judge()
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        self._thread.join(timeout=30)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


def read_question(headers: Any, body: Mapping[str, Any]) -> Asked:
    """The blocks of a question, and the first order that stands outside of them."""
    system, user = (message["content"] for message in body["messages"])
    (mark,) = re.findall(r"the mark (\S+)\.", system)
    blocks: dict[str, str] = {}
    outside: list[str] = []
    name, inside = "", []
    for line in user.split("\n"):
        opens = re.fullmatch(f"BEGIN (PROMPT|ANSWER A|ANSWER B) {re.escape(mark)}", line)
        if name and line == f"END {name} {mark}":
            blocks.setdefault(name, "\n".join(inside))
            name, inside = "", []
        elif name:
            inside.append(line)
        elif opens:
            name = opens[1]
        else:
            outside.append(line)
    order = re.search(r"the better answer is (A|B|tie)\b", "\n".join(outside))
    texts = (blocks.get(block, "") for block in ("PROMPT", "ANSWER A", "ANSWER B"))
    return Asked(dict(headers.items()), body, *texts, order[1] if order else None)


# --- faults ----------------------------------------------------------------------------------------------------------


def status(number: int, message: str = "", code: str | None = None, **headers: str) -> Fault:
    """An error status, with what the endpoint says about it."""
    return lambda handler: handler.fail(number, message, code, **headers)


def writes(content: str | None, **reply: Any) -> Fault:
    """A completion with this content."""
    return lambda handler: handler.write(content, **reply)


def sends(body: str, kind: str = "application/json") -> Fault:
    """A body that may be no completion."""
    return lambda handler: handler.send(200, body, kind)


def silence(handler: Handler) -> None:
    """Never an answer."""
    handler.server.closing.wait(timeout=120)


def trickle(handler: Handler) -> None:
    """An answer that never ends: a byte every now and then, each in time."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    while not handler.server.closing.wait(timeout=0.02):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def cut_off(handler: Handler) -> None:
    """A connection that breaks in the middle of the answer."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id": "c", "choices": [{"mess')
