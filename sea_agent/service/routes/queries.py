"""Duels that experiments post, look at and cancel."""

from functools import partial

from fastapi import APIRouter

from sea_agent.service.auth import Experiment, Reader
from sea_agent.service.schemas.base import ObjectId, RunId
from sea_agent.service.schemas.duels import PostedOut, QueriesIn, QueriesOut
from sea_agent.service.schemas.labels import LogEntryOut, QueryOut
from sea_agent.service.state import Service
from sea_agent.service.store import labels
from sea_agent.service.store import queries as store
from sea_agent.web.problems import documented
from sea_agent.web.signals import work

router = APIRouter(tags=["queries"])


@router.post("/runs/{run}/queries:batch", responses=documented(404, 409))
async def post_queries(run: RunId, body: QueriesIn, service: Service, caller: Experiment) -> QueriesOut:
    """Post duels, all or none. A ``client_key`` that is there already with the same body is left alone."""
    items = store.addressed(run, (query.model_dump() for query in body.queries))
    post = partial(store.post, run=run, items=items, now=service.now())
    answers = await service.database.write(post, wake=lambda _: [work(run)])
    return QueriesOut(queries=[PostedOut(**answer) for answer in answers])


@router.get("/queries/{query_id}", responses=documented(404))
async def get_query(query_id: ObjectId, service: Service, caller: Reader) -> QueryOut:
    """A duel with its votes."""
    query = await service.database.read(partial(store.get, query_id=query_id, now=service.now()))
    caller.require_run(query["run"])
    votes = await service.database.read(partial(labels.of_query, query_id=query_id))
    return QueryOut(**query | {"votes": [LogEntryOut(**vote._asdict()) for vote in votes]})


@router.post("/queries/{query_id}/cancel", responses=documented(404))
async def cancel_query(query_id: ObjectId, service: Service, caller: Experiment) -> QueryOut:
    """Withdraw a duel. An answered duel stays answered."""
    query = await get_query(query_id, service, caller)
    await service.database.write(partial(store.cancel, query_id=query_id), wake=lambda _: [work(query.run)])
    return await get_query(query_id, service, caller)
