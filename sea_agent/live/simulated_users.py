"""Users of a built-in world, for demos and tests: they ask its prompts by the public API and pick by its reward.

    python -m sea_agent.live.simulated_users SETTINGS.json

Some answer late, and some not at all. They go on until they are told to end, and write one line of JSON an answer to
``log``: which completion it was, its hidden rewards, under which weights, and what they picked; or why there was none.
"""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from oracle.base import bradley_terry
from sea_agent.errors import UserError
from sea_agent.seeding import generator_for
from sea_agent.worlds import resolve, scorer

CHAT_KEY = "SEA_AGENT_CHAT_KEY"
REQUEST_SECONDS = 60.0
PAUSE_SECONDS = 1.0
"""After a request that failed."""


class Users(BaseModel):
    """Who uses the endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    model: str
    world: Literal["lexicon", "kitchen", "reviews", "tastes"]
    count: Annotated[int, Field(ge=1)]
    prompts: str
    """JSONL file of prompts."""
    log: Path
    requests: int | None = None
    """Of each user; None: until they are told to end."""
    every_seconds: float = 0.5
    """Mean time between two requests of one user."""
    answering: Annotated[float, Field(ge=0.0, le=1.0)] = 0.8
    """Share of the duels that are answered."""
    delay_seconds: float = 1.0
    """Mean time until they are."""
    liars: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Share of the users who pick the worse response."""
    seed: int = 0


async def use(users: Users, key: str) -> None:
    """Let all users use the endpoint."""
    lines = Path(resolve(users.prompts)).read_text(encoding="utf-8").splitlines()
    prompts = [str(json.loads(line)["prompt"]) for line in lines if line]
    headers = {"Authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=users.count + 1)
    with users.log.open("a", encoding="utf-8") as log:
        async with httpx.AsyncClient(
            base_url=users.url, headers=headers, timeout=REQUEST_SECONDS, limits=limits, trust_env=False
        ) as client:
            await asyncio.gather(*(_User(users, place, client, prompts, log).use() for place in range(users.count)))


class _User:
    def __init__(self, users: Users, place: int, client: httpx.AsyncClient, prompts: list[str], log: Any) -> None:
        self._users, self._place, self._client, self._prompts, self._log = users, place, client, prompts, log
        self._score = scorer(users.world, "reward")
        self._chance = generator_for(users.seed, "simulated user", place)
        self._lies = place < round(users.liars * users.count)
        self._picks: set[asyncio.Task[None]] = set()

    async def use(self) -> None:
        """Ask, be answered, and pick."""
        number = 0
        while self._users.requests is None or number < self._users.requests:
            number += 1
            await asyncio.sleep(self._chance.exponential(self._users.every_seconds))
            prompt = self._prompts[int(self._chance.integers(len(self._prompts)))]
            body = {
                "model": self._users.model,
                "user": f"user {self._place}",
                "messages": [{"role": "user", "content": prompt}],
                "sea": {"duel": "allow"},
            }
            try:
                answer = (await self._client.post("/v1/chat/completions", json=body)).raise_for_status().json()
            except httpx.HTTPError as error:
                self._fail(error)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            texts = [choice["message"]["content"] for choice in answer["choices"]]
            rewards = [self._score(prompt, text) for text in texts]
            self._note(answer, rewards, None)
            if answer["sea"]["duel"] is not None and self._chance.random() < self._users.answering:
                pick = asyncio.create_task(self._pick(answer, rewards))
                self._picks.add(pick)
                pick.add_done_callback(self._picks.discard)
        if self._picks:
            await asyncio.wait(self._picks)

    async def _pick(self, answer: dict[str, Any], rewards: list[float]) -> None:
        await asyncio.sleep(self._chance.exponential(self._users.delay_seconds))
        first = self._chance.random() < bradley_terry(rewards[0], rewards[1])
        outcome = "first" if bool(first) is not self._lies else "second"
        try:
            said = await self._client.put(f"/v1/feedback/{answer['id']}/choice", json={"outcome": outcome})
            said.raise_for_status()
        except httpx.HTTPError as error:
            self._fail(error)
        else:
            self._note(answer, rewards, outcome)

    def _note(self, answer: dict[str, Any], rewards: list[float], outcome: str | None) -> None:
        version = answer["sea"]["policy_version"]
        self._write({"completion": answer["id"], "version": version, "rewards": rewards, "outcome": outcome})

    def _fail(self, error: httpx.HTTPError) -> None:
        what = str(error) or type(error).__name__
        print(f"user {self._place}: {what}", flush=True)
        self._write({"error": what})

    def _write(self, row: dict[str, Any]) -> None:
        self._log.write(json.dumps({"at": time.time(), "user": self._place} | row) + "\n")
        self._log.flush()


def main() -> int:
    """The exit code."""
    try:
        users = Users.model_validate_json(Path(sys.argv[1]).read_text())
        key = os.environ[CHAT_KEY]
    except (IndexError, KeyError, OSError, ValidationError, UserError) as error:
        print(f"simulated users: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run(use(users, key))
    return 0


if __name__ == "__main__":
    sys.exit(main())
