"""What somebody may see of a board: all of it, or the runs that ask people in some runs of the feedback service."""

import threading

from sea_agent.dashboard.board import Board
from sea_agent.dashboard.run import Run
from sea_agent.dashboard.scan import Place, Scan

Reach = frozenset[str] | None
"""Ids of runs of the feedback service; None for everything."""


class Part(Board):
    """The runs of a board whose people answer in ``reach``. What it tells, versions and news included, comes of these
    alone: it neither shows others nor whether something happens in them."""

    def __init__(self, whole: Board, reach: frozenset[str]) -> None:
        super().__init__(whole.root)
        self._whole = whole
        self._reach = reach
        self._shown: dict[str, Run] = {}

    def _scan(self) -> Scan:
        self._shown = {run.id: run for run in self._whole.runs() if run.asks() in self._reach}
        places = {id_: run.place for id_, run in self._shown.items()}
        above = {place.collection for place in places.values()}
        return Scan(places=places, experiments=self._whole.found.experiments & above)

    def _open(self, place: Place) -> Run:
        return self._shown[place.id]  # the board's own: what was read of it serves everybody


class Parts:
    """The parts of a board by reach, each made when it is first asked for."""

    def __init__(self, whole: Board) -> None:
        self._whole = whole
        self._parts: dict[Reach, Board] = {None: whole}
        self._lock = threading.Lock()

    def of(self, reach: Reach) -> Board:
        """The board as far as somebody with this reach may see it."""
        with self._lock:
            if reach is not None and reach not in self._parts:
                self._parts[reach] = Part(self._whole, reach)
            return self._parts[reach]
