"""Whether the process is up, and whether its store answers."""

from fastapi import APIRouter
from sqlalchemy import select

from sea_agent.service.schemas.base import HealthOut
from sea_agent.service.state import Service
from sea_agent.web.problems import documented

router = APIRouter(tags=["health"])


@router.get("/healthz", responses=documented(500))
async def healthz() -> HealthOut:
    """The process is up."""
    return HealthOut(status="ok")


@router.get("/readyz", responses=documented(503))
async def readyz(service: Service) -> HealthOut:
    """The store answers."""
    await service.database.read(lambda connection: connection.execute(select(1)).scalar_one())
    return HealthOut(status="ready")
