"""From a request to its answer: sampled, perhaps made a duel, on disk, and only then complete.

The work of a request goes on in a task of its own, and whoever answers the request reads its events. Where the client
has left, a request with an idempotency key is finished all the same, so that the client finds it when it asks again.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from sea_agent.seeding import generator_for, seed_for
from sea_agent.service.chat.asking import Asking, Plan
from sea_agent.service.chat.engines import Engines, Prompt, Refused, Unavailable, Whole
from sea_agent.service.chat.settings import LiveSettings
from sea_agent.service.chat.stops import Stops
from sea_agent.service.schemas.chat import ChatIn, ChatOut, Choice, DuelOut, MessageOut, SeaOut, Usage
from sea_agent.service.store import completions as store
from sea_agent.service.store import queries
from sea_agent.service.store.database import Database

logger = logging.getLogger(__name__)

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is to be answered. ``place`` is the engine of its user while there is a canary."""

    id: str
    body: ChatIn
    run: str
    user_hash: str
    conversation: str
    key_id: str
    idempotency_key: str | None
    digest: str
    created_at: float
    heldout: bool
    eligible: bool
    plan: Plan
    place: int | None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation."""
        return [message.plain() for message in self.body.messages]


@dataclass(frozen=True, slots=True)
class Event:
    """What happens while a request is answered: a text of a choice (``text``), its end (``end``, with why), the whole
    answer once it is on disk (``done``), or why there is none (``error``)."""

    kind: Literal["text", "end", "done", "error"]
    index: int = 0
    text: str = ""
    answer: dict[str, Any] | None = None
    error: Exception | None = None


@dataclass(slots=True)
class Outcome:
    """What is shown, the first choice first, and what the user is asked. ``duel`` has the pair in its own order."""

    shown: list[Whole]
    asked: Literal["duel", "audit"] | None = None
    duel: tuple[Whole, Whole] | None = None
    said: dict[str, Any] = field(default_factory=dict)
    spent: bool = False


class Flow:
    """Answers the requests of one live run."""

    def __init__(
        self,
        database: Database,
        live: LiveSettings,
        engines: Engines,
        asking: Asking,
        clock: Callable[[], float],
        seed: int,
    ) -> None:
        self.live, self.asking = live, asking
        self._database, self._engines, self._clock, self._seed = database, engines, clock, seed
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """End what is being answered; it has failed then."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def running(self, completion_id: str) -> asyncio.Task[None] | None:
        """The work of a request that is being answered now."""
        return self._tasks.get(completion_id)

    async def events(self, asked: Asked) -> AsyncIterator[Event]:
        """What happens until the request is answered; the last event is ``done`` or ``error``."""
        queue: asyncio.Queue[Event] = asyncio.Queue()
        task = self._tasks[asked.id] = asyncio.create_task(self._work(asked, queue.put_nowait))
        task.add_done_callback(lambda _: self._tasks.pop(asked.id, None))
        try:
            while True:
                event = await queue.get()
                yield event
                if event.kind in ("done", "error"):
                    return
        finally:
            if asked.idempotency_key is None:
                task.cancel()

    async def _work(self, asked: Asked, tell: Callable[[Event], None]) -> None:
        row: dict[str, Any] = {"first_token_at": None}

        def told(event: Event) -> None:
            if row["first_token_at"] is None and event.kind == "text":
                row["first_token_at"] = self._clock()
            tell(event)

        try:
            outcome = await self._respond(asked, told)
            answer = await self._keep(asked, outcome, row)
        except asyncio.CancelledError:
            await self._fail(asked)
            tell(Event("error", error=Unavailable("The service is stopping; send the request again.")))
            raise
        except Exception as error:  # of whatever kind: the request has failed and its caller must hear so
            if not isinstance(error, (Refused, Unavailable)):
                logger.error("a completion failed: %s", type(error).__name__, exc_info=error)
            await self._fail(asked)
            tell(Event("error", error=error))
        else:
            tell(Event("done", answer=answer))

    # --- sampling and asking -----------------------------------------------------------------------------------------

    async def _respond(self, asked: Asked, tell: Callable[[Event], None]) -> Outcome:
        """The choices; those that stream are told as they come, the others when they are known."""
        live = self.live.live
        streams = bool(asked.body.stream) and live.answer == "first"
        samples = {Plan.PLAIN: 1 if live.answer == "first" or asked.body.n > 1 else live.best_of, Plan.AUDIT: 1}.get(
            asked.plan, live.candidates
        )
        if asked.body.n > 1 or (asked.plan is Plan.PLAIN and samples == 1):
            every = (self._streamed(asked, index, tell) for index in range(asked.body.n))
            return Outcome(await _all(every))
        others = [asyncio.create_task(self._beside(asked, index)) for index in range(1, samples)]
        if asked.plan is Plan.AUDIT:
            others = [asyncio.create_task(self._beside(asked, 1, initial=True))]
        try:
            own = await (self._streamed(asked, 0, tell) if streams else self._beside(asked, 0, priority=0))
            beside = await _finished(others, live.wait_seconds)
            outcome = await self._choose(asked, own, beside, streams)
        finally:
            for task in others:
                task.cancel()
        for index, whole in list(enumerate(outcome.shown))[1 if streams else 0 :]:
            tell(Event("text", index, whole.text))
            tell(Event("end", index, whole.finish or "stop"))
        return outcome

    async def _choose(self, asked: Asked, own: Whole, beside: Sequence[Whole], streams: bool) -> Outcome:
        """What of the responses is shown, and whether the user is asked. ``own`` is shown already if it ``streams``."""
        if asked.plan is Plan.AUDIT:
            differs = beside and beside[0].text != own.text
            if not differs or not self.asking.spend(asked.user_hash, self._clock()):
                return Outcome([own])
            pair = (own, beside[0])
            return Outcome(self._order(asked, pair, streams), "audit", pair, spent=True)
        everyone = [own, *beside]
        said = await self._decide(asked, everyone, 0 if streams else None) if beside else None
        if said is None:
            return Outcome([own])
        pair = _pair(said, everyone, shown=0 if streams else None) if asked.plan is Plan.DUEL else None
        if pair is not None and self.asking.ask(asked.user_hash, asked.id, float(said["information"]), self._clock()):
            return Outcome(self._order(asked, pair, streams), "duel", pair, said, spent=True)
        best = said["best"] if self.live.live.answer == "best" and said.get("trust", 0.0) > 0 else 0
        return Outcome([own if streams else everyone[best]], said=said)

    def _order(self, asked: Asked, pair: tuple[Whole, Whole], streams: bool) -> list[Whole]:
        """The pair as it is shown: in a drawn order, unless the first of it was streamed already."""
        swapped = not streams and generator_for(self._seed, "order", asked.id).random() < 0.5
        return list(pair[::-1] if swapped else pair)

    async def _decide(self, asked: Asked, everyone: Sequence[Whole], shown: int | None) -> dict[str, Any] | None:
        prompt = everyone[0].prompt
        body = {
            "id": asked.id,
            "prompt": _prompt(prompt) | {"messages": asked.messages},
            "responses": [_response(asked, index, whole) for index, whole in enumerate(everyone)],
            "shown": shown,
        }
        return await self._engines.decide(self.live.decider, body, self.live.live.wait_seconds)

    async def _streamed(self, asked: Asked, index: int, tell: Callable[[Event], None]) -> Whole:
        """A response whose texts are told as they come, up to the first of the request's stop texts."""
        whole, stops = Whole([], []), Stops(asked.body.stops)
        async with aclosing(self._engines.generate(self._request(asked, index, 0), whole, asked.place)) as lines:
            async for line in lines:
                if text := stops.pass_on(line.get("text", "") if "finish" not in line else ""):
                    tell(Event("text", index, text))
                if stops.met:
                    break
        if text := stops.rest():
            tell(Event("text", index, text))
        whole.text, whole.finish = stops.cut(whole.text), "stop" if stops.met else whole.finish
        tell(Event("end", index, whole.finish or "stop"))
        return whole

    async def _beside(self, asked: Asked, index: int, *, initial: bool = False, priority: int = 1) -> Whole:
        request = self._request(asked, index, priority)
        return await self._engines.whole(request | ({"weights": "initial"} if initial else {}), asked.place)

    def _request(self, asked: Asked, index: int, priority: int) -> dict[str, Any]:
        body, longest = asked.body, self.live.max_new_tokens
        seed = seed_for(self._seed, asked.id, index) if body.seed is None else seed_for("seed", body.seed, index)
        return {
            "id": f"{asked.id}-{index}",
            "messages": asked.messages,
            "max_new_tokens": min(body.longest or longest, longest),
            "temperature": self.live.temperature if body.temperature is None else body.temperature,
            "seed": seed,
            "priority": priority,
        }

    # --- what is kept ------------------------------------------------------------------------------------------------

    async def _keep(self, asked: Asked, outcome: Outcome, row: dict[str, Any]) -> dict[str, Any]:
        """Write the answer to disk; only then it may be told."""
        now = self._clock()
        duel = self._duel(asked, outcome, now)
        out = _answer(asked, outcome, duel)
        answer = out.model_dump(mode="json")
        stored = asked.body.store is not False
        shown = [_response(asked, index, whole) for index, whole in enumerate(outcome.shown)]
        kept = store.NO_TEXTS
        if stored:
            kept = store.texts(asked.messages, _prompt(outcome.shown[0].prompt), shown, answer)
        regret = outcome.said.get("regret_best" if self.live.live.answer == "best" else "regret_first")
        row |= store.begun(asked) | kept
        row |= {
            "state": "done",
            "stored": stored,
            "asked": outcome.asked,
            "query_id": None if duel is None else duel["id"],
            "information": outcome.said.get("information"),
            "regret": regret,
            "policy_version": out.sea.policy_version,
            "prompt_tokens": out.usage.prompt_tokens,
            "completion_tokens": out.usage.completion_tokens,
            "first_token_at": row["first_token_at"] or now,
            "done_at": now,
        }
        bucket = self.asking.bucket(asked.user_hash, now) if outcome.spent else None
        spent = None if bucket is None else (bucket.tokens, bucket.since)
        await self._database.write(partial(store.end, row=row, duel=duel, bucket=spent))
        return answer

    def _duel(self, asked: Asked, outcome: Outcome, now: float) -> dict[str, Any] | None:
        """The duel as the store takes it, its responses in the order in which they were chosen."""
        if outcome.duel is None:
            return None
        first, second = outcome.duel
        (duel,) = queries.addressed(
            asked.run,
            [
                {
                    "client_key": asked.id,
                    "prompt": _prompt(first.prompt)["text"],
                    "first": first.text,
                    "second": second.text,
                    "policy_version": first.version,
                    "rule": "audit" if outcome.asked == "audit" else "sea_ee",
                    "score": outcome.said.get("information"),
                    "votes_needed": 1,
                    "priority": 0,
                    "expires_at": now + self.live.live.patience_hours * HOUR,
                    "gold": None,
                }
            ],
        )
        return duel

    async def _fail(self, asked: Asked) -> None:
        row = store.begun(asked) | store.NO_TEXTS
        row |= {"state": "failed", "stored": False, "done_at": self._clock()}
        try:
            await asyncio.shield(self._database.write(partial(store.end, row=row, duel=None, bucket=None)))
        except Exception as error:  # the request has failed anyway, perhaps for the same reason
            logger.error("a failed completion could not be counted: %s", type(error).__name__)


