"""Erasing a person, or the texts of duels. Labels and counts stay."""

from functools import partial

from fastapi import APIRouter

from sea_agent.service import erasing
from sea_agent.service.auth import Admin, Governor
from sea_agent.service.schemas.base import ObjectId, RunId
from sea_agent.service.schemas.people import NameInPath, PersonErasedOut, TextsErasedOut
from sea_agent.service.state import Service
from sea_agent.service.store import queries
from sea_agent.web.problems import documented

router = APIRouter(tags=["erasure"])


@router.post("/people/{annotator:path}/erase", responses=documented(404, 409))
async def erase_person(annotator: NameInPath, service: Service, caller: Governor) -> PersonErasedOut:
    """Put a pseudonym in the place of a name everywhere, forget the comments, end the keys. It cannot be undone."""
    erased, left = await erasing.person(service, annotator)
    return PersonErasedOut(pseudonym=erased.pseudonym, labels=erased.labels, left=left)


@router.post("/queries/{query_id}/erase", responses=documented(404))
async def erase_query(query_id: ObjectId, service: Service, caller: Admin) -> TextsErasedOut:
    """Erase the texts of a duel; an open one is cancelled. Its labels stay. It cannot be undone."""
    duel = await service.database.read(partial(queries.get, query_id=query_id, now=service.now()))
    caller.require_run(duel["run"])
    duels, left = await erasing.query(service, query_id)
    return TextsErasedOut(duels=duels, left=left)


@router.post("/runs/{run}/erase", responses=documented(404))
async def erase_run(run: RunId, service: Service, caller: Admin) -> TextsErasedOut:
    """Erase the texts of a run: of all its duels, its instructions and examples. It cannot be undone."""
    duels, left = await erasing.run(service, run)
    return TextsErasedOut(duels=duels, left=left)
