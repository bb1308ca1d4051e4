"""Duels that experiments post, look at, change and cancel."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import Connection

from sea_agent.service.auth import Caller, Experiment, Reader
from sea_agent.service.schemas.base import ObjectId, RunId
from sea_agent.service.schemas.duels import (
    ListedQueryOut,
    PostedOut,
    QueriesIn,
    QueriesOut,
    QueryChangeIn,
    QueryListIn,
    QueryListOut,
)
from sea_agent.service.schemas.labels import LogEntryOut, QueryOut
from sea_agent.service.state import Service, State
from sea_agent.service.store import assignments, labels, listing, people
from sea_agent.service.store import queries as store
from sea_agent.service.store.listing import Page, Wanted
from sea_agent.web.problems import documented
from sea_agent.web.signals import work

router = APIRouter(tags=["queries"])


@router.post("/runs/{run}/queries:batch", responses=documented(404, 409))
async def post_queries(run: RunId, body: QueriesIn, service: Service, caller: Experiment) -> QueriesOut:
    """Post duels, all or none. A ``client_key`` that is there already with the same body is left alone."""
    items = store.addressed(query.model_dump() for query in body.queries)
    post = partial(store.post, run=run, items=items, now=service.now())
    answers = await service.database.write(post, wake=lambda _: [work(run)])
    return QueriesOut(queries=[PostedOut(**answer) for answer in answers])


@router.get("/runs/{run}/queries", responses=documented(404))
async def list_queries(
    run: RunId, service: Service, caller: Reader, wanted: Annotated[QueryListIn, Query()]
) -> QueryListOut:
    """The duels of a run, a page at a time."""
    staff = service.keyring.staff(run)

    def read(connection: Connection) -> Page:
        there = people.of_run(connection, run, staff)
        return listing.page(connection, Wanted(run, **wanted.model_dump()), there, service.now())

    page = await service.database.read(read)
    queries = [ListedQueryOut(**query) for query in page.queries]
    return QueryListOut(queries=queries, next_after=page.next_after, total=page.total)


@router.get("/queries/{query_id}", responses=documented(404))
async def get_query(query_id: ObjectId, service: Service, caller: Reader) -> QueryOut:
    """A duel with its votes, whom it is for, and who has it."""
    now = service.now()
    query = await service.database.read(partial(store.get, query_id=query_id, now=now))
    caller.require_run(query["run"])

    def read(connection: Connection) -> store.Values:
        votes = [LogEntryOut(**vote._asdict()) for vote in labels.of_query(connection, query_id)]
        return {"votes": votes} | listing.around(connection, [query_id], now)[query_id]

    return QueryOut(**query | await service.database.read(read))


@router.patch("/queries/{query_id}", responses=documented(404, 409))
async def change_query(query_id: ObjectId, body: QueryChangeIn, service: Service, caller: Experiment) -> QueryOut:
    """Change the fields of a duel that are given. Who holds it and may not have it any more loses it.

    More votes open it again, unless its texts were erased (409).
    """
    given = body.model_dump(exclude_none=True)
    named = given.pop("assigned", None)

    def write(connection: Connection) -> None:
        store.change(connection, query_id, given, service.now())
        if named is not None:
            assignments.assign(connection, query_id, named)

    return await _changed(query_id, service, caller, write)


@router.post("/queries/{query_id}/cancel", responses=documented(404))
async def cancel_query(query_id: ObjectId, service: Service, caller: Experiment) -> QueryOut:
    """Withdraw a duel. An answered duel stays answered."""
    return await _changed(query_id, service, caller, partial(store.cancel, query_id=query_id, now=service.now()))


@router.post("/queries/{query_id}/reopen", responses=documented(404, 409))
async def reopen_query(query_id: ObjectId, service: Service, caller: Experiment) -> QueryOut:
    """Ask for a duel again that was cancelled or has expired, also those who skipped it. It expires no more."""
    return await _changed(query_id, service, caller, partial(store.reopen, query_id=query_id, now=service.now()))


@router.post("/queries/{query_id}/take-back", responses=documented(404))
async def take_back(query_id: ObjectId, service: Service, caller: Experiment) -> QueryOut:
    """End the leases of a duel, so that others may have it. An answer that comes all the same is kept, as late."""
    return await _changed(query_id, service, caller, partial(store.take_back, query_id=query_id))


async def _changed(query_id: str, service: State, caller: Caller, write: Callable[[Connection], object]) -> QueryOut:
    """A duel after ``write``. Raises: Missing for an unknown one, Problem 403 for one that the key does not reach."""
    query = await get_query(query_id, service, caller)
    await service.database.write(write, wake=lambda _: [work(query.run)])
    return await get_query(query_id, service, caller)
