"""What the store refuses, as problem documents."""

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from sea_agent.service.store.database import StoreUnavailable
from sea_agent.service.store.faults import Conflict, Missing
from sea_agent.web.problems import Problem, problem_response


def install(app: FastAPI) -> None:
    """Answer the store's refusals with problem documents."""
    app.exception_handler(Missing)(_missing)
    app.exception_handler(Conflict)(_conflict)
    app.exception_handler(StoreUnavailable)(_unavailable)


async def _missing(request: Request, error: Missing) -> JSONResponse:
    return problem_response(Problem(404, str(error)))


async def _conflict(request: Request, error: Conflict) -> JSONResponse:
    return problem_response(Problem(409, str(error)))


async def _unavailable(request: Request, error: StoreUnavailable) -> JSONResponse:
    return problem_response(Problem(503, str(error), headers={"Retry-After": "1"}))
