"""The pages on which people answer duels. What they do there goes through the REST routes, as for any client."""

import contextlib
import re
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from sea_agent.service.auth import Caller, PageCaller
from sea_agent.service.pages import page, redirect, to_sign_in
from sea_agent.service.state import Service, State
from sea_agent.service.store import leases, own, runs
from sea_agent.service.store.faults import Missing
from sea_agent.service.store.leases import Claim
from sea_agent.service.store.queries import digest_of
from sea_agent.types import RUN_ID

router = APIRouter(include_in_schema=False)

_ALL_RUNS = ("/label", "All runs")
_CHAT = ("/chat", "Your key opens the chat")
_DASHBOARD = ("/dashboard/", "Your key opens the dashboard")


@router.get("/")
async def home(request: Request) -> Response:
    """The label page is the first page."""
    return redirect(request, "/label")


@router.get("/label")
async def list_page(request: Request, service: Service, caller: PageCaller) -> Response:
    """The runs that the caller may answer, and how far each is."""
    if caller is None:
        return to_sign_in(request)
    if not caller.may("annotate"):
        return _may_not_answer(request, service, caller)
    wanted = partial(_listed, caller=caller, seed=service.settings.seed, now=service.now())
    found = await service.database.read(wanted)
    return page(request, "runs.html", caller=caller, runs=found)


@router.get("/label/{run}")
async def duel_page(request: Request, run: str, service: Service, caller: PageCaller) -> Response:
    """One duel of a run at a time."""
    if caller is None:
        return to_sign_in(request)
    if not caller.may("annotate"):
        return _may_not_answer(request, service, caller)
    found = None
    if caller.sees(run) and re.fullmatch(RUN_ID, run):
        with contextlib.suppress(Missing):
            found = await service.database.read(partial(own.get, run=run, annotator=caller.annotator))
    if found is None:
        detail = (
            "There is no such run yet, or your key is not for it. If it has not begun, this page shows it as soon as "
            "it does; otherwise check the link, or ask who gave it to you."
        )
        values = {"title": "No such run", "detail": detail, "links": [_ALL_RUNS], "looks_again": True}
        return page(request, "message.html", 404, caller=caller, **values)
    guidelines = digest_of([found["instructions"], found["examples"]])
    return page(request, "duel.html", caller=caller, run=found, guidelines=guidelines)


def _may_not_answer(request: Request, service: State, caller: Caller) -> Response:
    detail = "Your key does not let you answer duels. Ask for a key with the scope annotate, and sign in with that."
    links = [_CHAT] if caller.may("chat") else []
    if service.settings.runs is not None and caller.may("read", "experiment"):
        links.append(_DASHBOARD)
    values = {"title": "A key for annotators is needed", "detail": detail, "links": links, "looks_again": False}
    return page(request, "message.html", 403, caller=caller, **values)


def _listed(connection: Connection, caller: Caller, seed: int, now: float) -> list[tuple[Any, ...]]:
    """Each run that the caller sees and that is not over; its counts, if the caller may know them (else None); and
    whether it has a duel for them now."""
    return [
        (
            run,
            None if caller.only_annotates else runs.progress(connection, run["id"], now),
            leases.is_there(connection, Claim(run["id"], caller.annotator, 0.0, seed), now),
        )
        for run in own.everything(connection, caller.annotator)
        if caller.sees(run["id"])
    ]
