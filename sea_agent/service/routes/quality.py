"""Quality of the labels of a run."""

import asyncio
from functools import partial

from fastapi import APIRouter
from sqlalchemy import Connection

from sea_agent.service import quality
from sea_agent.service.auth import Reader
from sea_agent.service.quality import Answer
from sea_agent.service.schemas.base import RunId
from sea_agent.service.schemas.quality import AgreementOut, AnnotatorsOut
from sea_agent.service.schemas.runs import QualificationOut
from sea_agent.service.state import Service, State
from sea_agent.service.store import answers as store
from sea_agent.service.store import qualification, runs
from sea_agent.service.store.answers import Given
from sea_agent.web.problems import documented

router = APIRouter(tags=["quality"])


@router.get("/runs/{run}/agreement", responses=documented(404))
async def get_agreement(run: RunId, service: Service, caller: Reader) -> AgreementOut:
    """How far annotators agree with each other, with themselves and with gold, corrections applied."""
    answers = await _answers(service, run)
    return await asyncio.to_thread(quality.agreement, answers)


@router.get("/runs/{run}/annotators", responses=documented(404))
async def get_annotators(run: RunId, service: Service, caller: Reader) -> AnnotatorsOut:
    """Everybody who answered or skipped in a run: how much, how fast, how well, and whether they qualified. Users of
    live mode are no annotators; ``GET /v1/live/{run}/summary`` tells of them."""
    if (await service.database.read(partial(runs.get, run=run))).live:
        return AnnotatorsOut(annotators=[])
    answers = await _answers(service, run)
    skips = await service.database.read(partial(store.skips, run=run))
    found = await asyncio.to_thread(quality.annotators, answers, skips)
    names = [one.annotator for one in found]
    standings = await service.database.read(partial(qualification.standings, run=run, annotators=names))
    for one in found:
        if how := standings.get(one.annotator):
            one.qualification = QualificationOut(needed=how.needed, given=how.given, passed=how.passed)
    return AnnotatorsOut(annotators=found)


async def _answers(service: State, run: str) -> list[Answer]:
    def read(connection: Connection) -> list[Answer]:
        runs.last_seq(connection, run)
        return [_answer(given) for given in store.of_run(connection, run)]

    return await service.database.read(read)


def _answer(given: Given) -> Answer:
    first, holds = given.first, given.holds
    return Answer(
        query=holds.query_id,
        annotator=holds.annotator,
        kind=holds.kind,
        outcome=holds.outcome,
        swapped=holds.swapped,
        gold=holds.gold,
        late=first.late,
        elapsed_ms=first.elapsed_ms,
        at=first.at,
    )
