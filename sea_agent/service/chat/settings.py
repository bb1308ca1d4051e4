"""What the gateway is told of live mode: a file that ``sea-agent live`` writes and ``sea-agent serve --live`` reads."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sea_agent.config import LiveConfig
from sea_agent.config.live import TOKEN as TOKEN
from sea_agent.config.section import read_settings

FILE = "file://"


class LiveSettings(BaseModel):
    """Where engines and decider are, and how users are answered and asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    live: LiveConfig
    engines: Annotated[tuple[str, ...], Field(min_length=1)]
    """URLs, such as ``http://127.0.0.1:8501``; of those that may move ``file:///…``, a file that holds one."""
    decider: str
    """URL."""
    max_new_tokens: int
    """Most tokens of a response."""
    temperature: float
    """Sampling temperature where a request names none."""


def located(url: str) -> str:
    """Where an engine is now; empty where the file of one that may move is not there."""
    if not url.startswith(FILE):
        return url
    try:
        return Path(url.removeprefix(FILE)).read_text().strip()
    except OSError:
        return ""


def read_live_settings(path: Path) -> LiveSettings:
    """Raises: UserError when the file cannot be read or is none of these."""
    return read_settings(LiveSettings, path, "live mode", option="--live ")
