"""Templates and static files of the pages, and the redirect to sign in."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

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
    """A page from a template."""
    return _templates.TemplateResponse(request, template, values, status)


def to_sign_in(request: Request) -> Response:
    """Send the reader of a page to sign in, and then back to it."""
    if request.headers.get("sec-fetch-site") == "cross-site":
        # A browser that follows a link from elsewhere withholds a SameSite=Strict cookie. Opened once more, from
        # a page of the service, the page shows whether there is one.
        return page(request, "again.html", path=request.url.path)
    return RedirectResponse(f"/sign-in?next={quote(request.url.path)}", 303)


def own_path(path: str) -> str:
    """The path if it leads to this service, else that of the label page."""
    return path if _OWN_PATH.fullmatch(path) else "/label"
