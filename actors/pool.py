"""The hosted samplers and learner ranks, each behind one object that the loop can talk to."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from actors.backends import make_sampler
from actors.runtime import Pending, Remote, Runtime
from actors.sampling import SampleRequest
from learner.learner import PreferenceLearner
from learner.losses import uses_reference
from sea_agent.config import RunConfig
from sea_agent.errors import RunFailure
from sea_agent.keys import id_for, seed_for
from sea_agent.types import REFERENCE_VERSION, Candidates, Preference, Prompt, Response
from sea_agent.weights import WeightUpdate

Rows = Sequence[tuple[Sequence[int], Sequence[int]]]


class SamplerPool:
    """All samplers of a run, or with ``reference`` those that hold the initial policy for the whole run.

    Requests are cut into chunks of ``sampler.chunk`` in an order that depends on the requests alone, and the chunks
    are dealt to the samplers in turn; so the number of samplers changes nothing but speed. Responses of the reference
    carry ``REFERENCE_VERSION``.
    """

    def __init__(self, runtime: Runtime, config: RunConfig, *, reference: bool = False) -> None:
        factory = partial(make_sampler, config.policy, config.sampler, device=config.device, threads=config.threads)
        gpus = 1.0 if config.device == "cuda" else 0.0
        self._is_reference = reference
        self._name = "reference-sampler" if reference else "sampler"
        self._samplers: list[Remote] = [
            runtime.spawn(f"{self._name}-{index}", factory, gpus=gpus) for index in range(config.sampler.actors)
        ]
        self._config = config.sampler
        self._seed = config.seed

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
        responses = self._sample(requests)
        if self._is_reference:
            responses = {id_: replace(one, policy_version=REFERENCE_VERSION) for id_, one in responses.items()}
        ordered = [responses[request.id] for request in requests]
        return [ordered[index * count : (index + 1) * count] for index in range(len(prompts))]

    def load_weights(self, update: Pending, expected: str) -> None:
        """Give every sampler the published weights and prove by checksum that it holds them.

        Raises:
            RunFailure: naming the sampler that holds other weights than the learner published.
            ValueError: for the reference, which never changes.
        """
        if self._is_reference:
            raise ValueError("the reference policy is frozen and takes no weights")
        answers = [sampler.call("load_weights", update) for sampler in self._samplers]
        for index, answer in enumerate(answers):
            held = answer.result()
            if held != expected:
                raise RunFailure(
                    f"{self._name}-{index} holds weights {held} after the publish, the learner published {expected}; "
                    "its responses would come from another policy than the one that learns"
                )

    def _sample(self, requests: Sequence[SampleRequest]) -> dict[str, Response]:
        ordered = sorted(requests, key=lambda request: len(request.prompt.token_ids))
        size = self._config.chunk
        chunks = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        answers = [
            self._samplers[index % len(self._samplers)].call("sample", chunk) for index, chunk in enumerate(chunks)
        ]
        responses = {response.id: response for answer in answers for response in answer.result()}
        missing = {request.id for request in requests} - responses.keys()
        if missing:
            raise RunFailure(f"the samplers gave no response to {len(missing)} requests, first {min(missing)}")
        return responses


class LearnerGroup:
    """All ranks of the learner. Every rank sees every call; rank 0 answers."""

    def __init__(self, runtime: Runtime, config: RunConfig, *, total_steps: int, rendezvous: str | None) -> None:
        gpus = 1.0 if config.device == "cuda" else 0.0
        self._ranks: list[Remote] = [
            runtime.spawn(f"learner-{rank}", LearnerRank, config, total_steps, rank, rendezvous, gpus=gpus)
            for rank in range(config.learner.ranks)
        ]
        self._has_reference = config.learner.lora is not None or uses_reference(config.learner.loss)

    def step(self, preferences: Sequence[Preference]) -> dict[str, float]:
        """One round of policy optimisation; returns its metrics."""
        return self._answer("step", list(preferences))

    def weights(self) -> tuple[Pending, str]:
        """The current weights on their way, and the checksum that they must have on arrival."""
        update = self._start("weights")[0]
        return update, self._answer("published_checksum")

    def log_ratios(self, rows: Rows) -> list[float] | None:
        """log π(y|x) − log π_ref(y|x) of each response, in nats; None when the loss keeps no reference."""
        if not self._has_reference:
            return None
        reference = self._answer("reference_logprobs", rows)
        return [policy - base for policy, base in zip(self.logprobs(rows), reference, strict=True)]

    def logprobs(self, rows: Rows) -> list[float]:
        """log π(y|x) of each response under the current policy, in nats."""
        return [sum(tokens) for tokens in self._answer("policy_logprobs", rows)]

    def state(self) -> dict[str, Any]:
        """What a later learner needs to go on exactly from here, whatever its engine and number of ranks."""
        state: dict[str, Any] = self._answer("state")
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self._answer("load_state", state)

    def save_policy(self, directory: str) -> None:
        """Write the policy in Hugging Face format."""
        self._answer("save_policy", directory)

    def _start(self, method: str, *args: Any) -> list[Pending]:
        return [rank.call(method, *args) for rank in self._ranks]

    def _answer(self, method: str, *args: Any) -> Any:
        # All are waited for, so that every rank's errors are told and its CPU time is counted.
        rank_0, *_ = [pending.result() for pending in self._start(method, *args)]
        return rank_0


class LearnerRank(PreferenceLearner):
    """One hosted rank, which can tell what it published without sending it again."""

    def __init__(self, config: RunConfig, total_steps: int, rank: int, rendezvous: str | None) -> None:
        super().__init__(
            config.policy,
            config.learner,
            total_steps=total_steps,
            device=config.device,
            threads=config.threads,
            seed=config.seed,
            rank=rank,
            rendezvous=rendezvous,
            deadline_seconds=config.deadline_seconds,
        )
        self._published: str | None = None

    def weights(self) -> WeightUpdate | None:
        """All weights of this version; None on ranks other than 0."""
        update = super().weights()
        self._published = None if update is None else update.checksum
        return update

    def published_checksum(self) -> str | None:
        """The checksum of the weights last published."""
        return self._published
