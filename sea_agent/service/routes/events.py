"""Server-sent events: a nudge whenever the label log of a run has grown. The log itself is the truth."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent

from sea_agent.service.auth import Reader
from sea_agent.service.schemas.base import LARGEST_INTEGER, RunId
from sea_agent.service.state import Service
from sea_agent.service.store import runs as store
from sea_agent.service.store.database import StoreUnavailable
from sea_agent.service.store.faults import Missing
from sea_agent.web.problems import documented
from sea_agent.web.signals import log

router = APIRouter(tags=["labels"])

PAUSE_SECONDS = 0.1  # between two events of a stream: a burst of labels is one nudge
CHECK_SECONDS = 15.0  # how long a stream may outlive its key

NONE_YET = -1
LastEventId = Annotated[int, Header(alias="Last-Event-ID", ge=NONE_YET, le=LARGEST_INTEGER)]


async def _must_exist(run: RunId, service: Service, caller: Reader) -> None:
    """Looked up before the stream begins: afterwards its status can no longer tell that there is no such run."""
    await service.database.read(partial(store.last_seq, run=run))


@router.get(
    "/runs/{run}/events",
    response_class=EventSourceResponse,
    dependencies=[Depends(_must_exist)],
    responses=documented(404),
)
async def events(
    run: RunId, service: Service, caller: Reader, last_event_id: LastEventId = NONE_YET
) -> AsyncIterator[ServerSentEvent]:
    """A stream of events; the id of each is the ``seq`` that the label log has reached.

    The first comes at once, unless ``Last-Event-ID`` names it already; the next when the log has grown. The entries are
    read with ``after_seq``. The stream ends with the service, the run and the key; ask again with ``Last-Event-ID``.
    """
    signals = service.database.signals
    sent: int | None = last_event_id
    while not signals.closed and service.keyring.holds(caller.key_id):
        grown = signals.event(log(run))
        try:
            reached = await service.database.read(partial(store.last_seq, run=run))
        except (Missing, StoreUnavailable):  # deleted meanwhile; down
            return
        if reached != sent:
            yield ServerSentEvent(event="log", id=str(reached), data={"seq": reached})
            sent = reached
            await asyncio.sleep(PAUSE_SECONDS)
        await signals.wait(grown, CHECK_SECONDS)
