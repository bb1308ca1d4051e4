"""A live engine: one policy behind HTTP, streamed to many at once, with weights that change under the streams.

    SEA_AGENT_LIVE_TOKEN=… python -m actors.live_engine SETTINGS.json

``GET /healthz``, ``GET /state``, ``POST /generate`` (one JSON line for each step), ``PUT /weights``, ``POST /score``.
All but the first ask for the token. Settings are those of ``EngineSettings``.
"""

import asyncio
import contextlib
import hmac
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import uvloop
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp, Receive, Scope, Send

from actors.live import (
    PATIENCE_SECONDS,
    GrowingText,
    LiveBackend,
    LiveRequest,
    Refused,
    check_request,
    is_whole,
    read_weights,
    rendered,
)
from sea_agent.config import PolicyConfig, SamplerConfig
from sea_agent.config.live import TOKEN
from sea_agent.config.section import read_settings as settings_in
from sea_agent.errors import RunFailure, UserError
from sea_agent.pretrained import use_threads
from sea_agent.web.listening import listen
from sea_agent.web.signals import Signals

_LOOK_SECONDS = 0.5
"""How often it is looked whether the back end still draws."""

TokenIds = tuple[Annotated[int, Field(ge=0)], ...]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineSettings(_Body):
    """What an engine serves, and where."""

    policy: PolicyConfig
    sampler: SamplerConfig = SamplerConfig()
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Annotated[int, Field(ge=1)] = 1
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8501
    initial: bool = False
    """Hold the initial policy too, frozen."""


class GenerateBody(_Body):
    """A response to stream."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    messages: list[Any] | None = None
    token_ids: TokenIds | None = None
    max_new_tokens: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    seed: int
    priority: Literal[0, 1] = 0
    stop_after: TokenIds = ()
    weights: Literal["live", "initial"] = "live"


class WeightsBody(_Body):
    """Weights to swap to."""

    path: str
    version: Annotated[int, Field(ge=0)]
    checksum: str


class ScoreBody(_Body):
    """Responses to score, as pairs of prompt and response."""

    rows: list[tuple[Annotated[TokenIds, Field(min_length=1)], Annotated[TokenIds, Field(min_length=1)]]]
    version: int


def make_app(backend: LiveBackend, token: str) -> FastAPI:
    """The engine's HTTP interface over a back end that is loaded."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.add_middleware(_OnlyWithToken, token=token)
    counts = {"swaps": 0, "responses": 0}
    # One thread, or each that ever read weights would keep a heap of their size.
    reading = ThreadPoolExecutor(1, thread_name_prefix="weights")

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _problem(422, f"{'.'.join(map(str, first['loc'][1:])) or 'body'}: {first['msg']}")

    @app.exception_handler(UserError)
    async def _(request: Request, error: UserError) -> JSONResponse:
        return _problem(422, str(error))

    @app.exception_handler(Refused)
    async def _(request: Request, error: Refused) -> JSONResponse:
        return _problem(409, str(error))

    @app.exception_handler(RunFailure)
    async def _(request: Request, error: RunFailure) -> JSONResponse:
        return _problem(503, str(error))

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        if backend.failure is not None:
            return _problem(503, f"it draws no more ({backend.failure})")
        return JSONResponse({"status": "ok"})

    @app.get("/state")
    async def state() -> dict[str, Any]:
        return {
            "version": backend.version,
            "checksum": backend.checksum,
            "backend": backend.name,
            "running": backend.running,
            "context": backend.context,
            **counts,
        }

    @app.post("/generate")
    async def generate(body: GenerateBody) -> StreamingResponse:
        text, request = _request(body, backend)
        check_request(request, backend)
        counts["responses"] += 1
        return StreamingResponse(_lines(request, text, backend), media_type="application/x-ndjson")

    @app.put("/weights")
    async def weights(body: WeightsBody) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        update = await loop.run_in_executor(reading, read_weights, body.path, body.version, body.checksum)
        begun = time.monotonic()
        await backend.load(update, body.path)
        counts["swaps"] += 1
        return {"version": update.version, "seconds": time.monotonic() - begun, "running": backend.running}

    @app.post("/score")
    async def score(body: ScoreBody) -> dict[str, Any]:
        for prompt, response in body.rows:
            if len(prompt) + len(response) > backend.context:
                raise UserError(f"rows: {len(prompt) + len(response)} tokens exceed the context of {backend.context}")
            if max(*prompt, *response) >= backend.vocabulary:
                raise UserError(f"rows: token {max(*prompt, *response)} is none of the policy's {backend.vocabulary}")
        return {"logprobs": await backend.score(body.rows, body.version)}

    return app


