"""Signing in to the pages with a key, and out again."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from sea_agent.service import auth
from sea_agent.service.pages import own_path, page, redirect
from sea_agent.service.state import state_of
from sea_agent.service.store.keys import SESSION_SECONDS
from sea_agent.web.problems import Problem

router = APIRouter(include_in_schema=False)


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
    response = RedirectResponse(own_path(request, next), 303)
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
