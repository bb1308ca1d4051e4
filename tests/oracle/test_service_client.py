"""What a first look at the service says: whether another one would help, and what the user should do."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from oracle import make_oracle
from oracle.service_client import KEY
from sea_agent.config import FeedbackServiceOracleConfig, LiveOracleConfig
from sea_agent.errors import RunFailure, UserError

NOBODY = "http://127.0.0.1:9"
KINDS: dict[str, Any] = {"live": LiveOracleConfig, "feedback_service": FeedbackServiceOracleConfig}


class Service(BaseHTTPRequestHandler):
    """Answers everything with a status."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv(KEY, "a key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def first_look(kind: str, url: str) -> None:
    run = {"run": "r"} if kind == "feedback_service" else {}
    make_oracle(KINDS[kind](kind=kind, url=url, **run), seed=0, device="cpu")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_gateway_that_is_down_or_cannot_answer_now_is_no_fault_of_the_users(
    answering: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Service, "status", status)
    with pytest.raises(RunFailure, match=f"answered {status}; it cannot answer now"):
        first_look("live", answering)
    with pytest.raises(RunFailure, match="no feedback service answers there"):
        first_look("live", NOBODY)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("status", "words"), [(401, f"{KEY}: .* refuses this key"), (404, "is this a feedback")])
def test_what_no_other_look_would_mend_is_a_fault_of_the_users(
    answering: str, kind: str, status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Service, "status", status)
    with pytest.raises(UserError, match=words):
        first_look(kind, answering)


def test_a_run_that_starts_with_a_wrong_address_is_refused_as_before(
    answering: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Service, "status", 502)
    for url, words in ((NOBODY, "no feedback service answers there"), (answering, "answered 502")):
        with pytest.raises(UserError, match=words):
            first_look("feedback_service", url)
