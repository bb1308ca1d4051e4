"""The page of those who run experiments. The shell is made here; what it does goes through the REST routes."""

import contextlib
import re
from functools import partial

from fastapi import APIRouter, Request, Response

from sea_agent.service.auth import Caller, PageCaller
from sea_agent.service.pages import page, to_sign_in
from sea_agent.service.state import Service, State
from sea_agent.service.store import runs
from sea_agent.service.store.faults import Missing
from sea_agent.types import RUN_ID

router = APIRouter(include_in_schema=False)


@router.get("/admin")
async def runs_page(request: Request, service: Service, caller: PageCaller) -> Response:
    """The runs that the caller's key reaches."""
    return _shell(request, service, caller, "runs", "Runs")


@router.get("/admin/people")
async def people_page(request: Request, service: Service, caller: PageCaller) -> Response:
    """Everybody who may answer or did, and the keys."""
    if caller is not None and caller.may("admin") and not caller.may_govern:
        return _refuse(request, caller, "Your key is for some runs; people and keys are the same in all of them.")
    return _shell(request, service, caller, "people", "People", scope="admin")


@router.get("/admin/runs/{run}")
async def run_page(request: Request, run: str, service: Service, caller: PageCaller) -> Response:
    """One run: its duels, its people, how well they agree."""
    if caller is None or not caller.may("experiment"):
        return _shell(request, service, caller, "run", run)
    if caller.sees(run) and re.fullmatch(RUN_ID, run):
        with contextlib.suppress(Missing):
            found = await service.database.read(partial(runs.get, run=run))
            return _shell(request, service, caller, "run", found.name or found.id, run=found.id)
    detail = "There is no such run, or your key is not for it."
    values = {"title": "No such run", "detail": detail, "links": [("/admin", "All runs")], "looks_again": False}
    return page(request, "message.html", 404, caller=caller, **values)


def _shell(
    request: Request,
    service: State,
    caller: Caller | None,
    view: str,
    title: str,
    run: str = "",
    scope: str = "experiment",
) -> Response:
    """The page without what the script ``view`` fills in, for who has the scope."""
    if caller is None:
        return to_sign_in(request)
    if not caller.may(scope):
        detail = f"Your key does not let you do this. Ask for a key with the scope {scope}, and sign in with that."
        return _refuse(request, caller, detail)
    has_dashboard = service.settings.runs is not None
    return page(request, "admin.html", caller=caller, view=view, title=title, run=run, has_dashboard=has_dashboard)


def _refuse(request: Request, caller: Caller, detail: str) -> Response:
    values = {"title": "Another key is needed", "detail": detail, "links": [("/label", "Runs to answer")]}
    return page(request, "message.html", 403, caller=caller, looks_again=False, **values)
