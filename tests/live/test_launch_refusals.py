"""What the command refuses before anything of live mode starts, and where its keys go."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_stub import StubEngine

from oracle.service_client import ServiceClient
from sea_agent.config import LiveConfig
from sea_agent.errors import UserError
from sea_agent.live import launch
from sea_agent.live.engine_scores import engine_score
from sea_agent.live.launch import Launch, Place, live_config
from sea_agent.service.chat.settings import TOKEN, LiveSettings
from sea_agent.service.serve import ADMIN_KEY

LONG = "k" * 32


@pytest.mark.parametrize("key", [LONG[1:], "", LONG + " x", LONG + "é", LONG])
def test_a_weak_admin_key_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    def checked(config: Any) -> None:
        raise UserError("the configuration is checked")

    monkeypatch.setenv(ADMIN_KEY, key)
    monkeypatch.setattr(launch, "check", checked)
    out = tmp_path / "live"
    wanted = "configuration is checked" if key == LONG else f"{ADMIN_KEY}: needs at least 32 printable ASCII"
    with pytest.raises(UserError, match=wanted):
        Launch(live_config("live", out, [], resume=False), Place(out), print).run()
    assert not out.exists()


def test_what_is_on_this_machine_is_not_asked_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment would get the secrets of engines and gateway, and not find them."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv(TOKEN, "secret")
    with StubEngine("secret") as engine:
        settings = LiveSettings(
            live=LiveConfig(), engines=(engine.url,), decider=engine.url, max_new_tokens=8, temperature=1.0
        )
        file = tmp_path / "live.json"
        file.write_text(json.dumps(settings.model_dump(mode="json")))
        score = engine_score(file)
        assert score is not None
        assert score([((1, 2), (3, 4))], 1) == [[-1.0, -1.0]]
        assert ServiceClient(engine.url, "secret", "engine").call("GET", "/healthz") == {"status": "ok"}
        with pytest.raises(httpx.TransportError):  # the negative control
            httpx.get(f"{engine.url}/healthz", timeout=10)
