"""Runs and their progress."""

from functools import partial

from fastapi import APIRouter
from sqlalchemy import Connection

from sea_agent.service.auth import Anyone, Experiment
from sea_agent.service.schemas.base import RunId
from sea_agent.service.schemas.runs import ProgressOut, RunIn, RunOut, RunsOut
from sea_agent.service.state import Service
from sea_agent.service.store import people
from sea_agent.service.store import runs as store
from sea_agent.web.problems import documented
from sea_agent.web.signals import work

router = APIRouter(tags=["runs"])


@router.get("/runs")
async def list_runs(service: Service, caller: Anyone) -> RunsOut:
    """Every run that the key reaches."""
    rows = await service.database.read(store.everything)
    return RunsOut(runs=[RunOut(**row._asdict()) for row in rows if caller.sees(row.id)])


@router.get("/runs/{run}", responses=documented(404))
async def get_run(run: RunId, service: Service, caller: Anyone) -> RunOut:
    """One run with its counts."""
    row = await service.database.read(partial(store.get, run=run))
    return RunOut(**row._asdict())


@router.put("/runs/{run}")
async def put_run(run: RunId, body: RunIn, service: Service, caller: Experiment) -> RunOut:
    """Create a run, or change the fields that are given. Duels that were posted before keep their number of votes."""
    given = body.model_dump(exclude_none=True)
    put = partial(store.put, run=run, given=given, now=service.now())
    await service.database.write(put, wake=lambda _: [work(run)])
    return await get_run(run, service, caller)


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
