"""From a request to its answer: sampled, perhaps made a duel, on disk, and only then complete.

The work of a request goes on in a task of its own, and whoever answers the request reads its events. Where the client
has left, a request with an idempotency key is finished all the same, so that the client finds it when it asks again;
so is one of which everything was shown.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from sea_agent.seeding import generator_for, seed_for
from sea_agent.service.chat.answers import Asked, Outcome, answer_out, duel_out, pair_of, prompt_out, response_out
from sea_agent.service.chat.asking import Asking, Plan
from sea_agent.service.chat.engines import Engines, Refused, Said, Unavailable, Whole
from sea_agent.service.chat.settings import LiveSettings
from sea_agent.service.chat.stops import Stops
from sea_agent.service.store import completions as store
from sea_agent.service.store.database import Database, StoreUnavailable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """What happens while a request is answered: a text of a choice (``text``), the whole answer once it is on disk
    (``done``), or why there is none (``error``)."""

    kind: Literal["text", "done", "error"]
    index: int = 0
    text: str = ""
    answer: dict[str, Any] | None = None
    error: Exception | None = None


Tell = Callable[[Event], None]


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
        self._running: set[asyncio.Task[None]] = set()
        self._known: dict[str, Asked] = {}  # requests from when they are made until their work has ended
        self._shown: set[str] = set()
        """Requests of which everything was shown, and which are being written to disk."""
        self._forgotten: set[str] = set()  # of those that are known: nothing of them may be kept

    async def close(self) -> None:
        """End what is being answered; it has failed then."""
        await _end(list(self._running))

    def know(self, asked: Asked) -> Callable[[], None]:
        """Know of a request as soon as it is made: its user may be erased before its work begins. Returns what ends
        that."""
        self._known[asked.id] = asked

        def end() -> None:
            del self._known[asked.id]
            self._forgotten.discard(asked.id)

        return end

    def is_forgotten(self, asked: Asked) -> bool:
        """Whether nothing but counts of a request may be kept."""
        return asked.id in self._forgotten

    def forget(self, user_hash: str, owner: str | None) -> None:
        """Keep nothing but counts of what a user is being answered now, by the key ``owner`` or any (None)."""
        theirs = (asked for asked in self._known.values() if asked.user_hash == user_hash)
        self._forgotten |= {asked.id for asked in theirs if owner in (None, asked.key_id)}

    def begin(self, asked: Asked, ended: Callable[[], None]) -> AsyncGenerator[Event]:
        """Answer a request. What happens until it is answered; the last event is ``done`` or ``error``.

        ``ended`` is called when the work has ended, whoever still listens.
        """
        queue: asyncio.Queue[Event] = asyncio.Queue()
        task = asyncio.create_task(self._work(asked, queue.put_nowait))
        self._running.add(task)

        def end(_: object) -> None:
            self._running.discard(task)
            self._shown.discard(asked.id)
            # Last, for a task that was cancelled before it began, and told nobody.
            queue.put_nowait(_stopping())
            ended()

        task.add_done_callback(end)
        return self._listen(asked, task, queue)

    async def _listen(
        self, asked: Asked, task: asyncio.Task[None], queue: asyncio.Queue[Event]
    ) -> AsyncGenerator[Event]:
        try:
            while True:
                event = await queue.get()
                yield event
                if event.kind != "text":
                    return
        finally:
            if asked.idempotency_key is None and asked.id not in self._shown:
                task.cancel()

    async def _work(self, asked: Asked, tell: Tell) -> None:
        first_token_at: float | None = None

        def told(event: Event) -> None:
            nonlocal first_token_at
            first_token_at = first_token_at or self._clock()
            tell(event)

        try:
            outcome = await self._respond(asked, told)
            self._shown.add(asked.id)
            answer = await self._keep(asked, outcome, first_token_at)
        except asyncio.CancelledError:
            await self._fail(asked)
            tell(_stopping())
            raise
        except StoreUnavailable as error:
            tell(Event("error", error=error))  # first, as the store may let wait once more
            await self._fail(asked)
        except Exception as error:  # of whatever kind: the request has failed and its caller must hear so
            if not isinstance(error, (Refused, Unavailable)):
                logger.error("a completion failed: %s", type(error).__name__, exc_info=error)
            await self._fail(asked)
            tell(Event("error", error=error))
        else:
            tell(Event("done", answer=answer))

    # --- sampling and asking -----------------------------------------------------------------------------------------

    async def _respond(self, asked: Asked, tell: Tell) -> Outcome:
        """The choices; those that stream are told as they come, the others when they are known."""
        live = self.live.live
        streams = bool(asked.body.stream) and live.answer == "first"
        if asked.plan is Plan.AUDIT and self.asking.spend(asked.user_hash, self._clock()):
            outcome = await self._audit(asked, tell, streams)
            if outcome.asked is None:
                self.asking.give_back(asked.user_hash, self._clock())
        elif asked.plan is Plan.DUEL:
            outcome = await self._compare(asked, tell, streams, live.candidates)
        elif live.answer == "best" and asked.body.count == 1 and not asked.body.stops:
            outcome = await self._compare(asked, tell, streams, live.best_of)
        else:
            return Outcome(await self._every(asked, tell))
        for index, whole in enumerate(outcome.shown):
            if index > 0 or not streams:
                tell(Event("text", index, whole.text))
        return outcome

    async def _every(self, asked: Asked, tell: Tell) -> list[Whole]:
        """As many responses as are wanted; when one fails, the others end."""
        tasks = [asyncio.create_task(self._streamed(asked, index, tell)) for index in range(asked.body.count)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            await _end(tasks)

    async def _audit(self, asked: Asked, tell: Tell, streams: bool) -> Outcome:
        """The live policy's response and the initial one's, in a drawn order: which one streams is drawn before."""
        swapped = self._is_swapped(asked)
        initial_first = streams and swapped
        beside = [asyncio.create_task(self._beside(asked, 1, initial=not initial_first))]
        try:
            if streams:
                own = await self._streamed(asked, 0, tell, initial=initial_first)
            else:
                own = await self._beside(asked, 0, priority=0)
            others = await _finished(beside, self.live.live.wait_seconds)
        finally:
            await _end(beside)
        if not others or others[0].text == own.text or others[0].version == own.version:
            return Outcome([own])  # nothing to choose, or the engine has just started: both are the initial policy's
        other = others[0]
        pair = (other, own) if initial_first else (own, other)
        return Outcome(list(pair[::-1] if swapped else pair), "audit", pair, by_chance=True)

    async def _compare(self, asked: Asked, tell: Tell, streams: bool, count: int) -> Outcome:
        """What of ``count`` responses is shown, and whether the user is asked. The first streams if one does."""
        others = [asyncio.create_task(self._beside(asked, index)) for index in range(1, count)]
        loop = asyncio.get_running_loop()
        try:
            own = await (self._streamed(asked, 0, tell) if streams else self._beside(asked, 0, priority=0))
            until = loop.time() + self.live.live.wait_seconds
            everyone = [own, *await _finished(others, self.live.live.wait_seconds)]
        finally:
            await _end(others)
        second = _result(others[0])
        twins = second is not None and self._could_be_swapped(own, second)
        if len(everyone) == 1 or (left := until - loop.time()) <= 0:
            return Outcome([own])
        said = await self._decide(asked, everyone, 0 if streams else None, left)
        if said is None:
            return Outcome([own])
        return self._choose(asked, everyone, said, streams, by_chance=not streams or (twins and said.as_sampled))

    def _could_be_swapped(self, own: Whole, second: Whole) -> bool:
        """Whether of two samples the second, had it been the first, would have found the other one in time, too. Else
        long responses would more often be the first of a pair than the second."""
        if own.ended_at is None or second.ended_at is None:
            return False
        return abs(own.ended_at - second.ended_at) <= self.live.live.wait_seconds

    def _choose(self, asked: Asked, everyone: list[Whole], said: Said, streams: bool, *, by_chance: bool) -> Outcome:
        """What of the responses is shown, the first of them being shown already if it ``streams``. ``by_chance``: what
        the ``Outcome`` of a duel is told."""
        information = None
        if asked.plan is Plan.DUEL:
            pair = pair_of(said, everyone)
            information = 0.0 if pair is None else said.information
            if pair is None:
                self.asking.note(asked.id, information)
            elif self.asking.ask(asked.user_hash, asked.id, information, self._clock()):
                swapped = not streams and self._is_swapped(asked)
                shown = list(pair[::-1] if swapped else pair)
                return Outcome(shown, "duel", pair, information, said.regret_pair, by_chance=by_chance)
        if self.live.live.answer == "best" and not streams and said.trust > 0:
            return Outcome([everyone[said.best]], information=information, regret=said.regret_best)
        return Outcome([everyone[0]], information=information, regret=said.regret_first)

    def _is_swapped(self, asked: Asked) -> bool:
        """Whether the second of a pair is shown first."""
        return bool(generator_for(self._seed, "order", asked.id).random() < 0.5)

    async def _decide(self, asked: Asked, everyone: Sequence[Whole], shown: int | None, seconds: float) -> Said | None:
        body = {
            "id": asked.id,
            "prompt": prompt_out(everyone[0].prompt) | {"messages": asked.read(everyone[0].prompt)},
            "responses": [response_out(asked, index, whole) for index, whole in enumerate(everyone)],
            "shown": shown,
        }
        return await self._engines.decide(self.live.decider, body, seconds)

    async def _streamed(self, asked: Asked, index: int, tell: Tell, *, initial: bool = False) -> Whole:
        """A response whose texts are told as they come, up to the first of the request's stop texts."""
        whole, stops, texts = Whole([], []), Stops(asked.body.stops), list[str]()

        def pass_on(text: str) -> None:
            if text:
                texts.append(text)
                tell(Event("text", index, text))

        request = self._request(asked, index, 0, initial)
        async with aclosing(self._engines.generate(request, whole, asked.place)) as lines:
            async for line in lines:
                pass_on(stops.pass_on(line["text"]) if "token_ids" in line else "")
                if stops.met:
                    break
        pass_on(stops.rest())
        whole.text = "".join(texts)  # what was shown is the response, however it came
        if stops.met:
            whole.finish = "stop"
        return whole

    async def _beside(self, asked: Asked, index: int, *, initial: bool = False, priority: int = 1) -> Whole:
        return await self._engines.whole(self._request(asked, index, priority, initial), asked.place)

    def _request(self, asked: Asked, index: int, priority: int, initial: bool) -> dict[str, Any]:
        body, longest = asked.body, self.live.max_new_tokens
        seed = seed_for(self._seed, asked.id, index) if body.seed is None else seed_for("seed", body.seed, index)
        request = {
            "id": f"{asked.id}-{index}",
            "messages": asked.messages,
            "max_new_tokens": min(body.longest or longest, longest),
            "temperature": self.live.temperature if body.temperature is None else body.temperature,
            "seed": seed,
            "priority": priority,
        }
        return request | ({"weights": "initial"} if initial else {})

    # --- what is kept ------------------------------------------------------------------------------------------------

    async def _keep(self, asked: Asked, outcome: Outcome, first_token_at: float | None) -> dict[str, Any]:
        """Write the answer to disk; only then it may be told."""
        now, forgotten = self._clock(), self.is_forgotten(asked)
        if forgotten:
            outcome = replace(outcome, asked=None, duel=None, by_chance=False)
        duel = duel_out(asked, outcome, now, self.live.live.patience_hours)
        out = answer_out(asked, outcome, duel)
        answer = out.model_dump(mode="json")
        stored = asked.body.store is not False and not forgotten
        kept = store.NO_TEXTS
        if stored:
            shown = [response_out(asked, index, whole) for index, whole in enumerate(outcome.shown)]
            prompt = outcome.shown[0].prompt
            kept = store.texts(asked.read(prompt), prompt_out(prompt), shown, answer)
        row = (
            self._begun(asked)
            | kept
            | {
                "state": "done",
                "stored": stored,
                "asked": outcome.asked,
                "by_chance": outcome.by_chance,
                "query_id": None if duel is None else duel["id"],
                "information": outcome.information,
                "regret": outcome.regret,
                "policy_version": outcome.version,
                "prompt_tokens": out.usage.prompt_tokens,
                "completion_tokens": out.usage.completion_tokens,
                "first_token_at": first_token_at or now,
                "done_at": now,
            }
        )
        bucket = self.asking.bucket(asked.user_hash, now) if outcome.asked is not None else None
        spent = None if bucket is None else (bucket.tokens, bucket.since)
        messages = asked.messages if stored else []
        await self._database.write(partial(store.end, row=row, duel=duel, bucket=spent, messages=messages))
        return answer

    def _begun(self, asked: Asked) -> dict[str, Any]:
        """The columns that a request begins with; of one that is forgotten, those that tell of nobody."""
        row = store.begun(asked)
        return row | store.OF_NOBODY if self.is_forgotten(asked) else row

    async def _fail(self, asked: Asked) -> None:
        """Count a request that failed, unless its answer is on disk all the same."""
        try:
            fail = partial(store.fail, row=self._begun(asked), now=self._clock())
            await self._database.write(fail)
        except Exception as error:  # the request has failed anyway, perhaps for the same reason
            logger.error("a failed completion could not be counted: %s", type(error).__name__)


def _stopping() -> Event:
    return Event("error", error=Unavailable("The service is stopping; send the request again."))


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel what is not finished, and wait until it is."""
    left = list(tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def _finished(tasks: Sequence[asyncio.Task[Whole]], seconds: float) -> list[Whole]:
    """Those responses that are there in time and did not fail."""
    if not tasks:
        return []
    done, _ = await asyncio.wait(tasks, timeout=seconds)
    return [whole for task in tasks if task in done and (whole := _result(task)) is not None]


def _result(task: asyncio.Task[Whole]) -> Whole | None:
    """The response of a task that has ended well."""
    ended_well = task.done() and not task.cancelled() and task.exception() is None
    return task.result() if ended_well else None
