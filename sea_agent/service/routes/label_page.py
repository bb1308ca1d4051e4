"""The pages on which people answer duels. What they do there goes through the REST routes, as for any client."""

import contextlib
import re
from functools import partial

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection, Row

from sea_agent.service.auth import Caller, PageCaller
from sea_agent.service.pages import page, redirect, to_sign_in
from sea_agent.service.state import Service, State
from sea_agent.service.store import runs
from sea_agent.service.store.faults import Missing
from sea_agent.types import RUN_ID

router = APIRouter(include_in_schema=False)

_ALL_RUNS = ("/label", "All runs")
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
    found = await service.database.read(partial(_with_progress, caller=caller, now=service.now()))
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
            found = await service.database.read(partial(runs.get, run=run))
    if found is None:
        detail = (
            "There is no such run yet, or your key is not for it. If it has not begun, this page shows it as soon as "
            "it does; otherwise check the link, or ask who gave it to you."
        )
        values = {"title": "No such run", "detail": detail, "links": [_ALL_RUNS], "looks_again": True}
        return page(request, "message.html", 404, caller=caller, **values)
    return page(request, "duel.html", caller=caller, run=found)


def _may_not_answer(request: Request, service: State, caller: Caller) -> Response:
    detail = "Your key does not let you answer duels. Ask for a key with the scope annotate, and sign in with that."
    links = [_DASHBOARD] if service.settings.runs is not None and caller.may("read", "experiment") else []
    values = {"title": "A key for annotators is needed", "detail": detail, "links": links, "looks_again": False}
    return page(request, "message.html", 403, caller=caller, **values)


def _with_progress(connection: Connection, caller: Caller, now: float) -> list[tuple[Row, dict[str, int]]]:
    """Each run that the caller sees, with its progress."""
    return [
        (run, runs.progress(connection, run.id, caller.annotator, now))
        for run in runs.everything(connection, runs.UNFINISHED)
        if caller.sees(run.id)
    ]
