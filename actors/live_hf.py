"""The ``hf`` back end of a live engine: transformers, in a thread of its own.

The thread draws one token of every running response a step. Between two steps it admits requests, lets those leave
that nobody waits for, swaps weights, and scores rows. So no step ever computes with two versions, and the version of a
token is that which was held when its step began.
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from actors.live import INITIAL_VERSION, PATIENCE_SECONDS, LiveRequest, Refused, Tokens, check_version, is_whole, late
from actors.live_batch import Row
from actors.live_policy import LivePolicy
from sea_agent.config import PolicyConfig, SamplerConfig
from sea_agent.errors import RunFailure, first_line
from sea_agent.types import TokenRow
from sea_agent.weights import WeightUpdate

_PROMPT_TOKENS = 4096
"""Most context tokens that are read between two steps, unless one request has more: running streams wait meanwhile."""
_SCORED_TOKENS = 2048
"""The same for tokens that are scored."""

Item = Tokens | BaseException


class _Job:
    """A row, and who waits for it: a queue of the loop in which it was made."""

    def __init__(self, request: LiveRequest, number: int) -> None:
        self.row, self.number = Row(request), number
        self.loop, self.queue = asyncio.get_running_loop(), asyncio.Queue[Item]()
        self.is_left = False
        """Nobody waits any more."""

    @property
    def place(self) -> tuple[int, int]:
        """Jobs with smaller ones go first."""
        return self.row.request.priority, self.number


class HfLive:
    """See ``actors.live.LiveBackend``."""

    name = "hf"

    def __init__(
        self, policy: PolicyConfig, config: SamplerConfig, *, device: str, threads: int, initial: bool
    ) -> None:
        """Load the policy, twice with ``initial``. At most ``config.chunk`` responses are drawn at once.

        Raises:
            UserError: the policy cannot be loaded, or not be drawn from exactly.
        """
        self._live = LivePolicy(policy, device=device)
        self._initial = LivePolicy(policy, device=device) if initial else None
        self._most = config.chunk
        self.context, self.vocabulary = self._live.context, self._live.vocabulary
        self.tokenizer, self.end_ids = self._live.tokenizer, self._live.end_ids
        self.has_initial = initial
        self.version, self.checksum = INITIAL_VERSION, self._live.own_checksum()
        self.failure: BaseException | None = None

        self._changed = threading.Condition()
        self._waiting: list[_Job] = []
        self._drawn: dict[int, _Job] = {}
        """Jobs whose rows are being drawn, by the identity of the row."""
        self._tasks: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._count = 0
        self._closed = False
        self._loading = asyncio.Lock()
        # One thread, or each that ever copied weights would keep a heap of their size.
        self._copying = ThreadPoolExecutor(1, thread_name_prefix="live-hf-copy")
        self._threads = threads
        self._thread = threading.Thread(target=self._work, name="live-hf", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """See ``LiveBackend.running``."""
        return len(self._waiting) + len(self._drawn)

    async def generate(self, request: LiveRequest) -> AsyncGenerator[Tokens, None]:
        """See ``LiveBackend.generate``."""
        drawn = list(request.done)
        if is_whole(drawn, request.max_new_tokens, self.end_ids):
            return
        job = self._submit(request)
        try:
            while not is_whole(drawn, request.max_new_tokens, self.end_ids):
                try:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        item = await job.queue.get()
                except TimeoutError:
                    raise late(f"a token of request {request.id}") from None
                if isinstance(item, BaseException):
                    raise item
                drawn += item.token_ids
                yield item
        finally:
            job.is_left = True

    async def start(self) -> None:
        """See ``LiveBackend.start``."""

    async def load(self, update: WeightUpdate, directory: str) -> None:
        """See ``LiveBackend.load``."""
        async with self._loading:
            if check_version(update, self):
                before = await asyncio.get_running_loop().run_in_executor(self._copying, self._copy)  # to go back to
                await self._between_steps(lambda: self._swap(update, before), f"the swap to version {update.version}")

    async def score(self, rows: Sequence[TokenRow], version: int) -> list[list[float]]:
        """See ``LiveBackend.score``."""
        scored: list[list[float]] = []
        while len(scored) < len(rows):
            part: list[TokenRow] = []
            tokens = 0
            for row in rows[len(scored) :]:
                tokens += len(row[0]) + len(row[1])
                if part and tokens > _SCORED_TOKENS:
                    break
                part.append(row)
            scored += await self._between_steps(partial(self._score, part, version), "scoring")
        return scored

    async def close(self) -> None:
        """See ``LiveBackend.close``."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._copying.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._thread.join, PATIENCE_SECONDS)

    # --- called from other threads -----------------------------------------------------------------------------------

    def _submit(self, request: LiveRequest) -> _Job:
        with self._changed:
            self._require_alive()
            self._count += 1
            job = _Job(request, self._count)
            self._waiting.append(job)
            self._changed.notify()
        return job

    async def _between_steps(self, task: Callable[[], Any], what: str) -> Any:
        done: Future[Any] = Future()
        with self._changed:
            self._require_alive()
            self._tasks.append((task, done))
            self._changed.notify()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await asyncio.wrap_future(done)
        except TimeoutError:
            raise late(what) from None

    def _require_alive(self) -> None:
        if self.failure is not None or self._closed:
            raise RunFailure(f"live engine: it draws no more ({self.failure or 'it is ending'})")

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._live.own_weights().items()}

    # --- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        torch.set_num_threads(self._threads)  # each thread has its own number
        try:
            while not self._closed:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or self._tasks or self._waiting or self._drawn, 1.0)
                    tasks, self._tasks = self._tasks, []
                for task, done in tasks:
                    _carry_out(task, done)
                self._drop_left()
                self._tell(self._step())
                self._tell(self._admit())
        except BaseException as error:  # whoever waits must learn of it, whatever it is
            self.failure = error
        finally:
            self._abandon(self.failure or RunFailure("the engine is ending"))

    def _step(self) -> list[Row]:
        """One more token of everything that runs."""
        return [row for policy in self._policies() for row in policy.step()]

    def _admit(self) -> list[Row]:
        """The first token of those who come next, by priority and then in order."""
        with self._changed:
            self._waiting.sort(key=lambda job: job.place)
            urgent = sum(job.row.request.priority == 0 for job in self._waiting)
            self._make_room(urgent)
            admitted: list[_Job] = []
            tokens = 0
            while self._waiting and len(self._drawn) < self._most:
                tokens += len(self._waiting[0].row.context)
                if admitted and tokens > _PROMPT_TOKENS:
                    break
                job = self._waiting.pop(0)
                admitted.append(job)
                self._drawn[id(job.row)] = job
        return [row for policy in self._policies() for row in self._begin(policy, admitted)]

    def _begin(self, policy: LivePolicy, admitted: Sequence[_Job]) -> list[Row]:
        rows = [job.row for job in admitted if self._policy_of(job.row) is policy]
        if not rows:
            return []
        try:
            policy.begin(rows)
        except (RuntimeError, MemoryError) as error:  # what runs already goes on
            policy.drop(rows)
            failure = RunFailure(f"live engine: a prompt cannot be read ({first_line(error)})")
            _deliver([(self._drawn.pop(id(row)), failure) for row in rows])
            return []
        return rows

    def _make_room(self, urgent: int) -> None:
        """Set back the newest rows of low priority for urgent ones; they go on later, from where they are."""
        short = min(urgent, self._most) - (self._most - len(self._drawn))
        low = sorted((job for job in self._drawn.values() if job.place[0] > 0), key=lambda job: -job.number)
        for job in low[: max(short, 0)]:
            del self._drawn[id(job.row)]
            job.row = job.row.replaced()
            self._waiting.append(job)
        self._waiting.sort(key=lambda job: job.place)

    def _tell(self, rows: Sequence[Row]) -> None:
        """Deliver the newest token of each row. It was drawn since the last task, so by the version held now."""
        items: list[tuple[_Job, Item]] = []
        for row in rows:
            job = self._drawn.get(id(row))
            if job is None:
                continue
            version = INITIAL_VERSION if row.request.initial else self.version
            if math.isfinite(row.logprobs[-1]):
                items.append((job, Tokens((row.tokens[-1],), (row.logprobs[-1],), version)))
            else:
                row.is_over = True
                items.append((job, RunFailure(f"live engine: version {version} gives numbers that are not finite")))
            if row.is_over or row.has_ended(self.end_ids):
                row.is_over = True
                del self._drawn[id(row)]
        _deliver(items)

    def _drop_left(self) -> None:
        with self._changed:
            self._waiting = [job for job in self._waiting if not job.is_left]
        for key, job in list(self._drawn.items()):
            if job.is_left:
                job.row.is_over = True
                del self._drawn[key]

    def _abandon(self, error: BaseException) -> None:
        with self._changed:
            jobs, tasks = [*self._waiting, *self._drawn.values()], self._tasks
            self._waiting, self._drawn, self._tasks, self._closed = [], {}, [], True
        failure = RunFailure(f"live engine: it draws no more ({error})")
        _deliver([(job, failure) for job in jobs])
        for _, done in tasks:
            done.set_exception(failure)

    def _swap(self, update: WeightUpdate, before: dict[str, torch.Tensor]) -> None:
        try:
            held = self._live.load_weights(update)
        except RunFailure as error:  # it does not fit; nothing was copied
            raise Refused(str(error)) from None
        if held != update.checksum:
            self._live.load_weights(WeightUpdate(self.version, before, self.checksum))
            raise Refused(f"version {update.version}: the policy held {held} instead of {update.checksum}")
        self.version, self.checksum = update.version, held

    def _score(self, rows: Sequence[TokenRow], version: int) -> list[list[float]]:
        if version != self.version:
            raise Refused(f"version {version} is not held; the engine holds version {self.version}")
        return self._live.logprobs(rows)

    def _policies(self) -> list[LivePolicy]:
        return [self._live] if self._initial is None else [self._live, self._initial]

    def _policy_of(self, row: Row) -> LivePolicy:
        return self._initial if row.request.initial and self._initial is not None else self._live


def _carry_out(task: Callable[[], Any], done: "Future[Any]") -> None:
    """Do a task for whoever waits for it; its error is theirs."""
    if done.set_running_or_notify_cancel():
        try:
            done.set_result(task())
        except Exception as error:
            done.set_exception(error)


def _deliver(items: Sequence[tuple[_Job, Item]]) -> None:
    """Put each item into its job's queue: one call for each loop, as a call wakes it."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job, Item]]] = {}
    for job, item in items:
        by_loop.setdefault(job.loop, []).append((job, item))
    for loop, its_items in by_loop.items():
        with contextlib.suppress(RuntimeError):  # a loop that has ended, and all its streams with it
            loop.call_soon_threadsafe(_put, its_items)


def _put(items: Sequence[tuple[_Job, Item]]) -> None:
    for job, item in items:
        job.queue.put_nowait(item)