def new_id() -> str:
    """Of a completion."""
    return f"chatcmpl-{secrets.token_hex(10)}"


async def _all(work: Iterable[Coroutine[Any, Any, Whole]]) -> list[Whole]:
    """The results of all; when one fails, the others are cancelled."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _finished(tasks: Sequence[asyncio.Task[Whole]], seconds: float) -> list[Whole]:
    """Those responses that are there in time and did not fail."""
    if not tasks:
        return []
    done, _ = await asyncio.wait(tasks, timeout=seconds)
    return [task.result() for task in tasks if task in done and task.exception() is None]


def _pair(said: dict[str, Any], everyone: Sequence[Whole], shown: int | None) -> tuple[Whole, Whole] | None:
    """The two responses that the decider names, if it names two that differ, the one that is ``shown`` first."""
    match said.get("pair"):
        case [int(i), int(j)] if shown in (None, i) and all(0 <= one < len(everyone) for one in (i, j)):
            first, second = everyone[i], everyone[j]
            return (first, second) if first.text != second.text else None
    return None


def _prompt(prompt: Prompt | None) -> dict[str, Any]:
    return {} if prompt is None else {"text": prompt.text, "token_ids": list(prompt.token_ids)}


def _response(asked: Asked, index: int, whole: Whole) -> dict[str, Any]:
    return {
        "id": f"response-{asked.id.removeprefix('chatcmpl-')}-{index}",
        "text": whole.text,
        "token_ids": whole.token_ids,
        "logprobs": whole.logprobs,
        "policy_version": whole.version or 0,
    }


def _answer(asked: Asked, outcome: Outcome, duel: dict[str, Any] | None) -> ChatOut:
    versions = [whole.version for whole in outcome.shown if whole.version is not None]
    prompt = outcome.shown[0].prompt
    usage = (0 if prompt is None else len(prompt.token_ids), sum(len(whole.token_ids) for whole in outcome.shown))
    # Blind: an audit shows the initial policy beside the live one, and must not be told from other duels.
    version = max(versions, default=None) if outcome.asked == "audit" else min(versions, default=None)
    return ChatOut(
        id=asked.id,
        created=int(asked.created_at),
        model=asked.run,
        choices=[
            Choice(index=index, message=MessageOut(content=whole.text), finish_reason=_reason(whole))
            for index, whole in enumerate(outcome.shown)
        ],
        usage=Usage(prompt_tokens=usage[0], completion_tokens=usage[1], total_tokens=sum(usage)),
        sea=SeaOut(
            policy_version=version,
            duel=None if duel is None else DuelOut(id=duel["id"], expires_at=duel["expires_at"]),
        ),
    )


def _reason(whole: Whole) -> Literal["stop", "length"]:
    return "length" if whole.finish == "length" else "stop"
