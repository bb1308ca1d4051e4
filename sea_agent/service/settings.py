"""Settings of the feedback service."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import make_url

from sea_agent.service.chat.settings import LiveSettings


@dataclass(frozen=True)
class Settings:
    """Settings of one service process."""

    data: Path = Path("sea-agent-data")
    """Directory of the SQLite database; made when missing."""
    database: str | None = None
    """``sqlite:///FILE`` or ``postgresql://…``; ``feedback.sqlite`` in ``data`` when not given."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8400
    """Port to listen on; 0 takes a free one."""
    root_path: str = ""
    """Path of the host below which everything is, such as ``/feedback``; empty for the whole host."""
    proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies that are believed when they say how they were asked; this machine always is."""
    runs: Path | None = None
    """Directory of runs for the dashboard; without one there is no dashboard."""
    body_bytes: int = 2_000_000
    """Largest request body."""
    file_bytes: int = 20_000_000
    """Largest file of duels."""
    requests_per_second: float = 600.0
    """Requests a second of one key, on average."""
    burst: int = 1200
    """Requests of one key at once."""
    deadline_seconds: float = 20.0
    """Longest wait for the store before a request is answered with 503."""
    live: LiveSettings | None = None
    """Live mode: where its engines and decider are, and how users are answered and asked."""
    seed: int = field(default_factory=lambda: secrets.randbits(62))
    """Of the draws of presentation order, repeated and gold duels."""
    clock: Callable[[], float] = time.time
    """Seconds UTC."""
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    """Between two looks for texts whose time has passed."""

    @property
    def url(self) -> str:
        """Where the database is."""
        return self.database or f"sqlite:///{self.data / 'feedback.sqlite'}"

    @property
    def cookie(self) -> str:
        """Name of the pages' cookie: browsers send it to every port of a host, so each database has its own, and each
        path of the host, as the databases of containers are called the same."""
        url = make_url(self.url)
        local = url.drivername.startswith("sqlite")
        place = str(Path(url.database or "").resolve()) if local else f"{url.host}:{url.port}/{url.database}"
        return f"sea_session_{hashlib.sha256(f'{place}{self.root_path}'.encode()).hexdigest()[:8]}"

    @property
    def cookie_path(self) -> str:
        """Where browsers send the pages' cookie."""
        return self.root_path or "/"
