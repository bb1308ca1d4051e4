"""The REST routes of live mode as its pages see them, with answers that a test chooses."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from sea_agent.service.auth import Caller, Reader, Requires
from sea_agent.service.schemas.live import PublicationsOut, SummaryOut
from sea_agent.web.problems import Problem

Chatter = Annotated[Caller, Depends(Requires("chat"))]


@dataclass
class Reply:
    """How a message is answered: with one text, or with two that make a duel."""

    texts: tuple[str, ...] = ("An answer.",)
    hold: int | None = None
    """The piece before which it waits for ``go``."""
    cut: int | None = None
    """The piece before which the connection breaks."""
    error: dict[str, Any] | None = None
    """An error in OpenAI's shape, which comes after the pieces."""
    refuse: tuple[int, dict[str, Any], dict[str, str]] | None = None
    """Status, body and headers instead of an answer."""
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def pieces(self) -> list[tuple[int, str]]:
        """Which choice goes on with what, word by word: the first, then the second."""
        return [(k, piece) for k, text in enumerate(self.texts) for piece in text.replace(" ", " \0").split("\0")]


@dataclass
class LiveRoutes:
    """What the service was asked and told, and what it answers next."""

    replies: list[Reply] = field(default_factory=list)
    asked: dict[str, tuple[dict[str, Any], str, Reply]] = field(default_factory=dict)
    """By idempotency key: the body, the completion, and how it is answered."""
    requests: list[str] = field(default_factory=list)
    """The idempotency key of every request for a completion, in order."""
    wishes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Every PUT: path, body."""
    feedback: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    """By completion and kind, what was said: a repetition is not noted again."""
    asks: dict[str, bool] = field(default_factory=dict)
    summary: dict[str, Any] | None = None
    """Where it is given, what operators are told in place of what the store has."""
    publications: list[dict[str, Any]] = field(default_factory=list)

    def mount(self, app: FastAPI) -> None:
        """Answer in place of the service's own routes, if it has them."""
        router = APIRouter(prefix="/v1")
        self._add_chat(router)
        self._add_feedback(router)
        app.router.routes[:0] = router.routes

    def tell(self, app: FastAPI, summary: dict[str, Any], publications: list[dict[str, Any]]) -> None:
        """Tell operators this, whatever the store has."""
        router = APIRouter(prefix="/v1")
        self._add_operating(router)
        app.router.routes[:0] = router.routes
        self.summary, self.publications = summary, publications

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What was asked, each once."""
        return [body for body, _, _ in self.asked.values()]

    def _add_chat(self, router: APIRouter) -> None:
        @router.post("/chat/completions")
        async def complete(request: Request, caller: Chatter, idempotency_key: Annotated[str, Header()]) -> Response:
            body = await request.json()
            self.requests.append(idempotency_key)
            if idempotency_key in self.asked:
                earlier, completion, reply = self.asked[idempotency_key]
                if earlier != body:
                    raise Problem(409, "This Idempotency-Key came with another body.")
                reply = Reply(reply.texts)  # kept: it comes whole
            else:
                reply = self.replies.pop(0) if self.replies else Reply()
                if reply.refuse is not None:
                    status, answer, headers = reply.refuse
                    return JSONResponse(answer, status, headers)
                completion = f"chatcmpl-{len(self.asked):x}"
                self.asked[idempotency_key] = (body, completion, reply)
            return StreamingResponse(_stream(completion, reply), media_type="text/event-stream")

    def _add_feedback(self, router: APIRouter) -> None:
        @router.put("/feedback/{completion}/{kind}")
        async def say(request: Request, completion: str, kind: str, caller: Chatter, response: Response) -> Any:
            body = await request.json()
            self.wishes.append((f"{completion}/{kind}", body))
            if completion not in {found for _, found, _ in self.asked.values()}:
                raise Problem(404, f"There is no completion {completion}.")
            said = self.feedback.setdefault((completion, kind), [])
            state = "new" if not said else "same" if said[-1] == body else "corrected"
            if state != "same":
                said.append(body)
            response.status_code = 201 if state == "new" else 200
            return {"completion": completion, "kind": kind, "state": state, "late": False, "at": "2027-01-15T08:00:00Z"}

        @router.put("/users/{user}/asks")
        async def asks(request: Request, user: str, caller: Chatter) -> Any:
            body = await request.json()
            self.wishes.append((f"{user}/asks", body))
            self.asks[user] = body["asks"]
            return body

    def _add_operating(self, router: APIRouter) -> None:
        @router.get("/live/{run}/summary")
        async def summary(run: str, caller: Reader) -> SummaryOut:
            return SummaryOut.model_validate(self.summary)

        @router.get("/live/{run}/publications")
        async def publications(run: str, caller: Reader) -> PublicationsOut:
            return PublicationsOut.model_validate({"publications": self.publications})


async def _stream(completion: str, reply: Reply) -> AsyncIterator[str]:
    def event(**values: Any) -> str:
        chunk = {"id": completion, "object": "chat.completion.chunk", "created": 1, "model": "live", **values}
        return f"data: {json.dumps(chunk)}\n\n"

    for place, (index, piece) in enumerate(reply.pieces()):
        if place == reply.hold:
            await reply.go.wait()
        if place == reply.cut:
            raise ConnectionError("as when the service is killed")
        yield event(choices=[{"index": index, "delta": {"content": piece}, "finish_reason": None}])
    if reply.error is not None:
        yield f"data: {json.dumps({'error': reply.error})}\n\n"
        return
    for index in range(len(reply.texts)):
        yield event(choices=[{"index": index, "delta": {}, "finish_reason": "stop"}])
    duel = {"id": f"qry-{completion}", "expires_at": "2027-01-16T08:00:00.000Z"} if len(reply.texts) > 1 else None
    yield event(choices=[], sea={"policy_version": 3, "duel": duel})
    yield "data: [DONE]\n\n"
