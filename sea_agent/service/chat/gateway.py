"""What the service holds of live mode: who asks, whether they may, and the flow of their requests."""

import asyncio
import hashlib
import json
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sqlalchemy import Row

from sea_agent.seeding import generator_for
from sea_agent.service.chat.answers import Asked
from sea_agent.service.chat.asking import WINDOW, Asking, Plan
from sea_agent.service.chat.engines import Engines
from sea_agent.service.chat.flow import Event, Flow
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
    events: AsyncGenerator[Event]


@dataclass(frozen=True, slots=True)
class Claim:
    """A request with an idempotency key that is being answered: the digest of its body, and when that has ended."""

    digest: str
    ended: asyncio.Event


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
    claims: dict[tuple[str, str], Claim] = field(default_factory=dict)
    """By key and idempotency key. No other process answers, so a request that is not here is not being answered."""
    considered: set[str] = field(default_factory=set)
    """Conversations of which a request may become a duel now."""

    @property
    def run(self) -> str:
        """Id of the run and of its model."""
        return self.live.live.run

    def forget(self, user: str, owner: str | None) -> None:
        """Keep nothing of what a user is being answered now, by the key ``owner`` or any (None)."""
        self.flow.forget(live_runs.hashed(self.secret, user), owner)

    async def reply(self, owner: str, body: ChatIn, idempotency_key: str | None) -> Reply:
        """The answer to a request of the key ``owner``, or once more what it was answered.

        Raises:
            Problem: 429 for a user with too many requests; 503 where the same request takes too long.
            Conflict: for an idempotency key that came with another body, or whose texts were erased.
            StoreUnavailable: nothing has begun.
        """
        asked = self._asked(owner, body, idempotency_key)
        with ExitStack() as ending:
            ending.callback(self.flow.know(asked))
            if idempotency_key is not None:
                ending.callback(await self._claim(owner, idempotency_key, asked.digest))
            if idempotency_key is not None and not self.flow.is_forgotten(asked):
                row = await self.database.write(partial(store.begin, row=store.begun(asked)))
                if row is not None:
                    there = _kept(row)
                    return Reply(there["id"], there["created"], _again(there))
            asked = replace(asked, plan=await self._plan(asked))
            if asked.plan is not Plan.PLAIN:
                self.considered.add(asked.conversation)
                ending.callback(self.considered.discard, asked.conversation)
            return Reply(asked.id, int(asked.created_at), self.flow.begin(asked, ending.pop_all().close))

    def _asked(self, owner: str, body: ChatIn, idempotency_key: str | None) -> Asked:
        """A request, before it is known whether it may become a duel."""
        user = body.user or f"key {owner}"  # who is not named is one user of the key
        user_hash = live_runs.hashed(self.secret, user)
        self.rate.take(user_hash)
        conversation = self._conversation(user_hash, body)
        return Asked(
            id=new_id(),
            body=body,
            run=self.run,
            user_hash=user_hash,
            conversation=conversation,
            key_id=owner,
            idempotency_key=idempotency_key,
            digest=self._digest([body.model_dump(exclude=set(body.model_extra or ())), body.model_extra]),
            created_at=self.clock(),
            heldout=self.flow.asking.is_heldout(conversation),
            eligible=self._may_become_a_duel(body),
            plan=Plan.PLAIN,
            place=self._place(user_hash),
        )

    def _may_become_a_duel(self, body: ChatIn) -> bool:
        """Whether a request allows a duel, and its responses are samples as the learner and the posterior expect them:
        whole, and drawn at the run's temperature."""
        learnable = not body.stops and body.temperature in (None, self.live.temperature)
        return body.sea.duel == "allow" and body.count == 1 and learnable and body.store is not False

    async def _plan(self, asked: Asked) -> Plan:
        """Whether a request may become a duel. At most one at a time of a conversation may."""
        if not asked.eligible or asked.heldout or asked.conversation in self.considered:
            return Plan.PLAIN
        look = partial(store.known, run=self.run, user_hash=asked.user_hash, conversation=asked.conversation)
        known = await self.database.read(look)
        if known.tokens is not None and known.since is not None:
            self.flow.asking.know(asked.user_hash, known.tokens, known.since)
        if not known.asks or known.was_asked or asked.conversation in self.considered:
            return Plan.PLAIN
        plan = self.flow.asking.consider(asked.user_hash, asked.id, asked.created_at)
        # The initial policy against itself would tell nothing of the live one.
        return Plan.DUEL if plan is Plan.AUDIT and self.serving.shows_initial(asked.place) else plan

    def _place(self, user_hash: str) -> int | None:
        """The engine of a user, or None for any: while there is a canary, the last one for those who try it and one of
        the rest for the others. An engine that holds what it should not shows that to nobody, if others do better."""
        engines = self.serving.engines
        *rest, last = range(len(engines))
        has_canary = engines[last].wanted != engines[0].wanted
        draws = generator_for(self.seed, "canary", user_hash)
        if has_canary and draws.random() < self.live.live.gate.canary_share and engines[last].is_right:
            return last
        theirs = rest if has_canary else [*rest, last]
        right = [place for place in theirs if engines[place].is_right] or theirs
        return None if len(right) == len(engines) else right[int(draws.integers(len(right)))]

    async def _claim(self, owner: str, key: str, digest: str) -> Callable[[], None]:
        """Wait until nobody else answers the same request, and say that it is answered now; returns what ends that.

        Raises:
            Conflict: for a key that came with another body.
            Problem: 503 when it takes too long.
        """
        place = (owner, key)
        try:
            async with asyncio.timeout(REPLAY_SECONDS):
                while (other := self.claims.get(place)) is not None:
                    if other.digest != digest:
                        raise store.other_body(key)
                    await other.ended.wait()
                claim = self.claims[place] = Claim(digest, asyncio.Event())
        except TimeoutError:
            raise Problem(503, "The same request is still being answered.", headers={"Retry-After": "1"}) from None

        def end() -> None:
            del self.claims[place]
            claim.ended.set()

        return end

    def _conversation(self, user_hash: str, body: ChatIn) -> str:
        """Digest of a user and the first messages of their conversation, up to their own first one."""
        messages = [message.plain() for message in body.messages]
        own = next((place for place, message in enumerate(messages) if message["role"] == "user"), len(messages) - 1)
        return self._digest([user_hash, messages[: own + 1]])

    def _digest(self, value: Any) -> str:
        """With the run's secret, as it stays where texts do not, and could confirm a guess."""
        return live_runs.hashed(self.secret, queries.digest_of(value))


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
    engines = Engines(serving.urls, os.environ.get(TOKEN, ""))
    flow = Flow(database, live, engines, asking, clock, seed)
    per_second = settings.requests_per_minute / SECONDS_IN_MINUTE
    rate = RateLimit(per_second, max(1, round(settings.requests_per_minute)))
    try:
        yield Gateway(live, database, serving, flow, run.secret, rate, seed_of(run.secret), clock)
    finally:
        await flow.close()
        await engines.close()


def new_id() -> str:
    """Of a completion."""
    return f"chatcmpl-{secrets.token_hex(10)}"


def seed_of(secret: str) -> int:
    """The seed of what stays the same for as long as the run is there: which conversations are held out."""
    return int.from_bytes(hashlib.sha256(secret.encode()).digest()[:7], "big")


def _kept(row: Row) -> dict[str, Any]:
    """The answer that was given before. Raises: Conflict when it is not kept."""
    if not row.answer:
        raise Conflict("The answer to this request is not kept any more; send it with another Idempotency-Key.")
    return dict(json.loads(row.answer))


async def _again(answer: dict[str, Any]) -> AsyncGenerator[Event]:
    for choice in answer["choices"]:
        yield Event("text", choice["index"], choice["message"]["content"])
    yield Event("done", answer=answer)
