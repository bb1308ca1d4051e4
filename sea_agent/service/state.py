"""The parts of a running service, and how a route gets them."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from sea_agent.service.chat.gateway import Gateway
from sea_agent.service.chat.serving import Serving
from sea_agent.service.keyring import KeyRing
from sea_agent.service.limits import RateLimit
from sea_agent.service.metrics import Metrics
from sea_agent.service.settings import Settings
from sea_agent.service.store.database import Database


@dataclass(frozen=True)
class State:
    """The parts of a running service."""

    settings: Settings
    database: Database
    keyring: KeyRing
    rate: RateLimit
    metrics: Metrics
    cookie: str
    """Name of the pages' cookie."""
    serving: Serving | None = None
    """Sees to it that engines hold the live weights; only in live mode."""
    gateway: Gateway | None = None
    """Answers chat completions; only in live mode."""

    def now(self) -> float:
        """Seconds UTC by the service's clock."""
        return self.settings.clock()


def state_of(request: Request) -> State:
    """The service that handles a request."""
    state: State = request.app.state.service
    return state


async def _state(request: Request) -> State:
    # Asynchronous, as the framework runs others in a thread.
    return state_of(request)


Service = Annotated[State, Depends(_state)]
