"""The hosted samplers and learner ranks, each behind one object that the loop can talk to."""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import psutil

from actors.backends import make_sampler
from actors.runtime import Pending, Remote, Runtime
from actors.sampling import SampleRequest
from learner.learner import PreferenceLearner
from learner.losses import uses_reference
from learner.weight_transfer import make_transfer
from sea_agent.config import RunConfig
from sea_agent.errors import ActorDied, RunFailure
from sea_agent.keys import id_for, seed_for
from sea_agent.types import REFERENCE_VERSION, Candidates, Preference, Prompt, Response
from sea_agent.weights import WeightUpdate

_MOST_DEATHS = 3

Rows = Sequence[tuple[Sequence[int], Sequence[int]]]


class SamplerPool:
    """All samplers of a run, or with ``reference`` those that hold the initial policy for the whole run.

    Requests are cut into chunks of ``sampler.chunk`` in an order that depends on the requests alone, and the chunks
    are dealt to the samplers in turn; so the number of samplers changes nothing but speed. Responses of the reference
    carry ``REFERENCE_VERSION``.
    """

    def __init__(self, runtime: Runtime, config: RunConfig, *, reference: bool = False) -> None:
        factory = partial(make_sampler, config.policy, config.sampler, device=config.device, threads=config.threads)
        self._runtime = runtime
        self._is_reference = reference
        self._name = "reference-sampler" if reference else "sampler"
        self._samplers: list[Remote] = [
            runtime.spawn(f"{self._name}-{index}", partial(factory, index=index))
            for index in range(config.sampler.actors)
        ]
        if config.sampler.weight_transfer == "ipc":
            # vLLM takes what the learner allocates on their GPU meanwhile for its own, so it is ready first.
            runtime.results([sampler.call("sample", []) for sampler in self._samplers])
        self._config = config.sampler
        self._seed = config.seed
        self._published: tuple[Pending, str] | None = None
        self._deaths = 0
        self._turn = 0
        # From GPU to GPU weights are given once, to all samplers together.
        self._regives = reference or config.sampler.weight_transfer == "object_store"

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
        """Start the sampling of ``samples``; the answer waits for its end.

        Weights that are published in between are for later calls, except where a sampler has died.
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

    def logprobs(self, rows: Rows) -> list[list[float]]:
        """log π(token) of each response token, in nats, from the sampler whose turn it is."""
        self._turn += 1
        answer: list[list[float]] = self._samplers[self._turn % len(self._samplers)].call("logprobs", rows).result()
        return answer

    def load_weights(self, update: Pending, expected: str) -> None:
        """Give every sampler the published weights and prove by checksum that it holds them.

        Raises:
            RunFailure: naming the sampler that holds other weights than the learner published.
            ValueError: for the reference, which never changes.
        """
        if self._is_reference:
            raise ValueError("the reference policy is frozen and takes no weights")
        self._published = update, expected
        answers = [sampler.call("load_weights", update) for sampler in self._samplers]
        if not self._regives:
            self._runtime.results(answers)  # raises at once: where one is missing, the others wait for it in vain
        for index, answer in enumerate(answers):
            try:
                self._check_weights(index, answer.result())
            except ActorDied as death:
                if not self._samplers[index].is_dead():
                    raise  # it was the learner, before its weights arrived
                self._replace(index, death)
        self._deaths = 0

    def revive(self) -> None:
        """Replace the samplers that have died by new ones with the initial policy; ``load_weights`` must follow, as
        the weights last published may have died with the learner's node.

        Where weights go from GPU to GPU all are replaced: those that are left hold on to a group without one of them.
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
        """Put a new sampler in the place of one that died; its work is the caller's to give out again.

        Raises:
            ActorDied: when samplers die again and again without a round being finished in between, or when the weights
                cannot be given to a new one.
        """
        if not self._regives:
            raise death
        if not self._samplers[index].is_dead():
            return  # it died with more than one piece of work, and was replaced already
        self._deaths += 1
        if self._deaths > _MOST_DEATHS:
            raise death
        self._restart(index)

    def _restart(self, index: int) -> None:
        self._samplers[index].restart()
        if self._published is not None and self._regives:
            update, _ = self._published
            self._check_weights(index, self._samplers[index].call("load_weights", update).result())

    def _check_weights(self, index: int, held: str) -> None:
        assert self._published is not None  # somebody was given weights
        if held != self._published[1]:
            raise RunFailure(
                f"{self._name}-{index} holds weights {held} after the publish, the learner published "
                f"{self._published[1]}; its responses would come from another policy than the one that learns"
            )


