"""What the agent reads of a live run and publishes to it."""

import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import Row

from sea_agent.data.encoders import JsonLines
from sea_agent.service.auth import Experiment, Reader
from sea_agent.service.schemas.base import LARGEST_INTEGER, RunId, iso
from sea_agent.service.schemas.live import (
    ErasedOut,
    LiveDuelOut,
    LiveDuelsOut,
    LivePromptOut,
    LivePromptsOut,
    LiveRunOut,
    PublicationChangeIn,
    PublicationIn,
    PublicationOut,
    PublicationsOut,
    Version,
)
from sea_agent.service.state import Service
from sea_agent.service.store import implicit, live_log, live_runs, publications
from sea_agent.service.store.database import Database
from sea_agent.service.store.publications import Status
from sea_agent.web.problems import Responses, documented
from sea_agent.web.signals import publishing

PAGE = 200
"""Rows of an export that are held in memory at once."""

Page = Callable[..., list[Row]]
"""Reads rows of a run ``after`` a number, up to a ``limit``."""

router = APIRouter(tags=["live mode"])

After = Annotated[int, Query(ge=0, le=LARGEST_INTEGER)]
Limit = Annotated[int, Query(ge=1, le=500)]
_PUBLISHED: Responses = {200: {"model": PublicationOut, "description": "They were published already"}}
_FILE: Responses = {200: {"description": "The file", "content": {JsonLines.media_type: {"schema": {"type": "string"}}}}}


@router.get("/live/{run}", responses=documented(404))
async def get_live(run: RunId, service: Service, caller: Reader) -> LiveRunOut:
    """Which versions serve, and who may change that."""
    return status_out(await service.database.read(partial(publications.status, run=run)))


@router.get("/live/{run}/duels", responses=documented(404))
async def get_duels(
    run: RunId, service: Service, caller: Experiment, after: After = 0, limit: Limit = 100
) -> LiveDuelsOut:
    """A page of the duels that users were asked, in that order; their answers are in the label log."""
    rows = await service.database.read(partial(live_log.duels, run=run, after=after, limit=limit))
    return LiveDuelsOut(duels=[LiveDuelOut(**row) for row in rows], next_after=rows[-1]["number"] if rows else after)


@router.get("/live/{run}/prompts", responses=documented(404))
async def get_prompts(
    run: RunId,
    service: Service,
    caller: Experiment,
    after: After | None = None,
    heldout: bool = False,
    limit: Limit = 100,
) -> LivePromptsOut:
    """Conversations that are stored, each once, up to its newest answered request: the newest ones, or those after a
    number. Nothing learns from those that are ``heldout``."""
    wanted = partial(live_log.prompts, run=run, after=after, heldout=heldout, limit=limit)
    rows = await service.database.read(wanted)
    reached = rows[-1]["number"] if rows else after or 0
    return LivePromptsOut(prompts=[LivePromptOut(**row) for row in rows], next_after=reached)


@router.get("/live/{run}/erased", responses=documented(404))
async def get_erased(run: RunId, service: Service, caller: Experiment, after: After = 0) -> ErasedOut:
    """Completions whose texts were erased, so that whoever has them forgets them too."""
    erased = await service.database.read(partial(live_log.erased, run=run, after=after))
    return ErasedOut(completions=list(erased.completions), next_after=erased.next_after, erasures=erased.erasures)


@router.get("/live/{run}/thumbs", response_class=StreamingResponse, responses=_FILE | documented(404))
async def get_thumbs(run: RunId, service: Service, caller: Reader) -> StreamingResponse:
    """Thumbs as rows of TRL's format for KTO: ``prompt``, ``completion``, ``label``. Held-out conversations, audits and
    erased texts are left out."""
    return await _file(service.database, run, "thumbs", live_log.thumbs, _kto)


