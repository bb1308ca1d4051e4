"""Labels: answers, corrections, imports, and the log that learners read."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response

from sea_agent.service.auth import Annotator, Experiment, Reader
from sea_agent.service.schemas.base import LARGEST_INTEGER, ObjectId, RunId
from sea_agent.service.schemas.duels import LONGEST_WAIT
from sea_agent.service.schemas.labels import ImportedOut, LabelIn, LabelOut, LabelsIn, LabelsOut, LogEntryOut, LogOut
from sea_agent.service.state import Service, State
from sea_agent.service.store import labels as store
from sea_agent.service.store.erasure import is_erased
from sea_agent.service.store.labels import Refused
from sea_agent.web.problems import Problem, Responses, documented
from sea_agent.web.signals import Topic, log, work

router = APIRouter(tags=["labels"])

_REPLAY: Responses = {200: {"model": LabelOut, "description": "The label was there already"}}
IDEMPOTENCY_PATTERN = r"^[\x21-\x7e]+$"
IdempotencyKey = Annotated[
    str,
    Header(
        min_length=1,
        max_length=200,
        pattern=IDEMPOTENCY_PATTERN,
        description="Any text, new for each batch: the same again with the same body stores nothing twice.",
    ),
]


@router.put("/leases/{lease_id}/label", status_code=201, responses=_REPLAY | documented(404, 409))
async def put_label(
    lease_id: ObjectId, body: LabelIn, service: Service, caller: Annotator, response: Response
) -> LabelOut:
    """Answer a leased duel, in the order in which it was shown. An answer to a lease that ended is kept, as late."""
    put = partial(store.put, lease_id=lease_id, author=caller.author, body=body.model_dump(), now=service.now())
    label, new = await service.database.write(put, wake=_grown)
    return _answer(service, response, label, new)


@router.post("/labels/{label_id}/revisions", status_code=201, responses=_REPLAY | documented(404))
async def revise(
    label_id: ObjectId, body: LabelIn, service: Service, caller: Annotator, response: Response
) -> LabelOut:
    """Correct a label, in the order in which its duel was shown. The log gets a new entry; nothing is overwritten."""
    put = partial(store.revise, label_id=label_id, author=caller.author, body=body.model_dump(), now=service.now())
    label, new = await service.database.write(put, wake=_grown)
    return _answer(service, response, label, new)


@router.post("/runs/{run}/labels:batch", responses=documented(404, 409))
async def import_labels(
    run: RunId, body: LabelsIn, service: Service, caller: Experiment, idempotency_key: IdempotencyKey
) -> LabelsOut:
    """Store answers of judges and scripts, all or none, in the duels' own order."""
    items = [label.model_dump() for label in body.labels]
    _refuse_erased(items)
    write = partial(
        store.import_batch, run=run, author=caller.author, key=idempotency_key, items=items, now=service.now()
    )
    try:
        answers, new = await service.database.write(write, wake=lambda _: [log(run)])
    except Refused as refused:
        errors = [(f"body.labels.{index}.{field}", what) for index, field, what in refused.faults]
        raise Problem(404, "Some labels are for queries that do not exist; nothing was stored.", errors) from None
    for answer in answers:
        if new and answer["created"]:
            service.metrics.labels.labels(answer["kind"]).inc()
    return LabelsOut(labels=[ImportedOut(**answer) for answer in answers])


@router.get("/runs/{run}/labels", responses=documented(404))
async def get_log(
    run: RunId,
    service: Service,
    caller: Reader,
    after_seq: Annotated[int, Query(ge=0, le=LARGEST_INTEGER)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    wait_s: Annotated[int, Query(ge=0, le=LONGEST_WAIT)] = 0,
) -> LogOut:
    """A page of the label log; waits for the next entry if there is none after ``after_seq``."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait_s
    signals = service.database.signals
    while True:
        grown = signals.event(log(run))
        rows = await service.database.read(partial(store.page, run=run, after_seq=after_seq, limit=limit))
        left = deadline - clock()
        if rows or left <= 0 or signals.closed:
            entries = [LogEntryOut(**row._asdict()) for row in rows]
            return LogOut(labels=entries, next_seq=entries[-1].seq if entries else after_seq)
        await signals.wait(grown, left)


def _refuse_erased(items: Sequence[dict[str, Any]]) -> None:
    """Raises: Problem 409 for answers under the name that stands for somebody who was erased."""
    named = [(index, item["annotator"]) for index, item in enumerate(items) if is_erased(item["annotator"] or "")]
    if named:
        errors = [(f"body.labels.{index}.annotator", f"{name} stands for somebody erased") for index, name in named]
        what = f"{named[0][1]} stands for somebody who was erased; nothing was stored. Choose another annotator's name."
        raise Problem(409, what, errors)


def _answer(service: State, response: Response, label: dict[str, Any], new: bool) -> LabelOut:
    response.status_code = 201 if new else 200
    if new:
        service.metrics.labels.labels(label["kind"]).inc()
    return LabelOut(**label)


def _grown(done: tuple[dict[str, Any], bool]) -> list[Topic]:
    label, new = done
    if not new:
        return []
    # The answer to a repeat or gold duel frees the place of the duel in whose stead it was shown.
    return [log(label["run"]), *([work(label["run"])] if label["kind"] in ("gold", "repeat") else [])]
