"""The dashboard beside the service: over directories of runs, to keys that may read. A key of some runs sees those."""

from pathlib import Path

from fastapi import APIRouter, Depends, Request

from sea_agent.dashboard.board import Board
from sea_agent.dashboard.routes import Server, make_router
from sea_agent.service.auth import Reader
from sea_agent.service.state import state_of


def router(runs: Path) -> APIRouter:
    """The routes below ``/dashboard``. Raises: UserError when ``runs`` is not a directory."""
    server = Server(
        signals=lambda request: state_of(request).database.signals,
        guards=[Depends(_reads)],
        allows=lambda request: state_of(request).keyring.holds(request.state.key_id),
        reach=lambda request: request.state.reach,
        is_service=True,
    )
    board = Board(runs)
    board.read_ahead()
    return make_router(board, server)


async def _reads(request: Request, caller: Reader) -> None:
    request.state.key_id, request.state.reach = caller.key_id, caller.runs
