"""What users say of completions, and what an app may do for its users."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import Connection

from sea_agent.service import erasing
from sea_agent.service.auth import Caller, Chat
from sea_agent.service.schemas.live import (
    AsksIn,
    AsksOut,
    ChoiceIn,
    CompletionId,
    EditIn,
    FeedbackKind,
    FeedbackOut,
    ThumbsIn,
    UsedIn,
    User,
    UserErasedOut,
)
from sea_agent.service.state import Service, State
from sea_agent.service.store import feedback as store
from sea_agent.service.store import live_runs
from sea_agent.service.store.faults import Missing
from sea_agent.service.store.feedback import Given, Giver
from sea_agent.web.problems import Responses, documented
from sea_agent.web.signals import Topic, log

router = APIRouter(tags=["feedback"])

_PUT: Any = {
    "status_code": 201,
    "responses": {200: {"model": FeedbackOut, "description": "It was there already, or corrects what was"}}
    | documented(404, 409),
}
_UNKNOWN: Responses = documented(404)


@router.put("/feedback/{completion}/choice", **_PUT)
async def choose(
    completion: CompletionId, body: ChoiceIn, service: Service, caller: Chat, response: Response
) -> FeedbackOut:
    """Say which response of a duel is better. Another choice later corrects this one; a late one still counts."""
    return await _put(service, caller, response, completion, "choice", body.model_dump())


@router.put("/feedback/{completion}/thumbs", **_PUT)
async def thumb(
    completion: CompletionId, body: ThumbsIn, service: Service, caller: Chat, response: Response
) -> FeedbackOut:
    """Say whether a response is good. Nothing is trained on it; it is exported."""
    return await _put(service, caller, response, completion, "thumbs", body.model_dump())


@router.put("/feedback/{completion}/edit", **_PUT)
async def edit(
    completion: CompletionId, body: EditIn, service: Service, caller: Chat, response: Response
) -> FeedbackOut:
    """Say how the response should have been."""
    return await _put(service, caller, response, completion, "edit", body.model_dump())


@router.put("/feedback/{completion}/used", **_PUT)
async def use(
    completion: CompletionId, body: UsedIn, service: Service, caller: Chat, response: Response
) -> FeedbackOut:
    """Say whether the user took the response."""
    return await _put(service, caller, response, completion, "used", body.model_dump())


@router.put("/users/{user:path}/asks", responses=_UNKNOWN)
async def set_asks(user: User, body: AsksIn, service: Service, caller: Chat) -> AsksOut:
    """Ask a user no more, or again."""
    owner = _owner(caller)

    def write(connection: Connection) -> None:
        reached = live_runs.reached(connection, caller.runs)
        hashes = {run.run: live_runs.hashed(run.secret, user) for run in reached}
        theirs = {r: h for r, h in hashes.items() if not live_runs.is_of_others(connection, r, h, owner)}
        if not theirs:
            raise Missing("There is no live run for this key, or the user is another key's.")
        for run, user_hash in theirs.items():
            live_runs.set_asks(connection, run, user_hash, body.asks)

    await service.database.write(write)
    return AsksOut(asks=body.asks)


@router.delete("/users/{user:path}", responses=_UNKNOWN)
async def erase_user(user: User, service: Service, caller: Chat) -> UserErasedOut:
    """Erase all that is kept of a user: of what this key asked for them, or with an admin key everything. Counts stay.

    It cannot be undone. Weights that learnt from them cannot forget; the answer names them.
    """
    erased, left = await erasing.user(service, user, _owner(caller), caller.runs)
    return UserErasedOut(completions=erased.completions, answers=erased.answers, versions=erased.versions, left=left)


def _owner(caller: Caller) -> str | None:
    """Whose users a caller may speak for; None: everybody's."""
    return None if caller.may("admin") else caller.owner


async def _put(
    service: State, caller: Caller, response: Response, completion: str, kind: FeedbackKind, body: dict[str, Any]
) -> FeedbackOut:
    giver = Giver(caller.owner, caller.name, caller.runs, caller.may("admin"))
    put = partial(store.put, completion_id=completion, kind=kind, body=body, giver=giver, now=service.now())
    given = await service.database.write(put, wake=_grown)
    response.status_code = 201 if given.state == "new" else 200
    if given.state != "same":
        service.metrics.feedback.labels(kind).inc()
    if given.entry is not None:
        service.metrics.labels.labels(given.entry).inc()
    return FeedbackOut(completion=completion, kind=kind, state=given.state, late=given.late, at=given.at)


def _grown(given: Given) -> list[Topic]:
    return [log(given.run)] if given.entry is not None else []
