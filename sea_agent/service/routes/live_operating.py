"""What operators look at and change in a live run."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from sqlalchemy import Connection

from sea_agent.service import quality
from sea_agent.service.auth import Admin, Reader
from sea_agent.service.routes.live import status_out
from sea_agent.service.schemas.base import RunId, TimeIn
from sea_agent.service.schemas.live import (
    AuditOut,
    EngineOut,
    ImplicitOut,
    LiveRunOut,
    MeanOut,
    OutcomesOut,
    PromoteIn,
    QuantilesOut,
    SummaryOut,
    UserShareOut,
    UsersOut,
)
from sea_agent.service.schemas.quality import RateOut
from sea_agent.service.state import Service, State
from sea_agent.service.store import implicit, live_summary, publications
from sea_agent.service.store.live_summary import Choices
from sea_agent.web.problems import documented
from sea_agent.web.signals import publishing

DAY = 86_400.0

router = APIRouter(tags=["live mode"])


@router.post("/live/{run}/freeze", responses=documented(404))
async def freeze(run: RunId, service: Service, caller: Admin) -> LiveRunOut:
    """Keep what is live: only operators change it until it is unfrozen. Answering, asking and learning go on."""
    return await _operate(service, run, partial(publications.freeze, run=run, frozen=True))


@router.post("/live/{run}/unfreeze", responses=documented(404))
async def unfreeze(run: RunId, service: Service, caller: Admin) -> LiveRunOut:
    """Let new weights go live by themselves again."""
    return await _operate(service, run, partial(publications.freeze, run=run, frozen=False))


@router.post("/live/{run}/rollback", responses=documented(404, 409))
async def rollback(run: RunId, service: Service, caller: Admin) -> LiveRunOut:
    """Take back what is live; what was live before serves again."""
    return await _operate(service, run, partial(publications.rollback, run=run, now=service.now()))


@router.post("/live/{run}/promote", responses=documented(404, 409))
async def promote(run: RunId, body: PromoteIn, service: Service, caller: Admin) -> LiveRunOut:
    """Let a version go live, whatever became of it, as long as its weights are still there."""
    return await _operate(service, run, partial(publications.promote, run=run, version=body.version, now=service.now()))


@router.get("/live/{run}/summary", responses=documented(404))
async def summary(
    run: RunId,
    service: Service,
    caller: Reader,
    since: TimeIn | None = None,
    bins: Annotated[int, Query(ge=0, le=200)] = 0,
) -> SummaryOut:
    """What happened to the requests since a time, which is a day ago unless given; ``bins`` cuts it into a series."""
    until = service.now()
    begin = until - DAY if since is None else since
    read = partial(_read, run=run, since=begin, until=until, bins=bins)
    return SummaryOut(**await service.database.read(read), since=begin, until=until, engines=_engines(service))


async def _operate(service: State, run: str, change: Callable[[Connection], None]) -> LiveRunOut:
    def write(connection: Connection) -> LiveRunOut:
        change(connection)
        return status_out(publications.status(connection, run))

    return await service.database.write(write, wake=lambda _: [publishing(run)])


def _read(connection: Connection, run: str, since: float, until: float, bins: int) -> dict[str, Any]:
    live = status_out(publications.status(connection, run))
    counts = live_summary.counts(connection, run, since)
    choices = live_summary.choices(connection, run, since)
    regret, audits, users = (counts.pop(name) for name in ("regret", "audits", "users"))
    return counts | {
        "live": live,
        "answered": choices.answered,
        "late": choices.late,
        "outcomes": OutcomesOut(**choices.outcomes),
        "implicit": ImplicitOut(**implicit.counts(connection, run, since)),
        "first_shown": _rate(choices.outcomes["first"], choices.outcomes["second"]),
        "answer_rate": _rate(choices.answered, counts["asked"] - choices.answered),
        "audit": _audit(audits, choices),
        "regret": MeanOut(n=regret.n, mean=regret.mean, low=regret.low, high=regret.high),
        "first_token": _quantiles(live_summary.latencies(connection, run, since)),
        "users": _users(users, choices.answered, *live_summary.users(connection, run, since)),
        "publications": live_summary.published(connection, run),
        "series": live_summary.series(connection, run, since, until, bins),
        **live_summary.others(connection, run, since),
    }


def _rate(hits: int, misses: int) -> RateOut:
    return quality.rate([True] * hits + [False] * misses)


def _audit(asked: int, choices: Choices) -> AuditOut:
    counts = {"wins": choices.wins, "losses": choices.losses, "ties": choices.ties}
    return AuditOut(asked=asked, **counts, rate=_rate(choices.wins, choices.losses))


def _quantiles(seconds: list[float]) -> QuantilesOut:
    p50, p95, p99 = np.quantile(seconds, [0.5, 0.95, 0.99]).tolist() if seconds else (None, None, None)
    return QuantilesOut(n=len(seconds), p50=p50, p95=p95, p99=p99)


def _users(asking: int, answered: int, answering: int, most: list[tuple[str, int]]) -> UsersOut:
    shares = [UserShareOut(user=user, answers=answers, share=answers / answered) for user, answers in most]
    return UsersOut(users=asking, answering=answering, most=shares)


def _engines(service: State) -> list[EngineOut]:
    engines = [] if service.serving is None else service.serving.engines
    names = EngineOut.model_fields
    return [EngineOut(**{name: getattr(engine, name) for name in names}) for engine in engines]
