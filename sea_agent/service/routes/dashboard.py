"""The dashboard beside the service: over directories of runs, to keys that may read everything."""

from pathlib import Path

from fastapi import APIRouter, Depends, Request

from sea_agent.dashboard.board import Board
from sea_agent.dashboard.routes import Server, make_router
from sea_agent.service.auth import Reader
from sea_agent.service.state import state_of
from sea_agent.web.problems import Problem


def router(runs: Path) -> APIRouter:
    """The routes below ``/dashboard``. Raises: UserError when ``runs`` is not a directory."""
    server = Server(
        signals=lambda request: state_of(request).database.signals,
        guards=[Depends(_reads_everything)],
        allows=lambda request: state_of(request).keyring.holds(request.state.key_id),
        is_service=True,
    )
    board = Board(runs)
    board.read_ahead()
    return make_router(board, server)


async def _reads_everything(request: Request, caller: Reader) -> None:
    if caller.runs is not None:
        raise Problem(
            403,
            "The dashboard shows every run; this key is for some. Ask for a key with the scope read and without runs.",
        )
    request.state.key_id = caller.key_id
