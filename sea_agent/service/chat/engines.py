"""The engines and the decider as the gateway calls them: over HTTP, with deadlines, and the next one when one dies.

A response that was begun on an engine that dies is continued on another one from the tokens that were sent.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

CONNECT_SECONDS = 5.0
LINE_SECONDS = 60.0
"""Longest wait for the next line of an engine."""

logger = logging.getLogger(__name__)

Line = dict[str, Any]


class Refused(Exception):
    """The engine refuses the prompt: what is wrong with it, in words."""


class Unavailable(Exception):
    """No engine answers."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the policy reads it."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(slots=True)
class Whole:
    """A response as far as it has come. ``version`` is the oldest among those of its tokens."""

    token_ids: list[int]
    logprobs: list[float]
    version: int | None = None
    text: str = ""
    finish: str | None = None
    prompt: Prompt | None = None

    def add(self, line: Line) -> None:
        """Take in a line of the engine."""
        if "prompt" in line:
            self.prompt = self.prompt or Prompt(line["prompt"]["text"], tuple(line["prompt"]["token_ids"]))
        elif "finish" in line:
            self.finish = line["finish"]
            self.text = line["text"]
        else:
            self.token_ids += line["token_ids"]
            self.logprobs += line["logprobs"]
            self.version = line["version"] if self.version is None else min(self.version, line["version"])


class Engines:
    """All engines of a live run.

    Args:
        urls: where they are; the last one is the canary's while there is one.
        token: the secret that they ask for.
        transport: for tests.
    """

    def __init__(self, urls: Sequence[str], token: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._urls = list(urls)
        self._turn = 0
        timeout = httpx.Timeout(LINE_SECONDS, connect=CONNECT_SECONDS)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        headers = {"Authorization": f"Bearer {token}"}
        self._client = httpx.AsyncClient(
            headers=headers, transport=transport, timeout=timeout, limits=limits, trust_env=False
        )

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def generate(self, body: Mapping[str, Any], whole: Whole, place: int | None = None) -> AsyncIterator[Line]:
        """The lines of a response, each taken in by ``whole`` before it is handed on.

        Args:
            body: of the engine's ``POST /generate``.
            place: which engine is tried first; None takes them in turn.

        Raises:
            Refused: the engine refuses the prompt.
            Unavailable: no engine could finish the response.
        """
        if place is None:
            self._turn += 1
            place = self._turn
        for step in range(len(self._urls)):
            url = self._urls[(place + step) % len(self._urls)]
            try:
                async with aclosing(self._lines(url, {**body, "stop_after": whole.token_ids})) as lines:
                    async for line in lines:
                        was_known = "prompt" in line and whole.prompt is not None
                        whole.add(line)
                        if not was_known:
                            yield line
                if whole.finish is not None:
                    return
                logger.error("engine %s ended a response without its last line", url)
            except (httpx.HTTPError, TimeoutError, ValueError, KeyError) as error:
                logger.error("engine %s failed: %s", url, str(error) or type(error).__name__)
        raise Unavailable("No engine answers now; try again.")

    async def whole(self, body: Mapping[str, Any], place: int | None = None) -> Whole:
        """A response once it is complete. Raises: Refused, Unavailable."""
        response = Whole([], [])
        async with aclosing(self.generate(body, response, place)) as lines:
            async for _ in lines:
                pass
        return response

    async def decide(self, url: str, body: Mapping[str, Any], seconds: float) -> dict[str, Any] | None:
        """What the decider at ``url`` says of the responses; None if it says nothing in time."""
        try:
            async with asyncio.timeout(seconds):
                answer = await self._client.post(f"{url}/decide", json=body)
            if answer.status_code == httpx.codes.OK and isinstance(said := answer.json(), dict):
                return said
            logger.error("the decider answered %d: %s", answer.status_code, answer.text[:200])
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            logger.error("the decider does not answer: %s", str(error) or type(error).__name__)
        return None

    async def _lines(self, url: str, body: Mapping[str, Any]) -> AsyncIterator[Line]:
        async with self._client.stream("POST", f"{url}/generate", json=body) as answer:
            if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
                raise Refused(str(json.loads(await answer.aread())["detail"]))
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line:
                    yield json.loads(line)
