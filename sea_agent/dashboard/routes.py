"""The page and what it asks for. All of it only reads, and ids of runs are looked up, never joined to a path."""

import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from sea_agent.dashboard import comparing, single
from sea_agent.dashboard.board import Answers, Board
from sea_agent.dashboard.chosen import Group, Selection, choose
from sea_agent.dashboard.comparing import Axis, Column, Table, Tallies
from sea_agent.dashboard.ledgers import Filter, Sort
from sea_agent.dashboard.live import Watch
from sea_agent.dashboard.run import Run
from sea_agent.errors import UserError
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
GroupKey = Annotated[list[str] | None, Query(min_length=3, max_length=3, description="World, loss and labels.")]
Columns = Annotated[tuple[Column, ...], Query(max_length=20)]
Level = Annotated[float, Query(ge=0.0, le=1.0)]
Round = Annotated[int | None, Query(ge=0, le=2**53)]
Outcome = Literal["first", "second", "tie", "both_bad", "skip", "none"]
Source = Literal["oracle", "posterior", "demo", "self"]


@dataclass(frozen=True)
class Host:
    """What serves the page. ``signals`` tell when to end streams, ``guards`` are dependencies that refuse who may not
    read, ``allows`` tells whether the asker still may; ``is_service``: whether the page may ask it about annotators."""

    signals: Callable[[Request], Signals]
    guards: Sequence[Any] = ()
    allows: Callable[[Request], bool] = lambda request: True
    is_service: bool = False


def make_router(board: Board, host: Host) -> APIRouter:
    """Routes below ``/dashboard``: the page, and its data behind the guards of the host."""
    router = APIRouter(prefix="/dashboard", include_in_schema=False)
    _add_page(router)
    for part in (_comparison_routes(board), _run_routes(board), _news_routes(board, host)):
        router.include_router(part, prefix="/api", dependencies=list(host.guards))
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
    """What a panel of the comparison is asked about."""

    request: Request
    runs: list[Run]
    group: Group | None

    def answer(
        self,
        board: Board,
        options: Sequence[Any],
        view: Callable[[Selection], Any],
        table: Callable[[Selection], Table],
    ) -> Response:
        """The panel's view or table of the runs."""
        return _answer(
            board,
            self.request,
            (self.group, *options),
            self.runs,
            lambda: view(choose(self.runs, self.group)),
            lambda: table(choose(self.runs, self.group)),
        )


def _comparison_routes(board: Board) -> APIRouter:
    router, tallies = APIRouter(), Tallies()

    def asked(request: Request, runs: RunIds = (), group: GroupKey = None) -> Asked:
        return Asked(request, _select(board, runs), None if group is None else (group[0], group[1], group[2]))

    About = Annotated[Asked, Depends(asked)]

    @router.get("/comparison")
    @router.get("/comparison.csv")
    def comparison(about: About, level: Level = 0.8, baseline: str | None = None) -> Response:
        return about.answer(
            board,
            (level, baseline),
            lambda chosen: comparing.comparison_view(chosen, level, baseline),
            lambda chosen: comparing.comparison_table(chosen, level, baseline),
        )

    @router.get("/curves")
    @router.get("/curves.csv")
    def curves(about: About, column: Columns = ("win_rate",), x: Axis = "queries") -> Response:
        def view(chosen: Selection) -> dict[str, Any]:
            return comparing.curves_view(chosen, column, x)

        return about.answer(board, (column, x), view, lambda chosen: comparing.long_table(view(chosen)))

    @router.get("/beliefs")
    @router.get("/beliefs.csv")
    def beliefs(about: About) -> Response:
        view = comparing.beliefs_view
        return about.answer(board, (), view, lambda chosen: comparing.long_table(view(chosen)))

    @router.get("/labels")
    @router.get("/labels.csv")
    def labels(about: About) -> Response:
        def view(chosen: Selection) -> dict[str, Any]:
            return comparing.labels_view(chosen, tallies)

        return about.answer(board, (), view, lambda chosen: comparing.calibration_table(view(chosen)))

    return router


