"""Refusals of the store as problem documents."""

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from sea_agent.service.store.database import StoreUnavailable
from sea_agent.service.store.faults import Conflict, Missing
from sea_agent.web.problems import Problem, problem_response

_STATUS = {Missing: 404, Conflict: 409, StoreUnavailable: 503}


def install(app: FastAPI) -> None:
    """Answer the store's refusals with problem documents."""
    for refusal in _STATUS:
        app.exception_handler(refusal)(_refused)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    status = _STATUS[type(error)]
    return problem_response(Problem(status, str(error), headers={"Retry-After": "1"} if status == 503 else None))
