"""The ``vllm`` back end of a live engine: vLLM's asynchronous engine, whose model runs in a process of its own.

New weights go in while its scheduler is paused: what runs keeps its place and its cache, newcomers wait, and no pass is
under way. The worker reads the file itself and sends back the checksum of what its kernels hold. vLLM marks each step's
tokens with the version that was set when the step was made, so the marks are those of the weights, whenever the tokens
are read here. Cached prefixes are salted with the version, so newcomers never read what older weights computed.

Tokens are drawn by vLLM's generator, keyed by the request's seed. It cannot be told to go on at a step, so a response
that another engine began goes on with random numbers of its own: a draw from the policy, but not the same one.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from actors.live import INITIAL_VERSION, PATIENCE_SECONDS, LiveRequest, Refused, Tokens, check_version, is_whole, late
from actors.sampling import check_update
from actors.vllm_sampler import engine_settings, import_vllm, not_started
from sea_agent.config import PolicyConfig, SamplerConfig
from sea_agent.errors import RunFailure, UserError, first_line
from sea_agent.pretrained import context_length, end_token_ids, load_tokenizer, model_config, skeleton
from sea_agent.seeding import seed_for
from sea_agent.types import TokenRow
from sea_agent.weights import WeightUpdate

_KEEPER = "actors.live_vllm_worker.WeightKeeper"
_START_SECONDS = 600.0
_SEEDS = 2**63  # vLLM takes smaller ones only
_TRIAL = LiveRequest("trial", (0,), 1, 1.0, 0)


class VllmLive:
    """See ``actors.live.LiveBackend``."""

    name = "vllm"

    def __init__(
        self, policy: PolicyConfig, config: SamplerConfig, *, device: str, threads: int, initial: bool
    ) -> None:
        """Start vLLM, twice with ``initial``; they share the memory of the configuration.

        Raises:
            UserError: vLLM is missing or does not start with this policy.
        """
        self._policy = policy
        self._skeleton = skeleton(policy.path, policy.dtype)
        self.context, self.vocabulary = context_length(policy.path), int(model_config(policy.path).vocab_size)
        self.tokenizer = load_tokenizer(policy.path)
        self.end_ids = end_token_ids(policy.path, self.tokenizer)
        self.has_initial, self.version, self.checksum = initial, INITIAL_VERSION, ""
        self._directory: str | None = None
        self._loading = asyncio.Lock()
        self._running = self._count = 0
        self._broken: BaseException | None = None
        self._vllm = import_vllm(device, threads)
        copies = 1 + initial
        shared = config.model_copy(
            update={
                "kv_cache_gb": config.kv_cache_gb / copies,
                "gpu_memory_share": config.gpu_memory_share / copies,
            }
        )
        settings = engine_settings(policy, shared, device, self.context)
        del settings["use_tqdm_on_load"]
        self._salted = config.prefix_caching
        self._engines = [self._start_engine(settings) for _ in range(copies)]

    def _start_engine(self, settings: dict[str, Any]) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = AsyncEngineArgs(**settings, worker_extension_cls=_KEEPER, scheduling_policy="priority")
        try:
            return AsyncLLM.from_engine_args(arguments)
        except (ValueError, RuntimeError) as error:
            raise not_started(self._policy, error) from error

    async def start(self) -> None:
        """See ``LiveBackend.start``."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                for engine in self._engines:
                    [self.checksum] = await engine.collective_rpc(
                        "sea_start", args=(self._policy.path, self._policy.dtype)
                    )
                    await engine.update_weight_version(str(INITIAL_VERSION))
                async for _ in self.generate(_TRIAL):  # some models are refused only by a kernel
                    pass
        except TimeoutError:
            raise UserError(f"sampler.backend=vllm: vLLM did not get ready in {_START_SECONDS:.0f} seconds") from None
        except Exception as error:  # an error of the worker arrives as a bare one
            raise not_started(self._policy, error) from error

    @property
    def running(self) -> int:
        """See ``LiveBackend.running``."""
        return self._running

    @property
    def failure(self) -> BaseException | None:
        """See ``LiveBackend.failure``."""
        dead = next((engine.dead_error for engine in self._engines if engine.errored), None)
        return self._broken or dead

    async def generate(self, request: LiveRequest) -> AsyncGenerator[Tokens, None]:
        """See ``LiveBackend.generate``."""
        if is_whole(request.done, request.max_new_tokens, self.end_ids):
            return
        engine = self._engines[-1] if request.initial else self._engines[0]
        self._count += 1
        name = f"{self._count}-{request.id}"
        prompt: dict[str, Any] = {"prompt_token_ids": [*request.prompt_ids, *request.done]}
        if self._salted:
            prompt["cache_salt"] = str(INITIAL_VERSION if request.initial else self.version)
        source = engine.generate(prompt, self._parameters(request), name, priority=request.priority)
        self._running += 1
        try:
            async with contextlib.aclosing(_in_time(source, request.id)) as outputs:
                marks: list[tuple[str, int]] = []
                count = 0
                async for output in outputs:
                    [completion] = output.outputs
                    marks = _marks(engine, name, completion) or marks
                    tokens, entries = completion.token_ids, completion.logprobs or []
                    for start, stop, version in _spans(marks, count, count + len(tokens)):
                        part = slice(start - count, stop - count)
                        values = [
                            entry[token].logprob for token, entry in zip(tokens[part], entries[part], strict=True)
                        ]
                        yield Tokens(tuple(tokens[part]), tuple(values), version)
                    count += len(tokens)
        finally:
            self._running -= 1

    def _parameters(self, request: LiveRequest) -> Any:
        from vllm.sampling_params import RequestOutputKind

        inside = 0 <= request.seed < _SEEDS and not request.done
        return self._vllm.SamplingParams(
            seed=request.seed if inside else seed_for("response", request.seed, len(request.done)),
            temperature=request.temperature,
            max_tokens=request.max_new_tokens - len(request.done),
            stop_token_ids=list(self.end_ids),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    async def load(self, update: WeightUpdate, directory: str) -> None:
        """See ``LiveBackend.load``."""
        async with self._loading:
            if not check_version(update, self):
                return
            try:
                check_update(update, self._skeleton)
            except RunFailure as error:
                raise Refused(str(error)) from None
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._engines[0].pause_generation(mode="keep", clear_cache=False)
                    await self._swap(update, directory)
            except TimeoutError:
                raise late(f"the swap to version {update.version}") from None
            finally:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._engines[0].resume_generation()

    async def _swap(self, update: WeightUpdate, directory: str) -> None:
        """Load while nothing runs, and go back if that does not succeed."""
        engine = self._engines[0]
        try:
            [held] = await engine.collective_rpc("sea_hold", args=(directory,))
        except Exception as error:  # an error of the worker arrives as a bare one
            held = first_line(error)
        if held == update.checksum:
            await engine.update_weight_version(str(update.version))
            self.version, self.checksum, self._directory = update.version, held, directory
            return
        try:
            [back] = await engine.collective_rpc("sea_hold", args=(self._directory,))
        except Exception as error:
            back = first_line(error)
        if back != self.checksum:
            self._broken = RunFailure(
                f"neither version {update.version} nor version {self.version} can be loaded: {back}"
            )
        raise Refused(f"version {update.version}: vLLM held {held} instead of {update.checksum}")

    async def score(self, rows: Sequence[TokenRow], version: int) -> list[list[float]]:
        """See ``LiveBackend.score``. No weights are swapped meanwhile."""
        async with self._loading:
            if version != self.version:
                raise Refused(f"version {version} is not held; the engine holds version {self.version}")
            return list(await asyncio.gather(*(self._score(row) for row in rows)))

    async def _score(self, row: TokenRow) -> list[float]:
        prompt, response = row
        parameters = self._vllm.SamplingParams(
            max_tokens=1, temperature=1.0, seed=0, prompt_logprobs=0, detokenize=False
        )
        self._count += 1
        whole = {"prompt_token_ids": [*prompt, *response]}
        source = self._engines[0].generate(whole, parameters, f"{self._count}-score", priority=1)
        async with contextlib.aclosing(_in_time(source, "to score")) as outputs:
            last = [output async for output in outputs][-1]
        entries = last.prompt_logprobs[len(prompt) :]
        return [entry[token].logprob for token, entry in zip(response, entries, strict=True)]

    async def close(self) -> None:
        """See ``LiveBackend.close``."""
        for engine in self._engines:
            engine.shutdown()


async def _in_time(source: AsyncGenerator[Any, None], name: str) -> AsyncGenerator[Any, None]:
    """What comes of vLLM, each within the time a stream waits. Raises: RunFailure when it comes no more."""
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    try:
        while True:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    output = await anext(source)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise late(f"a token of request {name}") from None
            except (EngineDeadError, EngineGenerateError) as error:
                raise RunFailure(f"live engine: vLLM gave up request {name} ({first_line(error)})") from error
            yield output
    finally:
        await source.aclose()


def _marks(engine: Any, name: str, completion: Any) -> list[tuple[str, int]]:
    """(version, index of its first token) of the tokens of a request so far, as vLLM noted them with each step."""
    if completion.weight_versions is not None:  # the last output has them all; the request is forgotten
        return [(span.version, span.start) for span in completion.weight_versions]
    processor = engine.output_processor
    for internal in processor.external_req_ids.get(name, ()):
        if internal in processor.request_states:
            return list(processor.request_states[internal].weight_version_starts)
    return []


def _spans(marks: Sequence[tuple[str, int]], start: int, stop: int) -> list[tuple[int, int, int]]:
    """(first, end, version) of the runs of one version among the tokens from ``start`` to ``stop``."""
    ends = [first for _, first in marks[1:]] + [stop]
    bounded = [
        (max(first, start), min(end, stop), int(version)) for (version, first), end in zip(marks, ends, strict=True)
    ]
    return [span for span in bounded if span[0] < span[1]]
