"""`sea-agent serve` as a process: keys at the first start, refusals before it listens, an orderly end."""

import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from service.processes import GIVEN_KEY, SECONDS, SERVE, Process


def refusal(*options: str | Path, cwd: Path) -> str:
    """What a service says that refuses to start."""
    command = [*SERVE, *map(str, options)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return done.stderr


def test_the_first_start_prints_a_key_and_the_second_does_not(serve: Callable[..., Process], tmp_path: Path) -> None:
    first = serve()
    (key,) = first.printed_keys
    assert first.client(key).get("/v1/keys").status_code == 200
    assert first.stop() == 0
    second = serve()
    assert second.printed_keys == []
    assert second.client(key).get("/v1/keys").status_code == 200
    assert second.stop() == 0
    stored = b"".join(path.read_bytes() for path in (tmp_path / "sea-agent-data").iterdir())
    logged = first.errors.read_text() + second.errors.read_text()
    assert key.encode() not in stored
    assert key not in logged


def test_the_environment_gives_the_first_key(serve: Callable[..., Process]) -> None:
    service = serve(key=GIVEN_KEY)
    assert service.lines == [f"Ready: {service.url}/label"]
    assert service.client(GIVEN_KEY).get("/v1/keys").status_code == 200


def test_a_weak_key_in_the_environment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEA_AGENT_ADMIN_KEY", "k" * 31)
    assert "SEA_AGENT_ADMIN_KEY: needs at least 32" in refusal("--port", 0, cwd=tmp_path)


def test_listening_beyond_this_machine_without_a_key_is_refused(serve: Callable[..., Process], tmp_path: Path) -> None:
    assert "--host 0.0.0.0: refused" in refusal("--host", "0.0.0.0", "--port", 0, cwd=tmp_path)
    local = serve()  # gets a key
    (key,) = local.printed_keys
    local.stop()
    public = serve("--host", "0.0.0.0")
    url = f"http://127.0.0.1:{public.port}/v1/keys"
    answer = httpx.get(url, headers={"Authorization": f"Bearer {key}"}, timeout=SECONDS)
    assert answer.status_code == 200


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen there" in refusal("--port", taken.getsockname()[1], cwd=tmp_path)


def test_a_second_service_on_the_same_data_is_refused(serve: Callable[..., Process], tmp_path: Path) -> None:
    first = serve(key=GIVEN_KEY)
    assert "another service writes to it" in refusal("--port", 0, cwd=tmp_path)
    assert httpx.get(f"{first.url}/readyz", timeout=SECONDS).status_code == 200


def test_a_database_that_does_not_answer_is_told(tmp_path: Path) -> None:
    url = "postgresql://nobody:secret-word@127.0.0.1:9/none"
    said = refusal("--port", 0, "--database", url, cwd=tmp_path)
    assert "postgresql+psycopg://nobody:***@127.0.0.1:9/none" in said
    assert "secret-word" not in said


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_those_who_wait_and_ends_in_order(serve: Callable[..., Process], by: int) -> None:
    service = serve(key=GIVEN_KEY)
    client = service.client(GIVEN_KEY)
    assert client.put("/v1/runs/run", json={}).status_code == 200
    with socket.create_connection(("127.0.0.1", service.port), timeout=SECONDS) as waiting:
        body = b'{"wait_s": 25}'
        head = (
            f"POST /v1/runs/run/leases HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {GIVEN_KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        waiting.sendall(head.encode() + body)
        assert client.get("/v1/runs").status_code == 200  # so the one before it has been read
        client.close()
        assert service.stop(by) == 0
        assert waiting.recv(4096).startswith(b"HTTP/1.1 204")
    assert "Traceback" not in service.errors.read_text()
