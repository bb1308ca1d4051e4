"""Every error as ``application/problem+json`` (RFC 9457), the framework's own included."""

import http
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from sea_agent.web.security import HEADERS

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["where", "what"],
                "properties": {"where": {"type": "string"}, "what": {"type": "string"}},
            },
        },
    },
}


class Problem(HTTPException):
    """An error with its status, what is wrong and what to do, and for 422 where in the request it is."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.errors = errors


Responses = dict[int | str, dict[str, Any]]


def documented(*statuses: int) -> Responses:
    """What OpenAPI says about the problems that a route may answer with."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": http.HTTPStatus(status).phrase, "content": content} for status in statuses}


def problem_response(problem: Problem) -> JSONResponse:
    """The document of a problem."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": http.HTTPStatus(problem.status_code).phrase,
        "status": problem.status_code,
        "detail": problem.detail,
    }
    if problem.errors:
        body["errors"] = [{"where": where, "what": what} for where, what in problem.errors]
    return JSONResponse(body, problem.status_code, problem.headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of an app with a problem document."""
    app.exception_handler(HTTPException)(_http)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(Exception)(_unexpected)


async def _http(request: Request, error: HTTPException) -> JSONResponse:
    if isinstance(error, Problem):
        return problem_response(error)
    if error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(_methods(request))
        return problem_response(Problem(405, f"{request.url.path} takes {allowed}.", headers={"Allow": allowed}))
    if error.status_code == http.HTTPStatus.NOT_FOUND:
        return problem_response(Problem(404, f"There is nothing at {request.url.path}."))
    return problem_response(Problem(error.status_code, str(error.detail), headers=error.headers))


def _methods(request: Request) -> list[str]:
    """The methods of every route with the template of the path: the framework itself names those of one route only."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    paths = [getattr(route, "path", None) for route in routes]  # a later template may fit too, if less closely
    methods = [getattr(route, "methods", None) or set() for route in routes]
    return sorted(set().union(*(some for some, path in zip(methods, paths, strict=True) if path == paths[0])))


async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    faults = error.errors()
    if any(fault["type"] == "json_invalid" for fault in faults):
        return problem_response(Problem(400, "The body is not JSON."))
    errors = [(".".join(map(str, fault["loc"])), fault["msg"]) for fault in faults]
    return problem_response(Problem(422, "The request is not valid; errors lists the fields.", errors))


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    # This response is made outside every middleware, so it sets the security headers itself.
    detail = "The service failed; its log says more. Nothing was acknowledged."
    return problem_response(Problem(500, detail, headers=HEADERS))
