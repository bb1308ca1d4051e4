"""The engines and the decider as the gateway calls them: over HTTP, with deadlines, and the next one when one dies.

A response that was begun on an engine that dies is continued on another one from the tokens that were sent.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

logger = logging.getLogger(__name__)

Line = dict[str, Any]

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
"""Longest wait for the next bytes."""
LINE_BYTES = 2**22
"""Longest line of an engine; the first one has the prompt and its tokens."""

_FAULTS = (aiohttp.ClientError, OSError, TimeoutError, ValueError, LookupError, TypeError, RecursionError)
"""What an engine or a decider that fails, or says what nobody understands, leads to here."""


class Refused(Exception):
    """The engine refuses the prompt: what is wrong with it, in words."""


class Unavailable(Exception):
    """No engine answers."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the policy reads it. ``last_only``: it is the last message of the conversation, and no more."""

    text: str
    token_ids: tuple[int, ...]
    last_only: bool


@dataclass(slots=True)
class Whole:
    """A response as far as it has come. ``version`` is the oldest among those of its tokens, and ``ended_at`` when it
    was complete, by the loop's clock."""

    token_ids: list[int]
    logprobs: list[float]
    version: int | None = None
    text: str = ""
    finish: str | None = None
    prompt: Prompt | None = None
    ended_at: float | None = None

    def add(self, line: Line) -> None:
        """Take in a line of the engine: the whole of it or, with an exception, nothing."""
        if "prompt" in line:
            read = line["prompt"]
            prompt = Prompt(str(read["text"]), tuple(read["token_ids"]), bool(read["last_only"]))
            self.prompt = self.prompt or prompt
        elif "finish" in line:
            if self.prompt is None:
                raise ValueError("it ended a response without a prompt")
            self.finish = str(line["finish"])
        else:
            text, version = str(line["text"]), int(line["version"])
            tokens, logprobs = list(line["token_ids"]), list(line["logprobs"])
            if len(tokens) != len(logprobs):
                raise ValueError(f"it sent {len(tokens)} tokens with {len(logprobs)} log-probabilities")
            self.text += text
            self.token_ids += tokens
            self.logprobs += logprobs
            self.version = version if self.version is None else min(self.version, version)


class Said(BaseModel):
    """What the decider says: the pair that is worth a choice, if any, whether it is the first two samples as they came,
    which response is best, and what a label of the pair would tell."""

    model_config = ConfigDict(frozen=True)

    pair: tuple[StrictInt, StrictInt] | None
    best: StrictInt
    information: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    regret_first: Annotated[float, Field(allow_inf_nan=False)] | None = None
    regret_best: Annotated[float, Field(allow_inf_nan=False)] | None = None
    regret_pair: Annotated[float, Field(allow_inf_nan=False)] | None = None
    as_sampled: bool = False
    trust: float = 0.0

    def require_sense(self, responses: int, shown: int | None) -> None:
        """Raises: ValueError when it speaks of other responses, or of a pair without what is ``shown``."""
        places = (self.best, *(self.pair or ()))
        if not all(0 <= place < responses for place in places):
            raise ValueError(f"it names one of {places} among {responses} responses")
        if self.pair is not None and shown not in (None, self.pair[0]):
            raise ValueError(f"it names {self.pair}, and {shown} is shown already")


class Engines:
    """All engines of a live run.

    Args:
        urls: where they are, as it is held when one is called; the last one is the canary's while there is one.
        token: the secret that they ask for.
    """

    def __init__(self, urls: Sequence[str], token: str) -> None:
        self._urls = urls
        self._turn = 0
        # A small policy has its first token within milliseconds; httpx adds .5 ms of CPU to a request, aiohttp .1.
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Authorization": f"Bearer {token}"},
            json_serialize=partial(json.dumps, ensure_ascii=False, allow_nan=False),
            read_bufsize=LINE_BYTES // 2,  # aiohttp reads lines of twice its buffer
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS),
        )

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()

    async def generate(self, body: Mapping[str, Any], whole: Whole, place: int | None = None) -> AsyncGenerator[Line]:
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
                error: Exception = ValueError("it ended a response without its last line")
            except _FAULTS as fault:
                error = fault
            if whole.finish is not None:
                whole.ended_at = asyncio.get_running_loop().time()
                return
            logger.error("engine %s failed: %s", url, _reason(error))
        raise Unavailable("No engine answers now; try again.")

    async def whole(self, body: Mapping[str, Any], place: int | None = None) -> Whole:
        """A response once it is complete. Raises: Refused, Unavailable."""
        response = Whole([], [])
        async with aclosing(self.generate(body, response, place)) as lines:
            async for _ in lines:
                pass
        return response

    async def decide(self, url: str, body: Mapping[str, Any], seconds: float) -> Said | None:
        """What the decider at ``url`` says of the responses; None if it says nothing in time, or nothing sensible."""
        try:
            async with asyncio.timeout(seconds):
                async with self._client.post(f"{url}/decide", json=body, allow_redirects=False) as answer:
                    answer.raise_for_status()
                    said = Said.model_validate(json.loads(await answer.read()))
            said.require_sense(len(body["responses"]), body["shown"])
        except _FAULTS as error:
            logger.error("the decider does not answer: %s", _reason(error))
            return None
        return said

    async def _lines(self, url: str, body: Mapping[str, Any]) -> AsyncGenerator[Line]:
        async with self._client.post(f"{url}/generate", json=body, allow_redirects=False) as answer:
            if answer.status == 422:
                raise Refused(str(json.loads(await answer.read())["detail"]))
            answer.raise_for_status()
            async for line in answer.content:
                yield json.loads(line)


def _reason(error: Exception) -> str:
    """In words, without texts of users: pydantic's messages have what was not understood."""
    return type(error).__name__ if isinstance(error, ValidationError) else str(error) or type(error).__name__
