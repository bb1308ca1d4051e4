"""The dashboard beside the service: over directories of runs, to keys that may read everything."""

from pathlib import Path

from fastapi import APIRouter, Depends

from sea_agent.dashboard.board import Board
from sea_agent.dashboard.routes import make_router
from sea_agent.service.auth import Reader
from sea_agent.service.problems import Problem
from sea_agent.service.state import state_of


def router(runs: Path) -> APIRouter:
    """The routes below ``/dashboard``. Raises: UserError when ``runs`` is not a directory."""
    board = Board(runs)
    return make_router(
        board, lambda request: state_of(request).database.signals, [Depends(_reads_everything)], service=True
    )


async def _reads_everything(caller: Reader) -> None:
    if caller.runs is not None:
        raise Problem(403, "The dashboard shows every run; this key is for some.")
