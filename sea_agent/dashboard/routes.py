"""The page and what it asks for. All of it only reads, and ids of runs are looked up, never joined to a path."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from sea_agent.dashboard import comparing, single
from sea_agent.dashboard.board import Answers, Board
from sea_agent.dashboard.chosen import choose
from sea_agent.dashboard.comparing import Axis, Column, Table
from sea_agent.dashboard.ledgers import Filter, Sort
from sea_agent.dashboard.live import News
from sea_agent.dashboard.part import Parts, Reach
from sea_agent.dashboard.run import Run
from sea_agent.data.spreadsheets import csv_lines
from sea_agent.errors import UserError
from sea_agent.types import LabelSource, Outcome
from sea_agent.web.problems import Problem
from sea_agent.web.signals import Signals

_PACKAGE = Path(str(resources.files("sea_agent")))
STATIC = _PACKAGE / "dashboard" / "static"
FILES = {
    path.relative_to(folder).as_posix(): path
    for folder in (STATIC, _PACKAGE / "web" / "static")
    for path in folder.rglob("*")
    if path.is_file()
}
"""What the page consists of, by name."""

RunIds = Annotated[tuple[str, ...], Query(max_length=200)]
RunId = Annotated[str, Query(max_length=4000)]
GroupParts = Annotated[list[str] | None, Query(min_length=3, max_length=3, description="World, loss and labels.")]
Columns = Annotated[tuple[Column, ...], Query(max_length=20)]
Level = Annotated[float, Query(ge=0.0, le=1.0)]
Round = Annotated[int | None, Query(ge=0, le=2**53)]


@dataclass(frozen=True)
class Server:
    """What serves the page. ``signals`` tell when to end streams, ``guards`` are dependencies that refuse who may not
    read, ``allows`` tells whether the asker still may, ``reach`` which of the service's runs they may see;
    ``is_service``: whether the page may ask it about annotators."""

    signals: Callable[[Request], Signals]
    guards: Sequence[Any] = ()
    allows: Callable[[Request], bool] = lambda request: True
    reach: Callable[[Request], Reach] = lambda request: None
    is_service: bool = False


def make_router(board: Board, server: Server) -> APIRouter:
    """Routes below ``/dashboard``: the page, and its data behind the guards of the server."""
    router, parts = APIRouter(prefix="/dashboard", include_in_schema=False), Parts(board)

    async def seen(request: Request) -> Board:
        return parts.of(server.reach(request))

    _add_page(router)
    for part in (_comparison_routes(seen), _run_routes(seen), _news_routes(seen, server)):
        router.include_router(part, prefix="/api", dependencies=list(server.guards))
    return router


def _add_page(router: APIRouter) -> None:
    @router.get("")
    async def without_slash() -> Response:
        return RedirectResponse("dashboard/")

    @router.get("/")
    async def page() -> Response:
        return FileResponse(STATIC / "index.html")

    @router.get("/static/{name:path}")
    async def static(name: str) -> Response:
        if name not in FILES:
            raise Problem(404, f"There is no file {name}.")
        return FileResponse(FILES[name], headers={"Cache-Control": "no-cache"})


@dataclass(frozen=True)
class Asked:
    """A question about ``runs``. ``subject`` makes what a panel shows; ``key`` tells it from others of these runs."""

    board: Board
    request: Request
    runs: list[Run]
    subject: Callable[[], Any]
    key: Any = None

    def answer(self, view: Callable[..., Any], table: Callable[..., Table] | None, *options: Any) -> Response:
        """``view`` of the subject with the options as JSON, or ``table`` of them where the path ends in ``.csv``; 304
        when the asker has it already."""
        path = self.request.url.path
        tag = Answers.tag((path, self.key, options), self.runs)
        headers = {"ETag": f'"{tag}"'}
        if tag in self.request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        as_csv = table is not None and path.endswith(".csv")

        def make() -> bytes:
            if as_csv and table is not None:
                rows = table(self.subject(), *options)
                return csv_lines(list(dict.fromkeys(name for row in rows for name in row)), rows)
            return json.dumps(view(self.subject(), *options), allow_nan=False, separators=(",", ":")).encode()

        try:
            body = self.board.answers.get(tag, make)
        except UserError as error:
            raise Problem(422, " ".join(str(error).split())) from None
        if as_csv:
            headers["Content-Disposition"] = f'attachment; filename="{path.rpartition("/")[2]}"'
        return Response(body, headers=headers, media_type="text/csv; charset=utf-8" if as_csv else "application/json")


def _table_of(view: Callable[..., Any], table: Callable[[Any], Table]) -> Callable[..., Table]:
    """A table that is made of a view."""
    return lambda *given: table(view(*given))


Seen = Callable[[Request], Awaitable[Board]]
"""The board as far as whoever makes a request may see it."""


def _comparison_routes(seen: Seen) -> APIRouter:
    router = APIRouter()

    def asked(
        request: Request, board: Annotated[Board, Depends(seen)], runs: RunIds = (), group: GroupParts = None
    ) -> Asked:
        selected, key = _select(board, runs), None if group is None else (group[0], group[1], group[2])
        return Asked(board, request, selected, lambda: choose(selected, key), key)

    About = Annotated[Asked, Depends(asked)]

    @router.get("/comparison")
    @router.get("/comparison.csv")
    def comparison(about: About, level: Level = 0.8, baseline: str | None = None) -> Response:
        return about.answer(comparing.comparison_view, comparing.comparison_table, level, baseline)

    @router.get("/curves")
    @router.get("/curves.csv")
    def curves(about: About, column: Columns = ("win_rate",), x: Axis = "queries") -> Response:
        view = comparing.curves_view
        return about.answer(view, _table_of(view, comparing.long_table), column, x)

    @router.get("/beliefs")
    @router.get("/beliefs.csv")
    def beliefs(about: About) -> Response:
        view = comparing.beliefs_view
        return about.answer(view, _table_of(view, comparing.long_table))

    @router.get("/labels")
    @router.get("/labels.csv")
    def labels(about: About) -> Response:
        return about.answer(comparing.labels_view, _table_of(comparing.labels_view, comparing.calibration_table))

    return router


def _run_routes(seen: Seen) -> APIRouter:
    router = APIRouter()

    def asked(request: Request, board: Annotated[Board, Depends(seen)], run: RunId) -> Asked:
        one = _find(board, run)
        return Asked(board, request, [one], lambda: one)

    About = Annotated[Asked, Depends(asked)]

    @router.get("/throughput")
    @router.get("/throughput.csv")
    def throughput(about: About) -> Response:
        view = single.throughput_view
        return about.answer(view, _table_of(view, single.throughput_table))

    @router.get("/duels")
    @router.get("/duels.csv")
    def duels(
        about: About,
        text: Annotated[str, Query(max_length=500)] = "",
        outcome: Outcome | Literal["none"] | None = None,
        source: LabelSource | None = None,
        first_round: Round = None,
        last_round: Round = None,
        sort: Sort = "newest",
        offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        wanted = Filter(text, outcome, source, first_round, last_round)
        return about.answer(single.duels_view, single.duels_table, wanted, sort, offset, limit)

    @router.get("/duel")
    def duel(about: About, run: RunId, duel: Annotated[str, Query(max_length=200)]) -> Response:
        def view(one: Run, duel: str) -> dict[str, Any]:
            found = single.duel_view(one, duel)
            if found is None:
                raise Problem(404, f"There is no duel {duel} in the ledger of {run}.")
            return found

        return about.answer(view, None, duel)

    @router.get("/configuration")
    @router.get("/configuration.csv")
    def configuration(about: About, against: Annotated[str | None, Query(max_length=4000)] = None) -> Response:
        runs = [*about.runs, *([] if against is None else [_find(about.board, against)])]
        table = _table_of(single.configuration_view, lambda view: view["keys"])
        return replace(about, runs=runs, subject=lambda: runs).answer(single.configuration_view, table)

    return router


def _news_routes(seen: Seen, server: Server) -> APIRouter:
    router, news_of = APIRouter(), cache(News)

    @router.get("/runs")
    def runs(board: Annotated[Board, Depends(seen)]) -> dict[str, Any]:
        """Every run with its state, and what is wrong with what else is there. No file of a run is opened."""
        places = [run.place for run in board.runs()]
        return {
            "name": board.name,
            "version": board.version,
            "service": server.is_service,
            "runs": [
                {
                    "id": place.id,
                    "collection": place.collection,
                    "state": place.state,
                    "changed": max((at for at, _ in place.files.values()), default=0) / 1e9,
                    "trouble": place.trouble,
                }
                for place in places
            ],
            "experiments": sorted(board.found.experiments),
            "trouble": [{"place": place, "what": what} for place, what in board.found.trouble],
        }

    @router.get("/events", response_class=EventSourceResponse)
    async def events(
        request: Request,
        board: Annotated[Board, Depends(seen)],
        last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=100)] = None,
    ) -> AsyncIterator[ServerSentEvent]:
        async for event in news_of(board).events(
            server.signals(request), lambda: server.allows(request), last_event_id
        ):
            yield event

    return router


def _select(board: Board, ids: Iterable[str]) -> list[Run]:
    try:
        return board.select(ids)
    except KeyError as error:
        raise Problem(404, f"There is no run {error.args[0]} here, and no directory of runs of this name.") from None


def _find(board: Board, id_: str) -> Run:
    try:
        return board.run(id_)
    except KeyError:
        raise Problem(404, f"There is no run {id_} here.") from None
