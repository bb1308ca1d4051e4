"""Signing in to the pages with a key, and out again."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from sea_agent.service import auth
from sea_agent.service.auth import READS, Caller, PageCaller
from sea_agent.service.pages import own_path, page, redirect, to_sign_in
from sea_agent.service.state import Service, state_of
from sea_agent.service.store import runs
from sea_agent.service.store.keys import SESSION_SECONDS
from sea_agent.web.problems import Problem

router = APIRouter(include_in_schema=False)

_USES = {
    "experiment": "It posts duels and reads answers, from experiments and scripts.",
    "read": "It reads labels, their quality, exports and metrics.",
    "chat": "It talks to the model that learns from its users, on a page or from an app.",
}


@router.get("/sign-in")
async def sign_in_page(request: Request, next: str = "") -> Response:
    """Ask for a key."""
    return page(request, "sign_in.html", next=own_path(request, next), fault=None)


@router.post("/sign-in")
async def sign_in(request: Request, key: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "") -> Response:
    """Start a session, end the previous one if there is one, and redirect to the requested page."""
    try:
        auth.check_origin(request)
        token = await auth.sign_in(request, key.strip())
    except Problem as problem:
        return page(request, "sign_in.html", problem.status_code, next=own_path(request, next), fault=problem.detail)
    await auth.sign_out(request)
    response = RedirectResponse(_first_page(request, auth.holder(request, token), own_path(request, next)), 303)
    response.set_cookie(
        state_of(request).cookie,
        token,
        max_age=int(SESSION_SECONDS),
        path=state_of(request).settings.cookie_path,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.get("/your-key")
async def key_page(request: Request, service: Service, caller: PageCaller) -> Response:
    """What a key is for, to whoever is signed in with it and can do nothing on a page."""
    if caller is None:
        return to_sign_in(request)
    names = [row.id for row in await service.database.read(runs.everything) if caller.sees(row.id)]
    shown = names if caller.may(*READS) else []
    return page(request, "your_key.html", caller=caller, uses=_USES, runs=shown)


def _first_page(request: Request, caller: Caller | None, wanted: str) -> str:
    """Where somebody is led who signed in: whoever cannot answer duels would be refused on the label page."""
    settings = state_of(request).settings
    if caller is None or caller.may("annotate") or not wanted.startswith(f"{settings.root_path}/label"):
        return wanted
    if caller.may("experiment"):
        return f"{settings.root_path}/admin"
    if caller.may("chat"):
        return f"{settings.root_path}/chat"
    return settings.root_path + ("/dashboard/" if settings.runs is not None and caller.may(*READS) else "/your-key")


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """End the session."""
    auth.check_origin(request)
    await auth.sign_out(request)
    response = redirect(request, "/sign-in")
    response.delete_cookie(
        state_of(request).cookie,
        path=state_of(request).settings.cookie_path,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response