@router.get("/live/{run}/implicit", response_class=StreamingResponse, responses=_FILE | documented(404))
async def get_implicit(run: RunId, service: Service, caller: Reader) -> StreamingResponse:
    """Duels that nobody answered and of which the conversation went on with one side, as rows of TRL's format for
    preferences: ``prompt``, ``chosen``, ``rejected``; ``side`` is where the chosen one was shown. Audits and erased
    texts are left out."""
    return await _file(service.database, run, "implicit", implicit.listed, _preference)


@router.get("/live/{run}/publications", responses=documented(404))
async def list_publications(
    run: RunId, service: Service, caller: Reader, before: After | None = None, limit: Limit = 100
) -> PublicationsOut:
    """Published weights, the newest first."""
    rows = await service.database.read(partial(publications.listed, run=run, before=before, limit=limit))
    return PublicationsOut(publications=[publication_out(row) for row in rows])


@router.post(
    "/live/{run}/publications",
    status_code=201,
    responses=_PUBLISHED | documented(404),
)
async def publish(
    run: RunId, body: PublicationIn, service: Service, caller: Experiment, response: Response
) -> PublicationOut:
    """Offer weights; they get a version that no others had or will have, and serve when they are made live."""
    offer = partial(publications.offer, run=run, given=body.model_dump(), now=service.now())
    row, new = await service.database.write(offer)
    response.status_code = 201 if new else 200
    return publication_out(row)


@router.patch("/live/{run}/publications/{version}", responses=documented(404, 409))
async def decide(
    run: RunId, version: Version, body: PublicationChangeIn, service: Service, caller: Experiment
) -> PublicationOut:
    """Let weights be a canary, go live, be rejected, or be taken back, and say why."""
    given = body.model_dump(exclude_none=True)
    change = partial(publications.change, run=run, version=version, given=given, now=service.now())
    return publication_out(await service.database.write(change, wake=lambda _: [publishing(run)]))


def publication_out(row: Row) -> PublicationOut:
    """A publication as it is told."""
    return PublicationOut(**row._asdict() | {"report": json.loads(row.report)})


def status_out(status: Status) -> LiveRunOut:
    """What serves, as it is told."""
    return LiveRunOut(**{name: getattr(status, name) for name in Status.__slots__})


async def _file(database: Database, run: str, name: str, page: Page, told: Callable[[Row], Any]) -> StreamingResponse:
    """An export of JSON lines."""
    await database.read(partial(live_runs.get, run=run))
    headers = {"Content-Disposition": f'attachment; filename="{run}-{name}.jsonl"'}
    return StreamingResponse(_lines(database, run, page, told), media_type=JsonLines.media_type, headers=headers)


async def _lines(database: Database, run: str, page: Page, told: Callable[[Row], Any]) -> AsyncIterator[bytes]:
    """The bytes of an export. No page is read before the last one is sent."""
    encoder, after = JsonLines({}), 0
    while rows := await database.read(partial(page, run=run, after=after, limit=PAGE)):
        yield encoder.encode([told(row) for row in rows])
        after = rows[-1].number


def _kto(row: Row) -> dict[str, Any]:
    label = json.loads(row.value)["up"]
    return {"prompt": json.loads(row.messages), "completion": _responses(row)[0], "label": label} | _origin(row)


def _preference(row: Row) -> dict[str, Any]:
    first, second = _responses(row)
    chosen, rejected = (first, second) if row.outcome == "first" else (second, first)
    told = {"prompt": json.loads(row.messages), "chosen": chosen, "rejected": rejected, "side": row.outcome}
    return told | _origin(row)


def _responses(row: Row) -> list[list[dict[str, str]]]:
    """What was shown, in its order."""
    return [[{"role": "assistant", "content": shown["text"]}] for shown in json.loads(row.responses)]


def _origin(row: Row) -> dict[str, Any]:
    """Of what an exported row tells."""
    told = {"completion_id": row.completion, "user": row.user_hash, "policy_version": row.policy_version}
    return told | {"at": iso(row.at)}
