"""A client of one model behind an OpenAI-compatible endpoint: sends questions, retries within limits, counts the cost.

The key is read from the environment and used only in the request header. Responses are untrusted: they are validated
against a schema, and no message or log line repeats them, except the reason for rejecting a request in
``Rejected.detail``.
"""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import count
from typing import Annotated, Any, NoReturn, cast
from urllib.parse import urlsplit

from openai import APIConnectionError, APIStatusError, AsyncOpenAI, omit
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential, wait_random

from oracle.llm_question import RESPONSE_FORMATS, Messages, Unusable
from sea_agent.config import LlmJudgeOracleConfig
from sea_agent.errors import UserError
from sea_agent.web.addresses import is_loopback

KEY = "SEA_AGENT_JUDGE_KEY"
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 8.0
_BUSY = (408, 409, 429)
_DETAIL_LETTERS = 300

Complete = Callable[[Messages], Awaitable[str]]


class Unavailable(Exception):
    """The endpoint does not answer or is temporarily unable to."""


class Late(Unavailable):
    """No time was left to ask."""


class Refused(Exception):
    """The endpoint will answer nothing until the user acts. The message gives the remedy."""


class Rejected(Unusable):
    """The endpoint rejected this request. ``detail`` is the reason it gives."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.detail = detail


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Reply(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: NonNegativeInt
    completion_tokens: NonNegativeInt


class _Completion(BaseModel):
    choices: Annotated[list[_Reply], Field(min_length=1)]
    usage: _Usage | None = None


class Endpoint:
    """Counts ``requests``, how many of them were ``retries``, and the reported ``tokens_in`` and ``tokens_out``."""

    def __init__(self, config: LlmJudgeOracleConfig) -> None:
        self._config = config
        self._key = _key(config)
        self.requests = self.retries = self.tokens_in = self.tokens_out = 0
        self._quiet_until = 0.0

    @property
    def spend(self) -> float | None:
        """The price of all tokens so far; None without prices."""
        prices = (self._config.price_per_million_input, self._config.price_per_million_output)
        if prices[0] is None or prices[1] is None:
            return None
        return (self.tokens_in * prices[0] + self.tokens_out * prices[1]) / 1e6

    @asynccontextmanager
    async def open(self, seconds: float) -> AsyncIterator[Complete]:
        """A function that returns the model's reply to messages and sends nothing after ``seconds``.

        It raises ``Unavailable`` when the endpoint does not answer in time, ``Refused`` when waiting cannot help, and
        ``Unusable`` when there is no valid reply.
        """
        # No client retries: they ignore our deadline, and each request would honour Retry-After for itself alone.
        client = AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._config.url,
            timeout=self._config.timeout_seconds,
            max_retries=0,
        )
        end = time.monotonic() + seconds
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Unavailable),
            wait=wait_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE) + wait_random(0.0, FIRST_PAUSE),
            stop=partial(_is_late, end),
            reraise=True,
        )
        async with client:
            yield lambda messages: retrying(self._once, client, messages, end, count())

    async def _once(self, client: AsyncOpenAI, messages: Messages, end: float, attempts: Iterator[int]) -> str:
        await self._rest(end)
        self._refuse_to_overspend()
        self.requests += 1
        self.retries += next(attempts) > 0
        config = self._config
        try:
            # The client's own timeout restarts with every byte received.
            async with asyncio.timeout(config.timeout_seconds):
                raw = await client.chat.completions.with_raw_response.create(
                    model=config.model,
                    messages=cast(Any, messages),
                    response_format=cast(Any, RESPONSE_FORMATS[config.response_format]),
                    temperature=omit if config.temperature is None else config.temperature,
                    seed=omit if config.seed is None else config.seed,
                    max_completion_tokens=config.max_tokens,
                )
        except TimeoutError:
            raise Unavailable(f"no answer within {config.timeout_seconds:g} s") from None
        except APIConnectionError as error:
            raise Unavailable(f"no connection ({type(error.__cause__).__name__})") from None
        except APIStatusError as error:
            self._complain(error)
        return self._reply(raw.text)

    async def _rest(self, end: float) -> None:
        """Wait as long as the endpoint requested. Raises: Unavailable if that is too long, Late after ``end``."""
        while (now := time.monotonic()) < min(self._quiet_until, end):
            await asyncio.sleep(min(self._quiet_until, end) - now)
        if now < self._quiet_until:
            raise Unavailable("it asks to wait for longer")
        if now >= end:
            raise Late

    def _refuse_to_overspend(self) -> None:
        limit = self._config.spend_limit
        if limit is not None and self.spend is not None and self.spend >= limit:
            raise Refused(
                f"oracle.spend_limit={limit:g}: the judge has cost {self.spend:.4g} since the start. Raise the limit, "
                "or resume with the same one: it applies to each start separately."
            )

    def _complain(self, error: APIStatusError) -> NoReturn:
        """Raise the exception for a status. Messages repeat nothing from the endpoint except its error code."""
        config, status = self._config, error.status_code
        if status in (401, 403):
            raise Refused(
                f"{KEY}: the endpoint {config.url} refuses this key (status {status}). Set one that may use the model."
                if self._key
                else f"{KEY} is not set, and the endpoint {config.url} asks for a key (status {status})."
            ) from None
        if status == 404:
            raise Refused(
                f"oracle.model={config.model}: the endpoint {config.url} has no such model, or is at another address "
                "(status 404). oracle.url ends where /chat/completions begins, usually with /v1."
            ) from None
        code = f" {error.code}" if re.fullmatch(r"[a-z]\w{1,60}", error.code or "") and error.code != self._key else ""
        if status in _BUSY or status >= 500:
            self._quiet_until = max(self._quiet_until, time.monotonic() + _retry_after(error))
            raise Unavailable(f"status {status}{code}") from None
        raise Rejected(f"the request was rejected with status {status}{code}", self._detail(error)) from None

    def _detail(self, error: APIStatusError) -> str:
        message = error.body.get("message") if isinstance(error.body, dict) else None
        text = " ".join(str(message or "").split())
        return (text.replace(self._key, "…") if self._key else text)[:_DETAIL_LETTERS]

    def _reply(self, body: str) -> str:
        try:
            completion = _Completion.model_validate_json(body)
        except ValidationError:
            raise Unusable("it is not a chat completion") from None
        self._count(completion.usage)
        reply = completion.choices[0]
        if reply.finish_reason == "length":
            raise Unusable(f"it does not end within oracle.max_tokens={self._config.max_tokens}")
        if reply.message.refusal or reply.finish_reason == "content_filter":
            raise Unusable("the model refuses to answer")
        return reply.message.content or ""

    def _count(self, usage: _Usage | None) -> None:
        if usage is not None:
            self.tokens_in += usage.prompt_tokens
            self.tokens_out += usage.completion_tokens
        elif self.spend is not None:
            raise Refused(
                f"oracle.url={self._config.url}: the endpoint does not say how many tokens it used, so the cost "
                "cannot be counted. Remove the prices and oracle.spend_limit."
            )


def _key(config: LlmJudgeOracleConfig) -> str:
    key = os.environ.get(KEY, "")
    if not key and not is_loopback(urlsplit(config.url).hostname or ""):
        raise UserError(
            f"oracle.kind=llm_judge: {KEY} is not set. Put the key of {config.url} into the environment; only an "
            "endpoint on this machine may be used without one."
        )
    if not key.isascii() or not key.isprintable():
        raise UserError(f"{KEY}: holds a line break or another invalid character")
    return key


def _is_late(end: float, state: RetryCallState) -> bool:
    return time.monotonic() + state.upcoming_sleep >= end


def _retry_after(error: APIStatusError) -> float:
    """The Retry-After header, seconds or a date (RFC 9110, section 10.2.3), in seconds; 0 if there is none."""
    text = error.response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,6}(\.\d+)?", text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if date.tzinfo is None:  # -0000, and old forms of a date: all are UTC
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - time.time())
