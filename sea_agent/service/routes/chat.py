"""Chat completions as OpenAI's clients know them, errors included."""

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute

from sea_agent.service.auth import Chat
from sea_agent.service.chat.engines import Refused, Unavailable
from sea_agent.service.chat.flow import Event
from sea_agent.service.chat.gateway import Gateway, Reply
from sea_agent.service.routes.labels import IDEMPOTENCY_PATTERN
from sea_agent.service.schemas.chat import ChatIn, ChatOut, ModelOut, ModelsOut
from sea_agent.service.state import Service, State
from sea_agent.service.store.database import StoreUnavailable
from sea_agent.service.store.faults import Conflict, Missing
from sea_agent.web.problems import Problem

_KINDS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
_KINDS |= {409: "conflict_error", 413: "invalid_request_error", 422: "invalid_request_error", 429: "rate_limit_error"}
_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": "An error in OpenAI's shape", "content": {"application/json": {"schema": _SCHEMA}}}
    for status in (400, 401, 403, 404, 409, 413, 429, 503)
}


class OpenAIRoute(APIRoute):
    """A route whose errors have OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with its errors told as such clients expect."""
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as invalid:
                fault = invalid.errors()[0]
                where = ".".join(str(part) for part in fault["loc"][1:] if not isinstance(part, str) or "[" not in part)
                what = (
                    "The body is not JSON."
                    if fault["type"] == "json_invalid"
                    else fault["msg"].removeprefix("Value error, ")
                )
                return _error(400, f"{where}: {what}" if where else what, where or None)
            except Problem as problem:
                return _error(problem.status_code, str(problem.detail), headers=dict(problem.headers or {}))
            except (Missing, Conflict, StoreUnavailable, Refused, Unavailable) as refusal:
                return _refusal(refusal)

        return told


router = APIRouter(tags=["chat"], route_class=OpenAIRoute)


@router.post(
    "/chat/completions",
    response_model=ChatOut,
    responses=ERRORS | {200: {"content": {"text/event-stream": {}}, "description": "The completion, or its stream"}},
)
async def complete(
    body: ChatIn,
    service: Service,
    caller: Chat,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1, max_length=200, pattern=IDEMPOTENCY_PATTERN, description="New for each request; see docs."
        ),
    ] = None,
) -> Response:
    """Answer the last message of a conversation, by one response or ``n``; with ``sea.duel: allow`` perhaps by two, of
    which the user picks the better one."""
    gateway = _gateway(service)
    _require_model(gateway, caller.sees, body.model)
    reply = await gateway.reply(caller.owner, body, idempotency_key)
    first = await anext(reply.events)  # what is refused before it begins has a status of its own
    if first.kind == "error":
        assert first.error is not None
        raise first.error
    if body.stream:
        lines = _stream(body, gateway.run, first, reply)
        return StreamingResponse(lines, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
    answer = first.answer
    async for event in reply.events:
        if event.kind == "error":
            assert event.error is not None
            raise event.error
        answer = event.answer
    return JSONResponse(answer)


@router.get("/models", responses={status: ERRORS[status] for status in (401, 403, 429)})
async def models(service: Service, caller: Chat) -> ModelsOut:
    """The model of the endpoint."""
    gateway = _gateway(service)
    own = [ModelOut(id=gateway.run, created=0)] if caller.sees(gateway.run) else []
    return ModelsOut(data=own)


async def _stream(body: ChatIn, model: str, first: Event, reply: Reply) -> AsyncIterator[str]:
    """The chunks of a stream. What is in its last one is on disk."""
    head = {"id": reply.id, "object": "chat.completion.chunk", "created": reply.created, "model": model}
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    begun: set[int] = set()
    event: Event | None = first
    while event is not None:
        if event.kind in ("text", "end"):
            delta: dict[str, Any] = {"content": event.text} if event.kind == "text" else {}
            if event.index not in begun:
                begun.add(event.index)
                delta = {"role": "assistant", "content": ""} | delta
            reason = ("length" if event.text == "length" else "stop") if event.kind == "end" else None
            yield _chunk(head, [{"index": event.index, "delta": delta, "logprobs": None, "finish_reason": reason}])
        elif event.kind == "done" and event.answer is not None:
            answer = event.answer
            yield _chunk(head, [], sea=answer["sea"])
            if with_usage:
                yield _chunk(head, [], usage=answer["usage"])
            yield "data: [DONE]\n\n"
        else:
            yield f"data: {_refusal(event.error).body.decode()}\n\n"
        event = await anext(reply.events, None)


def _chunk(head: dict[str, Any], choices: list[dict[str, Any]], **more: Any) -> str:
    return f"data: {json.dumps(head | {'choices': choices} | more, ensure_ascii=False)}\n\n"


def _gateway(service: State) -> Gateway:
    if service.gateway is None:
        raise Problem(404, "This service has no live mode; start it with `sea-agent live`.")
    return service.gateway


def _require_model(gateway: Gateway, sees: Callable[[str], bool], model: str) -> None:
    if model != gateway.run or not sees(model):
        raise Problem(404, f"There is no model {model!r} for this key; GET /v1/models names what there is.")


def _refusal(error: Exception | None) -> JSONResponse:
    match error:
        case Refused():
            return _error(400, str(error), "messages")
        case Missing():
            return _error(404, str(error))
        case Conflict():
            return _error(409, str(error))
        case Unavailable() | StoreUnavailable():
            return _error(503, str(error), headers={"Retry-After": "1"})
    return _error(500, "The service failed; its log says more.")


def _error(status: int, message: str, param: str | None = None, headers: dict[str, str] | None = None) -> JSONResponse:
    error = {"message": message, "type": _KINDS.get(status, "server_error"), "param": param, "code": None}
    return JSONResponse({"error": error}, status, headers)