class LearnerGroup:
    """All ranks of the learner. Every rank sees every call; rank 0 answers."""

    def __init__(self, runtime: Runtime, config: RunConfig, *, total_steps: int) -> None:
        self._runtime, self._config, self._total_steps = runtime, config, total_steps
        self._joining: list[Pending] = []
        self._sending: list[Pending] = []
        self._ranks = self._spawn()
        self._is_grouped = config.sampler.weight_transfer != "object_store"
        self._has_reference = config.learner.lora is not None or uses_reference(config.learner.loss)

    def step(self, preferences: Sequence[Preference]) -> dict[str, float]:
        """One round of policy optimisation; returns its metrics."""
        return self._answer("step", list(preferences))

    def weights(self) -> tuple[Pending, str]:
        """The current weights on their way, and the checksum that they must have on arrival.

        Where they go from GPU to GPU, all samplers must load them before the learner is called again.
        """
        update = self._start("weights")[0]
        expected = self._answer("published_checksum")
        if self._is_grouped:
            self._sending = [rank.call("send") for rank in self._ranks]
        return update, expected

    def checksum(self) -> str:
        """The checksum of the current weights, which go nowhere."""
        found: str = self._answer("checksum")
        return found

    def log_ratios(self, rows: Rows) -> list[float] | None:
        """log π(y|x) − log π_ref(y|x) of each response, in nats; None when the loss keeps no reference."""
        if not self._has_reference:
            return None
        reference = self._answer("reference_logprobs", rows)
        return [policy - base for policy, base in zip(self.logprobs(rows), reference, strict=True)]

    def logprob_gap(self, rows: Rows, sampled: Sequence[Sequence[float]]) -> float:
        """See ``PreferenceLearner.logprob_gap``."""
        gap: float = self._answer("logprob_gap", rows, sampled)
        return gap

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

    def revive(self) -> None:
        """Start all ranks anew if one of them has died: the others cannot go on without it.

        Where weights go from GPU to GPU, nor can they without any of the samplers, which are all replaced too.
        """
        if self._is_grouped or any(rank.is_dead() for rank in self._ranks):
            for rank in self._ranks:
                rank.end()
            self._ranks, self._sending = self._spawn(), []
            if self._config.sampler.weight_transfer == "ipc":
                self._answer("published_checksum")  # ready, before a sampler starts on the same GPU

    def _spawn(self) -> list[Remote]:
        config = self._config
        ranks = [
            self._runtime.spawn(f"learner-{rank}", LearnerRank, config, self._total_steps, rank)
            for rank in range(config.learner.ranks)
        ]
        # One rank needs no meeting.
        meeting = ranks[0].call("rendezvous") if len(ranks) > 1 else None
        self._joining = [rank.call("join", meeting) for rank in ranks]
        return ranks

    def _start(self, method: str, *args: Any) -> list[Pending]:
        before, self._joining, self._sending = [*self._joining, *self._sending], [], []
        self._runtime.results(before)
        return [rank.call(method, *args) for rank in self._ranks]

    def _answer(self, method: str, *args: Any) -> Any:
        # All are waited for, so that every rank's errors are told and its CPU time is counted.
        try:
            return self._runtime.results(self._start(method, *args))[0]
        except ActorDied:
            raise
        except RunFailure as failure:  # of a rank that misses another one
            if any(rank.is_dead() for rank in self._ranks):
                raise ActorDied(f"a rank of the learner died. {failure}") from failure
            raise


class LearnerRank(PreferenceLearner):
    """One hosted rank, which can tell where it is and what it published without sending it again.

    It is a learner once it has joined the others.
    """

    def __init__(self, config: RunConfig, total_steps: int, rank: int) -> None:
        self._join = partial(
            super().__init__,
            config.policy,
            config.learner,
            total_steps=total_steps,
            device=config.device,
            threads=config.threads,
            seed=config.seed,
            rank=rank,
            deadline_seconds=config.deadline_seconds,
        )
        self._run, self._rank = config, rank
        self._published: str | None = None

    def step(self, preferences: Sequence[Preference]) -> dict[str, float]:
        """See ``PreferenceLearner.step``."""
        if self._transfer is not None:
            self._transfer.release()
        return super().step(preferences)

    def rendezvous(self) -> str:
        """Where the ranks can meet: this rank's node, as other nodes see it, and a port that is free there."""
        address = _own_address(self._run)
        _interface(address)  # tells what to do where it has none
        with socket.socket() as free:
            free.bind((address, 0))
            return f"tcp://{address}:{free.getsockname()[1]}"

    def join(self, rendezvous: str | None) -> None:
        """Load the policy and meet the other ranks; see ``PreferenceLearner``."""
        if rendezvous is not None:
            # Gloo would take the address of the host's name, which is often a loopback address.
            os.environ["GLOO_SOCKET_IFNAME"] = _interface(_own_address(self._run))
        self._join(rendezvous=rendezvous)
        self._transfer = make_transfer(self._run, self._rank, _own_address(self._run), self._parameters)

    def weights(self) -> WeightUpdate | None:
        """All weights of this version, or the offer of them; None on ranks other than 0."""
        update = super().weights()
        self._published = None if update is None else update.checksum
        return update if self._transfer is None else self._transfer.offer(update)

    def send(self) -> None:
        """Take part until every sampler has the weights that were offered."""
        assert self._transfer is not None  # nothing else offers
        self._transfer.send()

    def checksum(self) -> str | None:
        """The checksum of the current weights; None on ranks other than 0."""
        update = super().weights()
        return None if update is None else update.checksum

    def published_checksum(self) -> str | None:
        """The checksum of the weights last published."""
        return self._published


def _own_address(config: RunConfig) -> str:
    """Where other processes of the run reach this one: on the loopback, unless they may be on other machines."""
    if config.ray_address is None:
        return "127.0.0.1"
    import ray

    return str(ray.util.get_node_ip_address())


def _interface(address: str) -> str:
    """The network interface that has ``address``."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == address for one in addresses):
            return str(name)
    raise RunFailure(
        f"no network interface of this machine has the address {address} under which Ray knows it, so the learner's "
        "ranks cannot meet there; start the node with `ray start --node-ip-address=ADDRESS` of an interface it has"
    )