def _run_routes(board: Board) -> APIRouter:
    router = APIRouter()

    @router.get("/throughput")
    @router.get("/throughput.csv")
    def throughput(request: Request, run: RunId) -> Response:
        one = _find(board, run)
        return _answer(
            board,
            request,
            (),
            [one],
            lambda: single.throughput_view(one),
            lambda: single.throughput_table(single.throughput_view(one)),
        )

    @router.get("/duels")
    @router.get("/duels.csv")
    def duels(
        request: Request,
        run: RunId,
        text: Annotated[str, Query(max_length=500)] = "",
        outcome: Outcome | None = None,
        source: Source | None = None,
        first_round: Round = None,
        last_round: Round = None,
        sort: Sort = "newest",
        offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        one = _find(board, run)
        wanted = Filter(text, outcome, source, first_round, last_round)
        return _answer(
            board,
            request,
            (wanted, sort, offset, limit),
            [one],
            lambda: single.duels_view(one, wanted, sort, offset, limit),
            lambda: single.duels_table(one, wanted, sort),
        )

    @router.get("/duel")
    def duel(request: Request, run: RunId, duel: Annotated[str, Query(max_length=200)]) -> Response:
        one = _find(board, run)

        def view() -> dict[str, Any]:
            found = single.duel_view(one, duel)
            if found is None:
                raise Problem(404, f"There is no duel {duel} in the ledger of {run}.")
            return found

        return _answer(board, request, (duel,), [one], view, None)

    @router.get("/configuration")
    @router.get("/configuration.csv")
    def configuration(
        request: Request, run: RunId, against: Annotated[str | None, Query(max_length=4000)] = None
    ) -> Response:
        one, other = _find(board, run), None if against is None else _find(board, against)
        return _answer(
            board,
            request,
            (),
            [one] if other is None else [one, other],
            lambda: single.configuration_view(one, other),
            lambda: single.configuration_view(one, other)["keys"],
        )

    return router


def _news_routes(board: Board, host: Host) -> APIRouter:
    router, watch = APIRouter(), Watch(board)

    @router.get("/runs")
    def runs() -> dict[str, Any]:
        """Every run with its state, and what is wrong with what else is there. No file of a run is opened."""
        places = [run.place for run in board.runs()]
        return {
            "name": board.name,
            "version": board.version,
            "service": host.is_service,
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
        request: Request, last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=100)] = None
    ) -> AsyncIterator[ServerSentEvent]:
        async for news in watch.news(host.signals(request), lambda: host.allows(request), last_event_id):
            yield news

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


def _answer(
    board: Board,
    request: Request,
    options: Sequence[Any],
    runs: Sequence[Run],
    view: Callable[[], Any],
    table: Callable[[], Table] | None,
) -> Response:
    """The view as JSON, or its table where the path ends in ``.csv``; 304 when the asker has it already."""
    path = request.url.path
    as_csv = path.endswith(".csv") and table is not None
    tag = Answers.tag((path, options), runs)
    headers = {"ETag": f'"{tag}"'}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)

    def make() -> bytes:
        if as_csv and table is not None:
            return _csv(table())
        return json.dumps(view(), allow_nan=False, separators=(",", ":")).encode()

    try:
        body = board.answers.get(tag, make)
    except UserError as error:
        raise Problem(422, " ".join(str(error).split())) from None
    if as_csv:
        name = path.rpartition("/")[2]
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return Response(body, headers=headers, media_type="text/csv; charset=utf-8" if as_csv else "application/json")


def _csv(rows: Table) -> bytes:
    """A table with a line of headings. Texts that a spreadsheet would take for a formula get an apostrophe."""
    target = io.StringIO()
    writer = csv.DictWriter(target, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    return target.getvalue().encode()


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
