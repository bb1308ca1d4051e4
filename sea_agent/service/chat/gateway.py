"""What the service holds of live mode: who asks, whether they may, and the flow of their requests."""

import asyncio
import hashlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from sea_agent.seeding import generator_for
from sea_agent.service.chat.asking import WINDOW, Asking, Plan
from sea_agent.service.chat.engines import Engines
from sea_agent.service.chat.flow import Asked, Event, Flow, new_id
from sea_agent.service.chat.serving import Serving
from sea_agent.service.chat.settings import TOKEN, LiveSettings
from sea_agent.service.limits import RateLimit
from sea_agent.service.schemas.chat import ChatIn
from sea_agent.service.store import completions as store
from sea_agent.service.store import live_runs, queries
from sea_agent.service.store.database import Database
from sea_agent.service.store.faults import Conflict
from sea_agent.web.problems import Problem

REPLAY_SECONDS = 300.0
"""Longest wait of a repeated request for the first one's answer."""
SECONDS_IN_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion that has begun."""

    id: str
    created: int
    events: AsyncIterator[Event]


@dataclass(frozen=True)
class Gateway:
    """The endpoint of one live run."""

    live: LiveSettings
    database: Database
    serving: Serving
    flow: Flow
    secret: str
    rate: RateLimit
    seed: int
    clock: Callable[[], float]

    @property
    def run(self) -> str:
        """Id of the run and of its model."""
        return self.live.live.run

    async def reply(self, owner: str, body: ChatIn, idempotency_key: str | None) -> Reply:
        """The answer to a request of the key ``owner``, or once more what it was answered.

        Raises:
            Problem: 429 for a user with too many requests.
            Conflict: for an idempotency key that came with another body, or whose texts were erased.
        """
        asked = await self._asked(owner, body, idempotency_key)
        if idempotency_key is not None and (there := await self._there(asked)) is not None:
            return Reply(there["id"], there["created"], _again(there))
        return Reply(asked.id, int(asked.created_at), self.flow.events(asked))

    async def _asked(self, owner: str, body: ChatIn, idempotency_key: str | None) -> Asked:
        """A request with what is to be done about it."""
        user = body.user or f"key {owner}"  # who is not named is one user of the key
        user_hash = live_runs.hashed(self.secret, user)
        self.rate.take(user_hash)
        now, request = self.clock(), new_id()
        conversation = _conversation(user_hash, body)
        heldout = self.flow.asking.is_heldout(conversation)
        eligible = body.sea.duel == "allow" and body.n == 1 and not body.stops and body.store is not False
        plan = Plan.PLAIN
        if eligible and not heldout:
            known = await self.database.read(
                partial(store.known, run=self.run, user_hash=user_hash, conversation=conversation)
            )
            if known.tokens is not None and known.since is not None:
                self.flow.asking.know(user_hash, known.tokens, known.since)
            if known.asks and not known.was_asked:
                plan = self.flow.asking.consider(user_hash, request, now)
        return Asked(
            id=request,
            body=body,
            run=self.run,
            user_hash=user_hash,
            conversation=conversation,
            key_id=owner,
            idempotency_key=idempotency_key,
            digest=queries.digest_of(body.model_dump(mode="json")),
            created_at=now,
            heldout=heldout,
            eligible=eligible,
            plan=plan,
            place=self._place(user_hash),
        )

    def _place(self, user_hash: str) -> int | None:
        """The engine of a user: the last one for those who try a canary, while there is one."""
        engines = self.serving.engines
        if len(engines) < 2 or engines[-1].wanted == engines[0].wanted:
            return None
        tries = generator_for(self.seed, "canary", user_hash).random() < self.live.live.gate.canary_share
        return len(engines) - 1 if tries else 0

    async def _there(self, asked: Asked) -> dict[str, Any] | None:
        """The answer to the same request, if it was sent before; waits for it while it is being answered."""
        row = await self.database.write(partial(store.begin, row=store.begun(asked)))
        if row is None:
            return None
        if row.state == "begun":
            task = self.flow.running(row.id)
            if task is not None:
                await asyncio.wait([task], timeout=REPLAY_SECONDS)
            row = await self.database.read(partial(store.state_of, completion_id=row.id))
            if row is None or row.state != "done":
                raise Problem(
                    503, "The same request is being answered, or failed; send it again.", headers={"Retry-After": "1"}
                )
        if not row.answer:
            raise Conflict("The answer to this request is not kept any more; send it with another Idempotency-Key.")
        return dict(json.loads(row.answer))


@asynccontextmanager
async def gateway(
    database: Database, live: LiveSettings, serving: Serving, clock: Callable[[], float], seed: int
) -> AsyncIterator[Gateway]:
    """The gateway of a live run, which is made if it is missing."""
    settings = live.live
    make = partial(
        store.make_run,
        run=settings.run,
        secret=secrets.token_hex(32),
        retention_days=settings.retention_days,
        now=clock(),
    )
    run = await database.write(make)
    asking = Asking(settings, seed_of(run.secret))
    for information in await database.read(partial(store.considered, run=settings.run, limit=WINDOW)):
        asking.remember(information)
    engines = Engines(live.engines, os.environ.get(TOKEN, ""))
    flow = Flow(database, live, engines, asking, clock, seed)
    per_second = settings.requests_per_minute / SECONDS_IN_MINUTE
    rate = RateLimit(per_second, max(1, round(settings.requests_per_minute)))
    try:
        yield Gateway(live, database, serving, flow, run.secret, rate, seed_of(run.secret), clock)
    finally:
        await flow.close()
        await engines.close()


def seed_of(secret: str) -> int:
    """The seed of what stays the same for as long as the run is there: which conversations are held out."""
    return int.from_bytes(hashlib.sha256(secret.encode()).digest()[:7], "big")


def _conversation(user_hash: str, body: ChatIn) -> str:
    """Digest of a user and the first messages of their conversation, up to their own first one."""
    messages = [message.plain() for message in body.messages]
    own = next((place for place, message in enumerate(messages) if message["role"] == "user"), len(messages) - 1)
    return queries.digest_of([user_hash, messages[: own + 1]])


async def _again(answer: dict[str, Any]) -> AsyncIterator[Event]:
    for choice in answer["choices"]:
        yield Event("text", choice["index"], choice["message"]["content"])
        yield Event("end", choice["index"], choice["finish_reason"])
    yield Event("done", answer=answer)
