"""Log-probabilities by the engines that serve, which the gate compares with a sampler's."""

import os
from collections.abc import Sequence
from pathlib import Path

import httpx

from sea_agent.live.measuring import NotScored, Score
from sea_agent.service.chat.settings import TOKEN, located, read_live_settings
from sea_agent.types import TokenRow

_SECONDS = 120.0
_ROWS = 64
"""Rows of a request."""
_WORDS = 200
"""Characters of an engine's refusal that are told."""


def engine_score(settings: Path) -> Score | None:
    """Asks the first engine that answers with the wanted version; None where ``settings`` is not there, so that there
    are no engines."""
    if not settings.is_file():
        return None
    engines = read_live_settings(settings).engines

    def score(rows: Sequence[TokenRow], version: int) -> list[list[float]]:
        headers = {"Authorization": f"Bearer {os.environ.get(TOKEN, '')}"}
        reasons = []
        for file_or_url in engines:
            url = located(file_or_url)
            if not url:
                reasons.append(f"{file_or_url}: it is nowhere now")
                continue
            with httpx.Client(base_url=url, headers=headers, timeout=_SECONDS, trust_env=False) as client:
                try:
                    return _scored(client, rows, version)
                except NotScored as error:
                    reasons.append(f"{url}: {error}")
        raise NotScored("; ".join(reasons))

    return score


def _scored(client: httpx.Client, rows: Sequence[TokenRow], version: int) -> list[list[float]]:
    """Raises: NotScored."""
    found: list[list[float]] = []
    for start in range(0, len(rows), _ROWS):
        part = [[list(prompt), list(response)] for prompt, response in rows[start : start + _ROWS]]
        try:
            response = client.post("/score", json={"rows": part, "version": version})
        except httpx.HTTPError as error:
            raise NotScored(str(error) or type(error).__name__) from None
        if response.status_code != 200:  # most often it holds another version by now
            raise NotScored(f"it answered {response.status_code}: {response.text[:_WORDS]}")
        found += response.json()["logprobs"]
    return found
