"""The transformers back end of a live engine: exact, joint, in order of priority, and never waiting for ever."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from threading import Semaphore
from typing import Any, TypeVar

import pytest
import torch
from live_clients import DEADLINE_SECONDS, live
from policy_zoo import ODD, make_policy_of
from tiny_policies import by_id, request, varied_requests

import actors.live_hf
from actors.hf_sampler import HfSampler
from actors.live import LiveRequest, Tokens
from actors.live_batch import RowBatch
from actors.live_hf import HfLive
from actors.live_policy import LivePolicy
from actors.sampling import SampleRequest
from sea_agent.config import PolicyConfig, SamplerConfig
from sea_agent.errors import RunFailure, UserError
from sea_agent.types import Response

Policies = Callable[..., PolicyConfig]
Result = TypeVar("Result")
ROWS = 8  # at once, less than the tests ask for
# Attention with and without a window, positions of all kinds, recurrent states, both, and one that is computed alone.
ARCHITECTURES = ("llama", "mistral", "gemma2", "gpt2", "bloom", "mamba", "qwen3_next", "jamba", "rwkv")


def make(policy: PolicyConfig, rows: int = ROWS, initial: bool = False) -> HfLive:
    return HfLive(policy, SamplerConfig(chunk=rows), device="cpu", threads=1, initial=initial)


def run(backend: HfLive, work: Callable[[], Awaitable[Result]]) -> Result:
    async def whole() -> Result:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                return await work()
        finally:
            await backend.close()

    return asyncio.run(whole())


async def drawn(backend: HfLive, one: LiveRequest) -> list[Tokens]:
    return [tokens async for tokens in backend.generate(one)]


def response(steps: Sequence[Tokens]) -> tuple[tuple[int, ...], list[float]]:
    tokens = tuple(token for step in steps for token in step.token_ids)
    return tokens, [value for step in steps for value in step.logprobs]


async def in_waves(backend: HfLive, requests: Sequence[SampleRequest]) -> dict[str, list[Tokens]]:
    """Draw all; each begins when the one before it, or two before it, has some of its tokens."""
    found: dict[str, list[Tokens]] = {one.id: [] for one in requests}
    ready = [asyncio.Event() for _ in range(len(requests) + 2)]
    ready[0].set()
    ready[1].set()

    async def one_of(place: int, one: SampleRequest) -> None:
        await ready[place].wait()
        async for tokens in backend.generate(live(one, priority=place % 2)):
            found[one.id].append(tokens)
            if len(found[one.id]) > place % 4:
                ready[place + 1 + place % 2].set()
        ready[place + 1].set()
        ready[place + 2].set()

    await asyncio.gather(*(one_of(place, one) for place, one in enumerate(requests)))
    return found


def waves_of(context: int, vocabulary: int) -> list[SampleRequest]:
    """Prompts of 1 to 25 tokens, some equal, at several temperatures."""
    lengths = [3, 25, 3, 1, 11, 18, 18, 7, 2, 14]
    return [
        request(
            f"r{place}",
            [1 + (place // 2 * 5 + step) % (vocabulary - 2) for step in range(length)],
            seed=place,
            temperature=(0.7, 0.0, 1.5)[place % 3],
            max_new_tokens=min(6 + place, context - length),
        )
        for place, length in enumerate(lengths)
    ]


def assert_same(found: dict[str, list[Tokens]], expected: dict[str, Response]) -> None:
    for name, steps in found.items():
        tokens, logprobs = response(steps)
        assert tokens == expected[name].token_ids, name
        assert logprobs == pytest.approx(expected[name].logprobs, abs=1e-4), name


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PolicyConfig]:
    def policy(architecture: str) -> PolicyConfig:
        return PolicyConfig(path=str(make_policy_of(architecture, tmp_path_factory.mktemp("zoo"))))

    return policy


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_responses_are_those_of_the_sampler_whoever_joins_and_leaves(
    zoo: Callable[[str], PolicyConfig], architecture: str
) -> None:
    policy = zoo(architecture)
    requests = waves_of(48, 31)
    expected = by_id([one for each in requests for one in HfSampler(policy, device="cpu").sample([each])])
    backend = make(policy, rows=4)  # so that some of low priority are set back
    assert_same(run(backend, lambda: in_waves(backend, requests)), expected)
    assert backend.running == 0


@pytest.mark.parametrize("world", ["lexicon", "kitchen", "reviews"])
def test_the_policies_of_the_worlds_are_computed_together(world: str) -> None:
    policy = PolicyConfig(path=f"world://{world}/policy")
    requests = waves_of(64, 50)
    expected = by_id(HfSampler(policy, device="cpu").sample(requests))
    backend = make(policy)
    assert_same(run(backend, lambda: in_waves(backend, requests)), expected)


def test_padding_that_is_seen_would_be_noticed(tiny_policy: Policies, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = waves_of(64, 40)
    expected = by_id(HfSampler(tiny_policy("llama"), device="cpu").sample(requests))
    backend = make(tiny_policy("llama"))
    join = RowBatch.join

    def seen(self: RowBatch, others: Sequence[RowBatch]) -> None:
        join(self, others)
        self._mask_R_L = torch.ones_like(self._mask_R_L)

    monkeypatch.setattr(RowBatch, "join", seen)
    with pytest.raises(AssertionError):
        assert_same(run(backend, lambda: in_waves(backend, requests)), expected)


def test_a_policy_that_joining_would_disturb_is_not_joined(
    tiny_policy: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LivePolicy(tiny_policy("llama"), device="cpu")._joins

    def seen(self: RowBatch, others: Sequence[RowBatch]) -> None:
        join(self, others)
        self._mask_R_L = torch.ones_like(self._mask_R_L)

    join = RowBatch.join
    monkeypatch.setattr(RowBatch, "join", seen)
    assert not LivePolicy(tiny_policy("llama"), device="cpu")._joins


def test_what_transformers_computes_wrongly_is_refused(tmp_path: Path) -> None:
    for architecture in ODD:
        with pytest.raises(UserError, match="with its cache"):
            make(PolicyConfig(path=str(make_policy_of(architecture, tmp_path / architecture))))


def test_eight_responses_take_hardly_more_passes_than_one(tiny_policy: Policies) -> None:
    requests = [request(f"r{place}", (5, 6, 7), place, 1.0, 20) for place in range(8)]
    passes = {}
    for count in (1, 8):
        backend = make(tiny_policy("llama"))
        forward, counted = backend._live._model.forward, []
        backend._live._model.forward = lambda *a, f=forward, c=counted, **k: (c.append(1), f(*a, **k))[1]
        found = run(backend, lambda b=backend, n=count: in_time(b, requests[:n]))
        longest = max(len(response(steps)[0]) for steps in found)
        passes[count] = len(counted)
        assert passes[count] <= 2 * longest  # each step once, and a prompt as often as it came at another time
    assert passes[8] <= 2.5 * passes[1] + 8


async def in_time(backend: HfLive, requests: Sequence[SampleRequest], **others: Any) -> list[list[Tokens]]:
    return list(await asyncio.gather(*(drawn(backend, live(one, **others)) for one in requests)))


async def until(condition: Callable[[], bool]) -> None:
    """Let others go on until it holds."""
    while not condition():
        await asyncio.sleep(0)


class Gate:
    """Steps of a back end that wait until they are let through."""

    def __init__(self, backend: HfLive, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open, self.steps, self._is_waiting = Semaphore(0), 0, False
        step = backend._step

        def gated() -> Any:
            if backend._drawn:
                self._is_waiting = True
                assert self._open.acquire(timeout=DEADLINE_SECONDS)
                self.steps += 1
            return step()

        monkeypatch.setattr(backend, "_step", gated)

    def open(self, steps: int = 100_000) -> None:
        for _ in range(steps):
            self._open.release()

    async def let_through(self, condition: Callable[[], bool]) -> None:
        """Let one step after another through until it holds, and readers have the tokens of each before the next."""
        while not condition():
            if self._is_waiting:
                self._is_waiting = False
                self.open(1)
            await asyncio.sleep(0)


@pytest.fixture
def gated(tiny_policy: Policies, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[HfLive, Gate]]:
    backend = make(tiny_policy("llama"), rows=2)
    gate = Gate(backend, monkeypatch)
    yield backend, gate
    gate.open()


def long_requests(tiny_policy: Policies, count: int) -> list[SampleRequest]:
    """Requests whose responses do not end for 20 tokens."""
    sampler = HfSampler(tiny_policy("llama"), device="cpu")
    tried = [request(f"r{seed}", (5, 6, 7), seed, 1.0, 20) for seed in range(200)]
    long = [one for one in tried if len(sampler.sample([one])[0].token_ids) == 20]
    assert len(long) >= count
    return long[:count]


def test_urgent_requests_are_drawn_before_others_which_go_on_unchanged(
    tiny_policy: Policies, gated: tuple[HfLive, Gate]
) -> None:
    backend, gate = gated
    first, second, urgent = long_requests(tiny_policy, 3)
    order: list[str] = []

    async def note(one: LiveRequest) -> list[Tokens]:
        found = await drawn(backend, one)
        order.append(one.id)
        return found

    async def work() -> dict[str, list[Tokens]]:
        low = [asyncio.create_task(note(live(one, priority=1))) for one in (first, second)]
        await gate.let_through(lambda: len(backend._drawn) == 2)
        both = gate.steps
        await gate.let_through(lambda: gate.steps == both + 5)
        tasks = [*low, asyncio.create_task(note(live(urgent)))]
        await gate.let_through(lambda: all(task.done() for task in tasks))
        return {one.id: await task for one, task in zip((first, second, urgent), tasks, strict=True)}

    found = run(backend, work)
    # Of two rows the newer one made room, so it ends last.
    assert order == [first.id, urgent.id, second.id]
    assert_same(found, by_id(HfSampler(tiny_policy("llama"), device="cpu").sample([first, second, urgent])))


def test_who_leaves_is_drawn_no_more(tiny_policy: Policies, gated: tuple[HfLive, Gate]) -> None:
    backend, gate = gated
    [one] = long_requests(tiny_policy, 1)

    async def work() -> None:
        stream = backend.generate(live(one))
        await anext(stream)
        gate.open(1)
        await anext(stream)
        await stream.aclose()
        gate.open(2)
        await until(lambda: not backend.running)

    run(backend, work)
    assert gate.steps <= 3


def test_a_stream_without_tokens_ends_with_an_error(
    tiny_policy: Policies, gated: tuple[HfLive, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, gate = gated
    [one] = long_requests(tiny_policy, 1)
    monkeypatch.setattr(actors.live_hf, "PATIENCE_SECONDS", 0.05)

    async def work() -> None:
        try:
            await drawn(backend, live(one))
        finally:
            gate.open()

    with pytest.raises(RunFailure, match=f"a token of request {one.id} took more than"):
        run(backend, work)


def test_a_back_end_that_breaks_down_tells_everybody(tiny_policy: Policies, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = make(tiny_policy("llama"))
    requests = long_requests(tiny_policy, 3)
    steps = iter(range(5))
    step = backend._step

    def breaking() -> Any:
        if backend._drawn and next(steps, None) is None:
            raise torch.OutOfMemoryError("no memory left")
        return step()

    monkeypatch.setattr(backend, "_step", breaking)

    async def work() -> list[Any]:
        ended = await asyncio.gather(*(drawn(backend, live(one)) for one in requests), return_exceptions=True)
        with pytest.raises(RunFailure, match="no memory left"):
            await drawn(backend, live(requests[0]))
        with pytest.raises(RunFailure, match="no memory left"):
            await backend.score([((5,), (6,))], 0)
        return ended

    assert all(isinstance(one, RunFailure) and "no memory left" in str(one) for one in run(backend, work))
    assert isinstance(backend.failure, torch.OutOfMemoryError)


def test_a_prompt_that_cannot_be_read_ends_no_other_stream(
    tiny_policy: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make(tiny_policy("llama"))
    good, bad = long_requests(tiny_policy, 2)
    begin = RowBatch.begin

    def failing(model: Any, rows: Sequence[Any], device: str) -> RowBatch:
        if any(row.request.id == bad.id for row in rows):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return begin(model, rows, device)

    monkeypatch.setattr(RowBatch, "begin", failing)

    async def work() -> tuple[list[Tokens], Any]:
        stream = backend.generate(live(good))
        found = [await anext(stream)]
        [error] = await asyncio.gather(drawn(backend, live(bad)), return_exceptions=True)
        return found + [tokens async for tokens in stream], error

    found, error = run(backend, work)
    assert isinstance(error, RunFailure)
    assert "can't allocate memory" in str(error)
    assert_same({good.id: found}, by_id(HfSampler(tiny_policy("llama"), device="cpu").sample([good])))
    assert backend.failure is None


def test_numbers_that_are_not_finite_end_the_stream(tiny_policy: Policies) -> None:
    backend = make(tiny_policy("llama"))
    with torch.no_grad():
        backend._live._model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(RunFailure, match="version 0 gives numbers that are not finite"):
        run(backend, lambda: drawn(backend, live(varied_requests(1)[0])))