class _OnlyWithToken:
    """Answers 401 to who does not send the token. It stands before the app, so that nothing is read from them."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        if scope["path"] == "/healthz" or hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
        else:
            detail = f"this engine answers who sends Authorization: Bearer, with the value of {TOKEN}"
            await _problem(401, detail)(scope, receive, send)


def _request(body: GenerateBody, backend: LiveBackend) -> tuple[dict[str, Any], LiveRequest]:
    """The prompt as the policy reads it, and what is to be drawn.

    Raises:
        UserError: when there is no prompt, or none for this policy.
    """
    if (body.messages is None) == (body.token_ids is None):
        raise UserError("give either messages or token_ids")
    if body.messages is not None:
        text, prompt_ids, last_only = rendered(body.messages, backend.tokenizer)
    else:
        prompt_ids, last_only = body.token_ids or (), False
        text = backend.tokenizer.decode(prompt_ids, skip_special_tokens=True)
    return {"text": text, "token_ids": prompt_ids, "last_only": last_only}, LiveRequest(
        id=body.id,
        prompt_ids=prompt_ids,
        max_new_tokens=body.max_new_tokens,
        temperature=body.temperature,
        seed=body.seed,
        priority=body.priority,
        done=body.stop_after,
        initial=body.weights == "initial",
    )


async def _lines(request: LiveRequest, prompt: dict[str, Any], backend: LiveBackend) -> AsyncIterator[bytes]:
    """The lines of a stream. An error breaks the connection, so that nobody takes what came for the whole."""
    yield _line({"prompt": prompt})
    text, tokens, versions = GrowingText(backend.tokenizer, request.done), list(request.done), []
    async with contextlib.aclosing(backend.generate(request)) as source:
        async for step in source:
            tokens += step.token_ids
            delta = text.add(step.token_ids)
            if is_whole(tokens, request.max_new_tokens, backend.end_ids):
                delta += text.finish()
            if step.version not in versions:
                versions.append(step.version)
            line = {"text": delta, "token_ids": step.token_ids, "logprobs": step.logprobs, "version": step.version}
            yield _line(line)
    text.finish()  # where all tokens were sent before, and nothing came here
    finish = "stop" if tokens and tokens[-1] in backend.end_ids else "length"
    yield _line({"finish": finish, "versions": versions, "text": text.whole})


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False).encode() + b"\n"


def _problem(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status)


def make_backend(settings: EngineSettings) -> LiveBackend:
    """The configured back end, with the policy loaded.

    Raises:
        UserError: the policy cannot be loaded, or the back end is not installed.
    """
    use_threads(settings.threads)
    where: dict[str, Any] = {"device": settings.device, "threads": settings.threads, "initial": settings.initial}
    if settings.sampler.backend == "vllm":
        from actors.live_vllm import VllmLive  # vLLM loads only when used

        return VllmLive(settings.policy, settings.sampler, **where)
    from actors.live_hf import HfLive

    return HfLive(settings.policy, settings.sampler, **where)


async def serve(settings: EngineSettings, token: str, announce: Callable[[str], None]) -> None:
    """Load, then listen until SIGTERM or Ctrl-C.

    Raises:
        UserError: bad settings.
        RunFailure: the back end broke down.
    """
    backend = make_backend(settings)
    try:
        await backend.start()
        serving = asyncio.create_task(
            listen(make_app(backend, token), settings.host, settings.port, "/state", Signals(), announce)
        )
        while not serving.done() and backend.failure is None:
            await asyncio.wait([serving], timeout=_LOOK_SECONDS)
        if backend.failure is not None:
            serving.cancel()
            await asyncio.wait([serving], timeout=PATIENCE_SECONDS)
            raise RunFailure(f"live engine: the back end broke down ({backend.failure}). Start the engine again.")
        await serving
    finally:
        await backend.close()


def read_settings(path: str) -> EngineSettings:
    """Raises: UserError when the file cannot be read or holds no settings of an engine."""
    return settings_in(EngineSettings, Path(path), "a live engine")


def main() -> int:
    """The exit code: 0 after a signal, 1 when the engine broke down, 2 for bad settings."""
    try:
        if len(sys.argv) != 2:
            raise UserError("usage: python -m actors.live_engine SETTINGS.json")
        token = os.environ.get(TOKEN, "")
        if not token:
            raise UserError(f"{TOKEN} is not set. Set it to a secret that the engine's callers know.")
        uvloop.run(serve(read_settings(sys.argv[1]), token, lambda text: print(text, flush=True)))
    except (UserError, RunFailure) as error:
        print(f"live engine: {error}".replace("live engine: live engine:", "live engine:"), file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
