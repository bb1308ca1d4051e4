"""Leases: an annotator claims a duel, keeps it while thinking, gives it back or skips it."""

import asyncio
from functools import partial

from fastapi import APIRouter, Request, Response

from sea_agent.service.auth import Annotator
from sea_agent.service.schemas.base import ObjectId, RunId
from sea_agent.service.schemas.duels import HeartbeatIn, HeartbeatOut, LeaseIn, LeaseOut
from sea_agent.service.state import Service
from sea_agent.service.store import leases as store
from sea_agent.service.store.leases import Claim
from sea_agent.web.problems import Problem, Responses, documented
from sea_agent.web.signals import work

router = APIRouter(tags=["leases"])

_NOTHING: Responses = {204: {"description": "There is nothing to answer now"}}
SHORTEST_WAIT = 0.05  # between two looks at the store, when leases end in quick succession


@router.post("/runs/{run}/leases", status_code=201, response_model=LeaseOut, responses=_NOTHING | documented(404))
async def claim(
    run: RunId, body: LeaseIn, service: Service, caller: Annotator, request: Request
) -> LeaseOut | Response:
    """Lease a duel, or get the one that the caller holds again; wait for one if there is none.

    A duel comes in presentation order, which the label keeps to.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + body.wait_s
    signals = service.database.signals
    while True:
        woken = signals.event(work(run))
        if not service.keyring.holds(caller.key_id):
            raise Problem(401, "This key has ended.")
        wanted = Claim(run, caller.annotator, body.ttl_s, service.settings.seed)
        lease = await service.database.write(partial(store.claim, wanted=wanted, now=service.now()))
        if lease is not None:
            return LeaseOut(**lease)
        left = deadline - clock()
        if left <= 0 or signals.closed:
            return Response(status_code=204)
        next_end = await service.database.read(partial(store.next_end, run=run))
        seconds = left if next_end is None else min(left, max(SHORTEST_WAIT, next_end - service.now()))
        await signals.wait(woken, seconds)
        if await request.is_disconnected():
            return Response(status_code=204)  # a duel leased now would be kept from others for nobody


@router.patch("/leases/{lease_id}", responses=documented(404, 409))
async def heartbeat(lease_id: ObjectId, body: HeartbeatIn, service: Service, caller: Annotator) -> HeartbeatOut:
    """Keep a duel for longer."""
    extend = partial(store.extend, lease_id=lease_id, author=caller.author, ttl_s=body.ttl_s, now=service.now())
    return HeartbeatOut(expires_at=await service.database.write(extend))


@router.delete("/leases/{lease_id}", status_code=204, responses=documented(404))
async def release(lease_id: ObjectId, service: Service, caller: Annotator) -> None:
    """Give a duel back."""
    give_back = partial(store.release, lease_id=lease_id, author=caller.author)
    await service.database.write(give_back, wake=lambda run: [work(run)])


@router.post("/leases/{lease_id}/skip", status_code=204, responses=documented(404, 409))
async def skip(lease_id: ObjectId, service: Service, caller: Annotator) -> None:
    """Leave a duel to others. It is not a label."""
    leave = partial(store.skip, lease_id=lease_id, author=caller.author)
    await service.database.write(leave, wake=lambda run: [work(run)])
