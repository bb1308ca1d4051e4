"""Runs and their progress."""

from functools import partial

from fastapi import APIRouter

from sea_agent.service.auth import Anyone, Experiment
from sea_agent.service.schemas import ProgressOut, RunId, RunIn, RunOut, RunsOut
from sea_agent.service.state import Service
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
    """How far a run is, and how many labels the caller gave."""
    read = partial(store.progress, run=run, annotator=caller.annotator, now=service.now())
    return ProgressOut(**await service.database.read(read))
