"""Chat completions as OpenAI's clients know them, errors included."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

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

_UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
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
    for status in (400, 401, 403, 404, 409, 413, 429, 500, 503)
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
                if fault["type"] == "json_invalid":
                    return _error(400, "The body is not JSON.")
                parts = [part for part in fault["loc"][1:] if not isinstance(part, str) or "[" not in part]
                where, what = ".".join(map(str, parts)), fault["msg"].removeprefix("Value error, ")
                return _error(400, f"{where}: {what}" if where else what, where or None)
            except HTTPException as problem:  # of the framework too: a body that is no text
                return openai_error(problem)
            except (Missing, Conflict, StoreUnavailable, Refused, Unavailable) as refusal:
                return _refusal(refusal)

        return told


router = APIRouter(tags=["chat"], route_class=OpenAIRoute)


COMPLETIONS = "/chat/completions"


def openai_error(problem: HTTPException) -> JSONResponse:
    """A problem in OpenAI's shape."""
    return _error(problem.status_code, str(problem.detail), headers=dict(problem.headers or {}))


@router.post(
    COMPLETIONS,
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
    if body.stream and first.kind != "error":
        return _Stream(_lines(body, gateway.run, first, reply), reply.events)
    last = first
    async for event in reply.events:
        last = event
    return _refusal(last.error) if last.answer is None else JSONResponse(last.answer)


@router.get("/models", responses={status: ERRORS[status] for status in (401, 403, 404, 429, 503)})
async def models(service: Service, caller: Chat) -> ModelsOut:
    """The model of the endpoint."""
    gateway = _gateway(service)
    own = [ModelOut(id=gateway.run, created=0)] if caller.sees(gateway.run) else []
    return ModelsOut(data=own)


class _Stream(StreamingResponse):
    """Server-sent events. However the response ends, the work that it tells of hears so."""

    def __init__(self, lines: AsyncIterator[str], events: AsyncGenerator[Event]) -> None:
        super().__init__(lines, media_type="text/event-stream", headers=_UNBUFFERED)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, until it ends or the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


async def _lines(body: ChatIn, model: str, first: Event, reply: Reply) -> AsyncIterator[str]:
    """The chunks of a stream. Where one says that a choice has ended, the answer is on disk.

    Who never heard of duels gets no chunk without choices, unless they ask for the usage: many read the first choice of
    every chunk. For them ``sea`` is in the last chunk of a choice.
    """
    head = {"id": reply.id, "object": "chat.completion.chunk", "created": reply.created, "model": model}
    begun: set[int] = set()
    event: Event | None = first
    while event is not None:
        if event.kind == "text":
            for index in range(event.index):  # OpenAI's helper for streams expects choices to begin in their order
                if index not in begun:
                    yield _chunk(head, [_choice(begun, index, {})])
            yield _chunk(head, [_choice(begun, event.index, {"content": event.text})])
        elif event.answer is not None:
            for line in _ends(body, head, begun, event.answer):
                yield line
        else:
            yield f"data: {json.dumps(_refusal_body(event.error))}\n\n"
        event = await anext(reply.events, None)


def _ends(body: ChatIn, head: dict[str, Any], begun: set[int], answer: dict[str, Any]) -> Iterator[str]:
    """The last chunks of a stream."""
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    last: dict[str, Any] = {"sea": answer["sea"]} | ({"usage": answer["usage"]} if with_usage else {})
    has_own = with_usage or body.sea.duel == "allow"
    for choice in answer["choices"]:
        ending = _choice(begun, choice["index"], {}, choice["finish_reason"])
        is_last = not has_own and choice is answer["choices"][-1]
        yield _chunk(head, [ending], **(last if is_last else {}))
    if has_own:
        yield _chunk(head, [], **last)
    yield "data: [DONE]\n\n"


def _choice(begun: set[int], index: int, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    """A piece of a choice; the first one of it names the role."""
    if index not in begun:
        begun.add(index)
        delta = {"role": "assistant", "content": ""} | delta
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


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


def _refusal_body(error: Exception | None) -> dict[str, Any]:
    return dict(json.loads(bytes(_refusal(error).body)))


def _error(status: int, message: str, param: str | None = None, headers: dict[str, str] | None = None) -> JSONResponse:
    error = {"message": message, "type": _KINDS.get(status, "server_error"), "param": param, "code": None}
    return JSONResponse({"error": error}, status, headers)
