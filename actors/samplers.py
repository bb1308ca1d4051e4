"""The samplers of a run behind one object."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

from actors.runtime import Pending, Remote, Runtime
from actors.sampling import Sampler, SampleRequest
from sea_agent.config import Compute, PolicyConfig, SamplerConfig
from sea_agent.errors import ActorDied, RunFailure
from sea_agent.pretrained import use_threads
from sea_agent.seeding import id_for, seed_for
from sea_agent.types import REFERENCE_VERSION, Candidates, Prompt, Response, TokenRow
from sea_agent.weights import WeightUpdate

_MOST_DEATHS = 3


def make_sampler(
    policy: PolicyConfig,
    config: SamplerConfig,
    *,
    device: str,
    threads: int,
    index: int = 0,
    longest: int | None = None,
) -> Sampler:
    """The configured back end with the policy's initial weights on ``device`` (``cpu`` or ``cuda``).

    ``index`` distinguishes the ``config.actors`` samplers of a run. ``longest`` is the most tokens of a prompt and its
    response; the policy's context if it is not known.

    Raises:
        UserError: the policy cannot be loaded, or the back end is not installed.
    """
    use_threads(threads)
    if config.backend == "vllm":
        from actors.vllm_sampler import VllmSampler  # vLLM and transformers' model code load only when used

        return VllmSampler(policy, config, device=device, threads=threads, index=index, longest=longest)
    from actors.hf_sampler import HfSampler

    return HfSampler(policy, device=device)


def try_sampler(policy: PolicyConfig, config: SamplerConfig, device: str) -> None:
    """See that the back end can sample the policy: vLLM is asked whether it knows it, transformers tries it on the CPU.

    Raises:
        UserError: it cannot.
    """
    if config.backend == "vllm":
        from actors.vllm_sampler import require_architecture

        require_architecture(policy.path, device)
    else:
        make_sampler(policy, config, device="cpu", threads=1)


class SamplerPool:
    """All samplers of a run, or with ``reference`` those that hold the initial policy throughout the run.

    Requests are split into chunks of ``sampler.chunk`` in an order that depends on the requests alone, and chunks go to
    the samplers in turn, so the number of samplers affects only speed. Responses of the reference carry
    ``REFERENCE_VERSION``. ``longest_prompt`` is the most tokens of a prompt, if that is known: vLLM then reserves no
    memory for a longer one.
    """

    def __init__(
        self,
        runtime: Runtime,
        policy: PolicyConfig,
        config: SamplerConfig,
        compute: Compute,
        *,
        reference: bool = False,
        longest_prompt: int | None = None,
    ) -> None:
        longest = None if longest_prompt is None else longest_prompt + config.max_new_tokens
        factory = partial(make_sampler, policy, config, device=compute.device, threads=compute.threads, longest=longest)
        self._runtime = runtime
        self._is_reference = reference
        self._name = "reference-sampler" if reference else "sampler"
        self._samplers: list[Remote] = [
            runtime.spawn(f"{self._name}-{index}", partial(factory, index=index)) for index in range(config.actors)
        ]
        if config.weight_transfer == "ipc":
            # vLLM must start before the learner allocates on their shared GPU: it would count that memory as its own.
            runtime.results([sampler.call("sample", []) for sampler in self._samplers])
        self._config = config
        self._seed = compute.seed
        self._published: tuple[Pending | WeightUpdate, str] | None = None
        self._deaths = 0
        self._turn = 0
        # GPU-to-GPU transfers reach all samplers together, once.
        self._regives = reference or config.weight_transfer == "object_store"

    def candidates(
        self, prompts: Sequence[Prompt], count: int, temperature: float, *key: int | str
    ) -> list[Candidates]:
        """The distinct ones of ``count`` responses to each prompt; see ``samples``."""
        samples = self.samples(prompts, count, temperature, *key)
        return [Candidates.distinct(prompt, responses) for prompt, responses in zip(prompts, samples, strict=True)]

    def samples(
        self, prompts: Sequence[Prompt], count: int, temperature: float, *key: int | str
    ) -> list[list[Response]]:
        """``count`` responses to each prompt, in the order of the prompts; randomness is keyed by ``key`` and prompt.

        Temperature 0 decodes greedily.
        """
        return self.begin(prompts, count, temperature, *key)()

    def begin(
        self, prompts: Sequence[Prompt], count: int, temperature: float, *key: int | str
    ) -> Callable[[], list[list[Response]]]:
        """Start sampling; calling the result waits for the responses, as ``samples`` returns them.

        Weights published in between affect only later calls, unless a sampler has died.
        """
        requests = [
            SampleRequest(
                id=id_for("response", self._seed, *key, prompt.id, index),
                prompt=prompt,
                seed=seed_for(self._seed, "sample", *key, prompt.id, index),
                temperature=temperature,
                max_new_tokens=self._config.max_new_tokens,
            )
            for prompt in prompts
            for index in range(count)
        ]
        chunks = self._chunks(requests)
        answers = self._start(chunks)

        @cache
        def finish() -> list[list[Response]]:
            responses = self._collect(chunks, answers)
            missing = {request.id for request in requests} - responses.keys()
            if missing:
                raise RunFailure(f"the samplers gave no response to {len(missing)} requests, first {min(missing)}")
            ordered = [responses[request.id] for request in requests]
            return [ordered[index * count : (index + 1) * count] for index in range(len(prompts))]

        return finish

    def logprobs(self, rows: Sequence[TokenRow]) -> list[list[float]]:
        """log π(token) of each response token, in nats; the samplers take turns."""
        self._turn += 1
        answer: list[list[float]] = self._samplers[self._turn % len(self._samplers)].call("logprobs", rows).result()
        return answer

    def load_weights(self, update: Pending | WeightUpdate, expected: str) -> None:
        """Send the published weights to every sampler and verify by checksum that it holds them.

        Raises:
            RunFailure: naming the sampler whose weights differ from those published.
            ValueError: for the reference, which never changes.
        """
        if self._is_reference:
            raise ValueError("the reference policy is frozen and takes no weights")
        self._published = update, expected
        answers = [sampler.call("load_weights", update) for sampler in self._samplers]
        if not self._regives:
            self._runtime.results(answers)  # raises at once: if one fails, the others would wait for it forever
        for index, answer in enumerate(answers):
            try:
                self._check_weights(index, answer.result())
            except ActorDied as death:
                if not self._samplers[index].is_dead():
                    raise  # the learner died before its weights arrived
                self._replace(index, death)
        self._deaths = 0

    def revive(self) -> None:
        """Restart dead samplers with the initial policy; ``load_weights`` must follow, as the weights last published
        may have been lost with the learner's node.

        With GPU-to-GPU transfer all are restarted: survivors belong to a process group that lost a member.
        """
        for sampler in self._samplers:
            if not self._regives or sampler.is_dead():
                sampler.restart()

    def _chunks(self, requests: Sequence[SampleRequest]) -> list[list[SampleRequest]]:
        ordered = sorted(requests, key=lambda request: len(request.prompt.token_ids))
        size = self._config.chunk
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def _start(self, chunks: Sequence[list[SampleRequest]]) -> list[Pending]:
        return [self._samplers[index % len(self._samplers)].call("sample", chunk) for index, chunk in enumerate(chunks)]

    def _collect(self, chunks: Sequence[list[SampleRequest]], answers: Sequence[Pending]) -> dict[str, Response]:
        responses: dict[str, Response] = {}
        while chunks:
            left = []
            for index, (chunk, answer) in enumerate(zip(chunks, answers, strict=True)):
                try:
                    responses |= {response.id: response for response in answer.result()}
                except ActorDied as death:
                    left.append(chunk)
                    self._replace(index % len(self._samplers), death)
            chunks, answers = left, self._start(left)
        if self._is_reference:
            return {id_: replace(one, policy_version=REFERENCE_VERSION) for id_, one in responses.items()}
        return responses

    def _replace(self, index: int, death: ActorDied) -> None:
        """Restart a sampler that died, with the published weights; the caller reassigns its work.

        Raises:
            ActorDied: samplers keep dying within one round, or weights cannot be sent to a single sampler.
        """
        if not self._regives:
            raise death
        if not self._samplers[index].is_dead():
            return  # already restarted: it had several chunks when it died
        self._deaths += 1
        if self._deaths > _MOST_DEATHS:
            raise death
        self._samplers[index].restart()
        if self._published is not None:
            self._check_weights(index, self._samplers[index].call("load_weights", self._published[0]).result())

    def _check_weights(self, index: int, held: str) -> None:
        assert self._published is not None  # a checksum arrives only after a publish
        if held != self._published[1]:
            raise RunFailure(
                f"{self._name}-{index} holds weights {held} after the publish, the learner published "
                f"{self._published[1]}; its responses would not come from the policy being trained"
            )
