"""Quality of the labels of a run, and their export as preference data."""

import asyncio
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from sqlalchemy import Connection

from sea_agent.data.encoders import Encoder, JsonLines, Parquet
from sea_agent.service import export, quality
from sea_agent.service.auth import Reader
from sea_agent.service.quality import Answer
from sea_agent.service.schemas.base import RunId
from sea_agent.service.schemas.quality import AgreementOut, AnnotatorsOut, ExportIn
from sea_agent.service.state import Service, State
from sea_agent.service.store import answers as store
from sea_agent.service.store import runs
from sea_agent.service.store.answers import Given
from sea_agent.web.problems import Responses, documented

router = APIRouter(tags=["quality"])


@router.get("/runs/{run}/agreement", responses=documented(404))
async def get_agreement(run: RunId, service: Service, caller: Reader) -> AgreementOut:
    """How far annotators agree with each other, with themselves and with gold, corrections applied."""
    answers = await _answers(service, run)
    return await asyncio.to_thread(quality.agreement, answers)


@router.get("/runs/{run}/annotators", responses=documented(404))
async def get_annotators(run: RunId, service: Service, caller: Reader) -> AnnotatorsOut:
    """Everybody who answered or skipped in a run: how much, how fast, how well."""
    answers = await _answers(service, run)
    skips = await service.database.read(partial(store.skips, run=run))
    return AnnotatorsOut(annotators=await asyncio.to_thread(quality.annotators, answers, skips))


def _file(encoder: type[Encoder]) -> Responses:
    content = {encoder.media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {200: {"description": "The file", "content": content}} | documented(404)


@router.get("/runs/{run}/export.jsonl", response_class=StreamingResponse, responses=_file(JsonLines))
async def export_jsonl(
    run: RunId, service: Service, caller: Reader, wanted: Annotated[ExportIn, Query()]
) -> StreamingResponse:
    """Labelled duels as preference data, one JSON object a line, with where each comes from.

    The winner is the most frequent outcome of the votes, corrections applied. Gold duels and repeats are left out.
    """
    return await _export(run, service, wanted, "jsonl", JsonLines)


@router.get("/runs/{run}/export.parquet", response_class=StreamingResponse, responses=_file(Parquet))
async def export_parquet(
    run: RunId, service: Service, caller: Reader, wanted: Annotated[ExportIn, Query()]
) -> StreamingResponse:
    """The same as Parquet."""
    return await _export(run, service, wanted, "parquet", Parquet)


async def _export(run: str, service: State, wanted: ExportIn, ending: str, encoder: type[Encoder]) -> StreamingResponse:
    up_to_seq = await service.database.read(partial(runs.last_seq, run=run))
    content = export.export(service.database, run, up_to_seq, wanted, encoder(export.COLUMNS))
    headers = {"Content-Disposition": f'attachment; filename="{run}.{ending}"'}
    return StreamingResponse(content, media_type=encoder.media_type, headers=headers)


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
