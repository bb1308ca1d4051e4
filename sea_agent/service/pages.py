"""Templates and static files of the pages, and the redirect to sign in."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import jinja2
from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from sea_agent.service.state import state_of

_HERE = Path(__file__).parent
_templates = Jinja2Templates(
    env=jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,  # prompts, names and instructions are text, never markup
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
)

_OWN_PATH = re.compile(r"/(?!/)[!-\[\]-~]*")
"""A path of this service: a browser reads ``//`` and ``/\\`` as the beginning of another host."""


class Static(StaticFiles):
    """The service's scripts and styles, and those that all pages share. A browser keeps them and asks each time whether
    they have changed (ETag)."""

    def __init__(self) -> None:
        super().__init__(directory=_HERE / "static", packages=[("sea_agent.web", "static")])

    def file_response(self, *args: Any, **options: Any) -> Response:
        """The file, or that it has not changed."""
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A page from a template, whose addresses begin with ``root``: the service may be below a path of its host."""
    return _templates.TemplateResponse(request, template, {"root": _root(request), **values}, status)


def redirect(request: Request, path: str) -> Response:
    """Send the reader of a page to another one of this service."""
    return RedirectResponse(f"{_root(request)}{path}", 303)


def to_sign_in(request: Request) -> Response:
    """Send the reader of a page to sign in, and then back to it."""
    if request.headers.get("sec-fetch-site") == "cross-site":
        # A browser that follows a link from elsewhere withholds a SameSite=Strict cookie. Opened once more, from
        # a page of the service, the page shows whether there is one.
        return page(request, "again.html", path=request.url.path)
    return redirect(request, f"/sign-in?next={quote(request.url.path)}")


def own_path(request: Request, path: str) -> str:
    """The path if it leads to this service, else that of the label page. It is as the browser shows it, so below the
    service's own path if that has one."""
    root = _root(request)
    leads_here = (
        _OWN_PATH.fullmatch(path)
        and path.startswith(f"{root}/")
        and {".", ".."}.isdisjoint(unquote(urlsplit(path).path).split("/"))
    )
    return path if leads_here else f"{root}/label"


def _root(request: Request) -> str:
    return state_of(request).settings.root_path
