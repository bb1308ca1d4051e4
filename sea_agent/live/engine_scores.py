"""Log-probabilities by the engines that serve, which the gate compares with a sampler's."""

import os
from collections.abc import Sequence
from pathlib import Path

import httpx

from sea_agent.live.measuring import Score
from sea_agent.service.chat.settings import TOKEN, located, read_live_settings
from sea_agent.types import TokenRow

_SECONDS = 120.0
_ROWS = 64
"""Rows of a request."""


def engine_score(settings: Path) -> Score | None:
    """Asks the first engine that answers with the wanted version; None where ``settings`` names no engines."""
    if not settings.is_file():
        return None
    engines = read_live_settings(settings).engines

    def score(rows: Sequence[TokenRow], version: int) -> list[list[float]] | None:
        headers = {"Authorization": f"Bearer {os.environ.get(TOKEN, '')}"}
        for url in engines:
            with httpx.Client(base_url=located(url), headers=headers, timeout=_SECONDS, trust_env=False) as client:
                found = _scored(client, rows, version)
            if found is not None:
                return found
        return None

    return score


def _scored(client: httpx.Client, rows: Sequence[TokenRow], version: int) -> list[list[float]] | None:
    found: list[list[float]] = []
    for start in range(0, len(rows), _ROWS):
        part = [[list(prompt), list(response)] for prompt, response in rows[start : start + _ROWS]]
        try:
            response = client.post("/score", json={"rows": part, "version": version})
        except httpx.HTTPError:
            return None
        if response.status_code != 200:
            return None  # it holds another version by now, or cannot score
        found += response.json()["logprobs"]
    return found
