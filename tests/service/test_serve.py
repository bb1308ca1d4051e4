"""`sea-agent serve` as a process: keys at the first start, refusals before it listens, an orderly end."""

import asyncio
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from service.processes import GIVEN_KEY, SECONDS, SERVE, Process

from sea_agent.errors import UserError
from sea_agent.service.app import make_app
from sea_agent.service.settings import Settings
from sea_agent.web import listening
from sea_agent.web.signals import Signals


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


def test_a_new_key_in_the_environment_ends_the_old_one(
    serve: Callable[..., Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def status(service: Process, key: str) -> int:
        return service.client(key).get("/v1/keys").status_code

    old, new = GIVEN_KEY, GIVEN_KEY[::-1]
    service = serve(key=old)
    other = service.client(old).post("/v1/keys", json={"name": "other", "scopes": ["admin"]}).json()["key"]
    service.stop()
    service = serve(key=old)
    assert status(service, old) == 200, "the same again"
    service.stop()
    service = serve(key=new)
    assert [status(service, key) for key in (new, old, other)] == [200, 401, 200]
    service.stop()
    monkeypatch.setenv("SEA_AGENT_ADMIN_KEY", old)
    assert "this key was ended before. Set another one" in refusal("--port", 0, cwd=tmp_path)


def test_health_is_told_to_whoever_asks_without_a_body(serve: Callable[..., Process]) -> None:
    service = serve(key=GIVEN_KEY)
    for path in ("/healthz", "/readyz"):
        answer = httpx.head(f"{service.url}{path}", timeout=SECONDS)
        assert (answer.status_code, answer.content) == (200, b"")


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


def waiting_claim() -> bytes:
    """A request for a duel that waits until there is one."""
    body = '{"wait_s": 25}'
    return (
        f"POST /v1/runs/run/leases HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {GIVEN_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_those_who_wait_and_ends_in_order(serve: Callable[..., Process], by: int) -> None:
    service = serve(key=GIVEN_KEY)
    client = service.client(GIVEN_KEY)
    assert client.put("/v1/runs/run", json={}).status_code == 200
    with socket.create_connection(("127.0.0.1", service.port), timeout=SECONDS) as waiting:
        waiting.sendall(waiting_claim())
        assert client.get("/v1/runs").status_code == 200  # so the one before it has been read
        client.close()
        assert service.stop(by) == 0
        assert waiting.recv(4096).startswith(b"HTTP/1.1 204")
    assert "Traceback" not in service.errors.read_text()


def test_who_waited_for_a_duel_and_hung_up_takes_none(serve: Callable[..., Process]) -> None:
    service = serve(key=GIVEN_KEY)
    client = service.client(GIVEN_KEY)
    assert client.put("/v1/runs/run", json={}).status_code == 200
    other = client.post("/v1/keys", json={"name": "other", "scopes": ["annotate"]}).json()["key"]
    with socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])), timeout=SECONDS) as waiting:
        waiting.sendall(waiting_claim())
        assert client.get("/v1/runs").status_code == 200  # so the one before it has been read
    assert client.get("/v1/runs").status_code == 200  # and so has its end
    query = {"client_key": "k", "prompt": "p", "first": "a", "second": "b"}
    assert client.post("/v1/runs/run/queries:batch", json={"queries": [query]}).status_code == 200
    assert service.client(other).post("/v1/runs/run/leases", json={}).status_code == 201


@pytest.mark.anyio
async def test_a_start_that_is_refused_ends_what_it_has_begun(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The database is closed then, and what still asked it would fail with a traceback."""
    app = make_app(Settings(data=tmp_path))
    with pytest.raises(UserError, match="refused"):
        async with app.router.lifespan_context(app):
            raise UserError("refused")
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in others if "keep_to_retention" in repr(task)]
    assert "Traceback" not in caplog.text


def test_a_resting_connection_is_kept_longer_than_proxies_and_clients_keep_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise a request may meet one that is being closed, and a proxy sends none twice that makes something."""
    made: list[uvicorn.Config] = []

    async def note(self: uvicorn.Server, sockets: object) -> None:
        made.append(self.config)

    monkeypatch.setattr(uvicorn.Server, "serve", note)
    asyncio.run(listening.listen(FastAPI(), "127.0.0.1", 0, "/", Signals(), lambda _: None))
    [config] = made
    of_clients = httpx.Limits().keepalive_expiry
    of_proxies = {"nginx": 60.0, "caddy": 120.0}  # upstream keepalive_timeout, keepalive
    assert config.timeout_keep_alive > max(of_clients or 0.0, *of_proxies.values())
    assert uvicorn.Config(FastAPI()).timeout_keep_alive == of_clients, "the default would meet httpx at the same second"
