"""Streams of live mode through the proxies of ``deploy/proxy``: what the engine said is there before it says more."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from service.chat_service import Chat, chatting, text_of
from service.pages.proxies import DEPLOYED, NGINX, Proxy

from sea_agent.service.chat.engines import READ_SECONDS

pytestmark = pytest.mark.anyio

SITE = "nginx-live.conf"
SECONDS = 60.0
SAID_FIRST = 2
"""Tokens that the engine says before it waits."""
BUFFERING = ("proxy_buffering off;", "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering; proxy_buffers 8 64k;")
IMPATIENT = ("proxy_read_timeout 600s;", "proxy_read_timeout 1s;")
HEADERLESS = ("proxy_set_header X-Forwarded-Proto $scheme;", "")
KINDS = ("caddy", *(["nginx", SITE] if NGINX else []))


@dataclass
class LiveProxy(Proxy):
    """nginx with the whole host for live mode, as Compose starts it."""

    def _site(self) -> str:
        return self._configured(
            SITE,
            ("listen 8443 ssl", f"listen 127.0.0.1:{self.port} ssl"),
            ("/run/secrets/live_certificate_key", f"{self.folder}/key.pem"),
            ("/run/secrets/live_certificate;", f"{self.folder}/certificate.pem;"),
            ("live:8400", f"127.0.0.1:{self.service}"),
        )


@asynccontextmanager
async def behind(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *changes: tuple[str, str]
) -> AsyncIterator[tuple[Chat, httpx.AsyncClient]]:
    """A gateway behind a proxy, at a path of its host or with all of it, and a client of the proxy."""
    root = "" if kind == SITE else "/feedback"
    database = f"sqlite:///{folder / 'feedback.sqlite'}"
    async with chatting(database, monkeypatch, settings={"root_path": root}) as chat:
        make = LiveProxy if kind == SITE else Proxy
        proxy = make(folder / "proxy", kind, urlsplit(chat.url).port or 0, changes)
        headers = {"Authorization": f"Bearer {chat.key}"}
        try:
            async with httpx.AsyncClient(
                base_url=f"{proxy.url}{root}", headers=headers, verify=False, timeout=SECONDS, trust_env=False
            ) as client:
                yield chat, client
        finally:
            proxy.end()


def text_in(line: str) -> str:
    if not line.startswith("data: {"):
        return ""
    return "".join(choice["delta"].get("content") or "" for choice in json.loads(line[6:])["choices"])


async def streamed(chat: Chat, client: httpx.AsyncClient, *, release: bool = True) -> list[str]:
    """The texts of a streamed completion. The engine says two tokens, and more only when these have arrived, or not at
    all.

    Raises:
        httpx.ReadTimeout: they did not arrive while it waited.
    """
    (engine,) = chat.engines
    engine.hold_after = SAID_FIRST
    body = {"model": "live", "messages": [{"role": "user", "content": "Can I freeze rice?"}], "stream": True}
    found: list[str] = []
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            found += [text] if (text := text_in(line)) else []
            if len(found) == SAID_FIRST and release:
                engine.release.set()
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_said_arrives_before_more_is_said(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with behind(kind, tmp_path, monkeypatch) as (chat, client):
        found = await streamed(chat, client)
        assert len(found) > SAID_FIRST
        assert "".join(found) == text_of(chat.engines[0].requests[0])


if NGINX:

    async def test_a_proxy_that_holds_streams_back_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async with behind(SITE, tmp_path, monkeypatch, BUFFERING) as (chat, client):
            client.timeout = httpx.Timeout(2.0)
            with pytest.raises(httpx.ReadTimeout):
                await streamed(chat, client)

    async def test_a_proxy_that_does_not_wait_for_an_engine_cuts_the_stream(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with behind(SITE, tmp_path, monkeypatch, IMPATIENT) as (chat, client):
            with pytest.raises(httpx.RemoteProtocolError):
                await streamed(chat, client, release=False)

    @pytest.mark.parametrize("passes_on", [True, False])
    async def test_people_sign_in_where_the_proxy_says_how_it_was_asked(
        passes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        changes: Any = () if passes_on else (HEADERLESS,)
        async with behind(SITE, tmp_path, monkeypatch, *changes) as (chat, client):
            origin = str(client.base_url).rstrip("/")
            answer = await client.post("/sign-in", data={"key": chat.key}, headers={"Origin": origin})
            assert (answer.status_code == 303) is passes_on, answer.text


def test_the_proxy_is_as_patient_as_the_gateway_with_its_engines() -> None:
    (patience,) = re.findall(r"proxy_read_timeout (\d+)s;", (DEPLOYED / SITE).read_text())
    assert float(patience) >= 4 * READ_SECONDS, "one engine after the other may be silent"
