"""Files: duels that come in, and answers that go out as preference data."""

import asyncio
from email.message import Message
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from sea_agent.data.encoders import Csv, Encoder, JsonLines, Parquet
from sea_agent.service import export, importing
from sea_agent.service.auth import Experiment, Reader
from sea_agent.service.importing import DuelFile, Refused
from sea_agent.service.schemas.base import RunId
from sea_agent.service.schemas.files import DUELS, ExportIn, FileOut
from sea_agent.service.state import Service, State
from sea_agent.service.store import queries, runs
from sea_agent.service.store.faults import Conflict
from sea_agent.web.problems import Problem, Responses, documented
from sea_agent.web.signals import work

IMPORT = "/queries:import"
"""How the path of an import ends, which has its own limit of size."""

router = APIRouter(tags=["files"])


@router.post("/runs/{run}" + IMPORT, responses=documented(404, 409, 415), openapi_extra={"requestBody": DUELS})
async def import_queries(
    run: RunId, service: Service, caller: Experiment, request: Request, gold: Literal["chosen"] | None = None
) -> FileOut:
    """Post the duels of a file, all or none: JSON Lines, a JSON list of objects, or CSV with a line of headings.

    A row has ``prompt`` and one pair of responses, ``first`` and ``second``, ``chosen`` and ``rejected``, or
    ``response_a`` and ``response_b``. Without ``client_key`` or ``id``, a digest of the texts is its key; a duel that
    is there already is left alone. With ``gold=chosen`` the chosen response is the right answer.
    """
    media_type = _media_type(request.headers.get("content-type", ""))
    try:
        content = await request.body()
    except ClientDisconnect:
        raise Problem(400, "The file did not come to its end. Nothing was stored; send it again.") from None

    def read() -> tuple[DuelFile, list[dict[str, Any]]]:
        file = importing.read_duels(content, media_type, gold=gold is not None)
        return file, queries.addressed(file.duels)

    try:
        file, items = await asyncio.to_thread(read)
    except Refused as refused:
        raise Problem(422, _nothing_stored(refused.faults), refused.faults) from None
    post = partial(queries.post, run=run, items=items, now=service.now())
    try:
        answers = await service.database.write(post, wake=lambda _: [work(run)])
    except Conflict as conflict:
        raise _in_file(conflict, file) from None
    created = sum(answer["created"] for answer in answers)
    return FileOut(rows=len(answers), created=created, known=len(answers) - created, ignored=file.ignored)


def _media_type(header: str) -> str:
    """The media type that a header names. Raises: Problem 415 where it is none that can be read."""
    told = Message()
    told["Content-Type"] = header
    media_type, charset = told.get_content_type(), str(told.get_param("charset", "utf-8")).lower()
    if media_type not in importing.FORMATS:
        formats = ", ".join(importing.FORMATS)
        raise Problem(415, f"This is no file of duels: say with Content-Type which of {formats} it is.")
    if charset not in ("utf-8", "us-ascii"):
        raise Problem(415, f"The file is in {charset}. Save it as UTF-8, and say charset=utf-8 or nothing.")
    return media_type


def _nothing_stored(faults: list[importing.Fault]) -> str:
    (where, what), others = faults[0], len(faults) - 1
    more = (
        f" So far {others} more {'fault was' if others == 1 else 'faults were'} found; errors lists all."
        if others
        else ""
    )
    return f"Nothing was stored. {where}: {what}{more}"


def _in_file(conflict: Conflict, file: DuelFile) -> Problem | Conflict:
    """A conflict with a row of the file, told with its place."""
    if conflict.client_key is None:
        return conflict
    where = f"{file.places[conflict.client_key]}, client_key"
    remedy = "Give the row another client_key, or leave it out."
    return Problem(409, f"Nothing was stored. {where}: {conflict} {remedy}", [(where, str(conflict))])


def _file(encoder: type[Encoder]) -> Responses:
    content = {encoder.media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {200: {"description": "The file", "content": content}} | documented(404)


@router.get("/runs/{run}/export.jsonl", response_class=StreamingResponse, responses=_file(JsonLines))
async def export_jsonl(
    run: RunId, service: Service, caller: Reader, wanted: Annotated[ExportIn, Query()]
) -> StreamingResponse:
    """Labelled duels as preference data, one JSON object a line, with where each comes from.

    The winner is the most frequent outcome of the votes, corrections applied. Gold duels, repeats and duels whose texts
    were erased are left out.
    """
    return await _export(run, service, wanted, "jsonl", JsonLines)


@router.get("/runs/{run}/export.parquet", response_class=StreamingResponse, responses=_file(Parquet))
async def export_parquet(
    run: RunId, service: Service, caller: Reader, wanted: Annotated[ExportIn, Query()]
) -> StreamingResponse:
    """The same as Parquet."""
    return await _export(run, service, wanted, "parquet", Parquet)


@router.get("/runs/{run}/export.csv", response_class=StreamingResponse, responses=_file(Csv))
async def export_csv(
    run: RunId, service: Service, caller: Reader, wanted: Annotated[ExportIn, Query()]
) -> StreamingResponse:
    """The same as CSV, for spreadsheets: a text that would be taken for a formula gets an apostrophe."""
    return await _export(run, service, wanted, "csv", Csv)


async def _export(run: str, service: State, wanted: ExportIn, ending: str, encoder: type[Encoder]) -> StreamingResponse:
    up_to_seq = await service.database.read(partial(runs.last_seq, run=run))
    content = export.export(service.database, run, up_to_seq, wanted, encoder(export.COLUMNS))
    headers = {"Content-Disposition": f'attachment; filename="{run}.{ending}"'}
    return StreamingResponse(content, media_type=encoder.media_type, headers=headers)
