"""Runs and their progress."""

import json
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import Connection, Row

from sea_agent.service.auth import Admin, Anyone, Experiment
from sea_agent.service.schemas.base import RunId
from sea_agent.service.schemas.runs import ProgressOut, RunIn, RunOut, RunsIn, RunsOut
from sea_agent.service.state import Service
from sea_agent.service.store import people
from sea_agent.service.store import runs as store
from sea_agent.web.problems import documented
from sea_agent.web.signals import log, work

router = APIRouter(tags=["runs"])


@router.get("/runs")
async def list_runs(service: Service, caller: Anyone, wanted: Annotated[RunsIn, Query()]) -> RunsOut:
    """The runs that the key reaches, the archived ones only when asked for. Who only annotates sees no closed ones."""
    states = set(store.UNFINISHED)
    if caller.may("read", "experiment"):
        states |= {"closed", "archived"} if wanted.archived else {"closed"}
    rows = await service.database.read(partial(store.everything, states=states))
    return RunsOut(runs=[_out(row) for row in rows if caller.sees(row.id)])


@router.get("/runs/{run}", responses=documented(404))
async def get_run(run: RunId, service: Service, caller: Anyone) -> RunOut:
    """One run with its counts."""
    return _out(await service.database.read(partial(store.get, run=run)))


@router.put("/runs/{run}")
async def put_run(run: RunId, body: RunIn, service: Service, caller: Experiment) -> RunOut:
    """Create a run, or change the fields that are given. Duels that were posted before keep their number of votes.

    Any state may follow any other. Leases that are out go on whatever the state; their answers are kept.
    """
    given = body.model_dump(exclude_none=True)
    put = partial(store.put, run=run, given=given, now=service.now())
    await service.database.write(put, wake=lambda _: [work(run)])
    return await get_run(run, service, caller)


@router.delete("/runs/{run}", status_code=204, responses=documented(404, 409))
async def delete_run(run: RunId, service: Service, caller: Admin) -> None:
    """Delete a run that is closed or archived, with its duels, its label log and everything else of it."""
    await service.database.write(partial(store.remove, run=run), wake=lambda _: [work(run), log(run)])


@router.get("/runs/{run}/progress", responses=documented(404))
async def progress(run: RunId, service: Service, caller: Anyone) -> ProgressOut:
    """How far a run is, who can answer its duels, and how many labels the caller gave."""

    def read(connection: Connection) -> dict[str, int]:
        counts = store.progress(connection, run, caller.annotator, service.now())
        there = people.of_run(connection, run, service.keyring.staff(run))
        return counts | {"annotators": len(there), "stuck": people.stuck(connection, run, there)}

    return ProgressOut(**await service.database.read(read))


@router.post("/runs/{run}/settle", responses=documented(404))
async def settle(run: RunId, service: Service, caller: Experiment) -> ProgressOut:
    """End the duels that nobody will answer: everybody who can annotate has answered or skipped them, and somebody has
    skipped. Whoever gets a key later does not see them."""

    def write(connection: Connection) -> None:
        store.last_seq(connection, run)  # refuses an unknown run
        people.settle(connection, run, service.keyring.staff(run))

    await service.database.write(write, wake=lambda _: [work(run)])
    return await progress(run, service, caller)


def _out(row: Row) -> RunOut:
    return RunOut(**row._asdict() | {"examples": json.loads(row.examples)})
