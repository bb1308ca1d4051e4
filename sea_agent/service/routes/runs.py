"""Runs and their progress. A key that may only annotate is told less, so that gold duels and repeats stay unknown."""

import json
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from pydantic.json_schema import SkipJsonSchema
from sqlalchemy import Connection, Row

from sea_agent.service import erasing
from sea_agent.service.auth import Admin, Anyone, Caller, Experiment
from sea_agent.service.schemas.base import RunId
from sea_agent.service.schemas.runs import (
    ListedRunOut,
    OwnProgressOut,
    OwnRunOut,
    ProgressOut,
    RunIn,
    RunOut,
    RunsIn,
    RunsOut,
)
from sea_agent.service.state import Service, State
from sea_agent.service.store import answers, assignments, own, people, qualification
from sea_agent.service.store import runs as store
from sea_agent.service.store.faults import Conflict
from sea_agent.service.store.tables import RUN_STATES
from sea_agent.web.problems import Problem, documented
from sea_agent.web.signals import log, work

router = APIRouter(tags=["runs"])


@router.get("/runs")
async def list_runs(service: Service, caller: Anyone, wanted: Annotated[RunsIn, Query()]) -> RunsOut:
    """The runs that the key reaches, the archived ones only when asked for, as is the progress of each. Who only
    annotates sees no closed ones, and no progress here."""
    if caller.only_annotates:
        told = await service.database.read(partial(own.everything, annotator=caller.annotator))
        return RunsOut(runs=[OwnRunOut(**run) for run in told if caller.sees(run["id"])])
    states = RUN_STATES if wanted.archived else (*store.UNFINISHED, "closed")

    def read(connection: Connection) -> list[ListedRunOut]:
        rows = [row for row in store.everything(connection, states) if caller.sees(row.id)]
        named = assignments.of_runs(connection, [row.id for row in rows])
        told = (_progress(connection, row.id, service, caller) if wanted.progress else None for row in rows)
        return [
            ListedRunOut(**_values(row, named.get(row.id, [])), progress=progress)
            for row, progress in zip(rows, told, strict=True)
        ]

    return RunsOut(runs=await service.database.read(read))


@router.get("/runs/{run}", responses=documented(404))
async def get_run(run: RunId, service: Service, caller: Anyone) -> RunOut | OwnRunOut:
    """One run with its counts; for a key that may only annotate, with the caller's own."""
    if caller.only_annotates:
        return OwnRunOut(**await service.database.read(partial(own.get, run=run, annotator=caller.annotator)))
    return await _whole_run(run, service)


@router.put("/runs/{run}", responses=documented(412))
async def put_run(
    run: RunId,
    body: RunIn,
    service: Service,
    caller: Experiment,
    if_none_match: Annotated[Literal["*"] | SkipJsonSchema[None], Header()] = None,
) -> RunOut:
    """Create a run, or change the fields that are given. Duels that were posted before keep their number of votes. With
    ``If-None-Match: *`` a run that is there, archived or not, stays as it is (412).

    Any state may follow any other. Leases that are out go on whatever the state; their answers are kept. Only an admin
    changes ``retention_days``, as texts that it erases are gone for good.
    """
    given = body.model_dump(exclude_none=True) | body.model_dump(include={"retention_days"}, exclude_unset=True)

    def write(connection: Connection) -> None:
        kept = store.retention_days(connection, run)
        if given.get("retention_days", kept) != kept and not caller.may("admin"):
            is_now = f"retention_days of run {run} is {json.dumps(kept)}"
            raise Problem(403, f"{is_now}: only the scope admin may change it.")
        store.put(connection, run, given, service.now(), only_new=if_none_match is not None)

    try:
        await service.database.write(write, wake=lambda _: [work(run)])
    except Conflict as conflict:
        raise Problem(412, str(conflict)) from None
    return await _whole_run(run, service)


@router.delete("/runs/{run}", status_code=204, responses=documented(404, 409))
async def delete_run(run: RunId, service: Service, caller: Admin) -> None:
    """Delete a run that is closed or archived, with its duels, its label log and everything else of it."""
    remove = partial(store.remove, run=run, now=service.now())
    await service.database.write(remove, wake=lambda _: [work(run), log(run)])
    await erasing.purge_files(service)


@router.get("/runs/{run}/progress", responses=documented(404))
async def progress(run: RunId, service: Service, caller: Anyone) -> ProgressOut | OwnProgressOut:
    """How far a run is, who can answer its duels, and how many labels the caller gave; for a key that may only
    annotate, what concerns the caller."""
    if caller.only_annotates:
        told = partial(own.progress, run=run, annotator=caller.annotator)
        return OwnProgressOut(**await service.database.read(told))
    return await _whole_progress(run, service, caller)


@router.post("/runs/{run}/settle", responses=documented(404))
async def settle(run: RunId, service: Service, caller: Experiment) -> ProgressOut:
    """End the duels that nobody will answer: everybody who can annotate has answered or skipped them, and somebody has
    skipped. Whoever gets a key later does not see them."""

    def write(connection: Connection) -> None:
        store.last_seq(connection, run)  # refuses an unknown run
        people.settle(connection, run, service.keyring.staff(run), service.now())

    await service.database.write(write, wake=lambda _: [work(run)])
    return await _whole_progress(run, service, caller)


def _values(row: Row[Any], assigned: list[str]) -> dict[str, Any]:
    return row._asdict() | {"examples": json.loads(row.examples), "assigned": assigned}


async def _whole_run(run: str, service: State) -> RunOut:
    def read(connection: Connection) -> RunOut:
        row = store.get(connection, run)
        return RunOut(**_values(row, assignments.of_runs(connection, [run]).get(run, [])))

    return await service.database.read(read)


async def _whole_progress(run: str, service: State, caller: Caller) -> ProgressOut:
    return await service.database.read(partial(_progress, run=run, service=service, caller=caller))


def _progress(connection: Connection, run: str, service: State, caller: Caller) -> ProgressOut:
    now = service.now()
    counts = store.progress(connection, run, now)
    there = people.of_run(connection, run, service.keyring.staff(run))
    told = own.progress(connection, run, caller.annotator) | counts
    told |= {"annotators": len(there), "stuck": people.stuck(connection, run, there, now)}
    told["people"] = sorted(there) if caller.may("experiment") else None
    told["gold_missing"] = qualification.gold_missing(connection, run)
    return ProgressOut(**told, quality_version=answers.version(connection, run))
