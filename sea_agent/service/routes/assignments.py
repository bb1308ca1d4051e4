"""Handing a run or duels of it out to named annotators, and taking them back."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import Connection

from sea_agent.service.auth import Experiment
from sea_agent.service.schemas.base import RunId
from sea_agent.service.schemas.duels import CountHandOutIn, HandOutOut, RunAssignmentIn, ShareHandOutIn, TakeBackIn
from sea_agent.service.state import Service
from sea_agent.service.store import assignments as store
from sea_agent.service.store.assignments import HandOut
from sea_agent.web.problems import documented
from sea_agent.web.signals import work

router = APIRouter(tags=["queries"])


@router.post("/runs/{run}/assignments", responses=documented(404, 409))
async def hand_out(
    run: RunId, body: ShareHandOutIn | CountHandOutIn, service: Service, caller: Experiment
) -> HandOutOut:
    """Assign duels that nobody has or has answered, those that would come first; nobody else gets them then."""
    wanted = HandOut(**{"share": None, "count": None} | body.model_dump())
    write = partial(store.hand_out, run=run, wanted=wanted, now=service.now())
    return HandOutOut(assigned=await service.database.write(write, wake=lambda _: [work(run)]))


@router.put("/runs/{run}/assignments", status_code=204, responses=documented(404, 409))
async def assign_run(run: RunId, body: RunAssignmentIn, service: Service, caller: Experiment) -> None:
    """Assign a whole run: nobody else gets a duel of it, nor one that is posted later. Who holds one loses it.

    A duel that is assigned by itself stays so. Everybody who is named has a key to answer the run with, else 409.
    """

    def write(connection: Connection) -> None:
        store.assign_run(connection, run, body.annotators, service.keyring.staff(run).everybody)

    await service.database.write(write, wake=lambda _: [work(run)])


@router.delete("/runs/{run}/assignments", status_code=204, responses=documented(404))
async def take_back(run: RunId, service: Service, caller: Experiment, wanted: Annotated[TakeBackIn, Query()]) -> None:
    """Let a run and every duel of it be for everybody again, or take them back from the annotators who are named alone:
    what is assigned to others too stays theirs. All or none; nobody loses a duel that they hold."""
    write = partial(store.take_back_of_run, run=run, annotators=wanted.annotator)
    await service.database.write(write, wake=lambda _: [work(run)])
