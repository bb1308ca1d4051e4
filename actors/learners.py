"""The ranks of the learner behind one object."""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import psutil

from actors.runtime import Pending, Remote, Runtime
from learner.learner import PreferenceLearner
from learner.losses import PreferenceLoss
from learner.weight_transfer import free_port, make_transfer
from sea_agent.config import Compute, LearnerConfig, PolicyConfig, SamplerConfig
from sea_agent.errors import ActorDied, RunFailure
from sea_agent.types import Preference, TokenRow
from sea_agent.weights import WeightUpdate


class LearnerGroup:
    """All ranks of the learner. Every rank receives every call; rank 0 answers.

    ``total_steps``: optimiser steps of the whole run. ``samplers`` configures how new weights reach the samplers.
    """

    def __init__(
        self,
        runtime: Runtime,
        policy: PolicyConfig,
        config: LearnerConfig,
        compute: Compute,
        *,
        total_steps: int,
        samplers: SamplerConfig,
    ) -> None:
        self._runtime, self._config, self._transfer = runtime, config, samplers.weight_transfer
        self._make_rank = partial(LearnerRank, policy, config, compute, total_steps, samplers)
        self._joining: list[Pending] = []
        self._sending: list[Pending] = []
        self._ranks = self._spawn()
        self._is_grouped = self._transfer != "object_store"
        self._has_reference = config.lora is not None or PreferenceLoss(config).uses_reference

    def step(
        self, preferences: Sequence[Preference], rate: float = 1.0, batches: int = 1, oldest: int | None = None
    ) -> dict[str, float]:
        """See ``PreferenceLearner.step``."""
        return self._answer("step", list(preferences), rate, batches, oldest)

    def weights(self) -> tuple[Pending, str]:
        """The current weights, pending, and the checksum that they must have on arrival.

        With GPU-to-GPU transfer all samplers must load them before the next call of the learner.
        """
        update = self._start("weights")[0]
        expected = self._answer("published_checksum")
        if self._is_grouped:
            self._sending = [rank.call("send") for rank in self._ranks]
        return update, expected

    def checksum(self) -> str:
        """The checksum of the current weights, without publishing them."""
        return str(self._answer("checksum"))

    def log_ratios(self, rows: Sequence[TokenRow]) -> list[float] | None:
        """log π(y|x) − log π_ref(y|x) of each response, in nats; None when the loss keeps no reference."""
        if not self._has_reference:
            return None
        reference = self._answer("reference_logprobs", rows)
        return [policy - base for policy, base in zip(self.logprobs(rows), reference, strict=True)]

    def logprob_gap(self, rows: Sequence[TokenRow], sampled: Sequence[Sequence[float]]) -> float:
        """See ``PreferenceLearner.logprob_gap``."""
        return float(self._answer("logprob_gap", rows, sampled))

    def logprobs(self, rows: Sequence[TokenRow]) -> list[float]:
        """log π(y|x) of each response under the current policy, in nats."""
        return [sum(tokens) for tokens in self._answer("policy_logprobs", rows)]

    def token_logprobs(self, rows: Sequence[TokenRow]) -> list[list[float]]:
        """Log-probability of each response token under the current policy, in nats."""
        return list(self._answer("policy_logprobs", rows))

    def save_weights(self, file: str) -> None:
        """See ``PreferenceLearner.save_weights``."""
        self._answer("save_weights", file)

    def state(self) -> dict[str, Any]:
        """See ``PreferenceLearner.state``."""
        return dict(self._answer("state"))

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self._answer("load_state", state)

    def save_policy(self, directory: str) -> None:
        """Write the policy in Hugging Face format."""
        self._answer("save_policy", directory)

    def revive(self) -> None:
        """Restart all ranks if one of them has died: the others cannot continue without it.

        With GPU-to-GPU transfer they are always restarted, as all samplers are.
        """
        if self._is_grouped or any(rank.is_dead() for rank in self._ranks):
            for rank in self._ranks:
                rank.end()
            self._ranks, self._sending = self._spawn(), []
            if self._transfer == "ipc":
                self._answer("published_checksum")  # ready, before a sampler starts on the same GPU

    def _spawn(self) -> list[Remote]:
        ranks = [self._runtime.spawn(f"learner-{rank}", self._make_rank, rank) for rank in range(self._config.ranks)]
        meeting = ranks[0].call("rendezvous") if len(ranks) > 1 else None
        self._joining = [rank.call("join", meeting) for rank in ranks]
        return ranks

    def _start(self, method: str, *args: Any) -> list[Pending]:
        before, self._joining, self._sending = [*self._joining, *self._sending], [], []
        self._runtime.results(before)
        return [rank.call(method, *args) for rank in self._ranks]

    def _answer(self, method: str, *args: Any) -> Any:
        # Wait for all ranks, to report every error and count all CPU time.
        try:
            return self._runtime.results(self._start(method, *args))[0]
        except ActorDied:
            raise
        except RunFailure as failure:  # perhaps of a rank that waited for a dead one
            if any(rank.is_dead() for rank in self._ranks):
                raise ActorDied(f"a rank of the learner died. {failure}") from failure
            raise


class LearnerRank(PreferenceLearner):
    """One hosted rank. It becomes a learner by joining the others, and remembers what it published."""

    def __init__(
        self,
        policy: PolicyConfig,
        config: LearnerConfig,
        compute: Compute,
        total_steps: int,
        samplers: SamplerConfig,
        rank: int,
    ) -> None:
        self._join = partial(
            super().__init__,
            policy,
            config,
            total_steps=total_steps,
            device=compute.device,
            threads=compute.threads,
            seed=compute.seed,
            rank=rank,
            deadline_seconds=compute.deadline_seconds,
        )
        self._compute, self._samplers, self._rank = compute, samplers, rank
        self._published: str | None = None

    def step(
        self, preferences: Sequence[Preference], rate: float = 1.0, batches: int = 1, oldest: int | None = None
    ) -> dict[str, float]:
        """See ``PreferenceLearner.step``."""
        if self._transfer is not None:
            self._transfer.release()
        return super().step(preferences, rate, batches, oldest)

    def rendezvous(self) -> str:
        """A meeting point of the ranks: this node's address as other nodes see it, and a free port."""
        address = self._address()
        _interface(address)  # fails early, with a remedy
        return f"tcp://{address}:{free_port(address)}"

    def join(self, rendezvous: str | None) -> None:
        """Load the policy and meet the other ranks; see ``PreferenceLearner``."""
        if rendezvous is not None:
            # By default gloo uses the address of the host name, which is often a loopback address.
            os.environ["GLOO_SOCKET_IFNAME"] = _interface(self._address())
        self._join(rendezvous=rendezvous)
        self._transfer = make_transfer(self._samplers, self._rank, self._address(), self._parameters)

    def weights(self) -> WeightUpdate | None:
        """All weights of this version, or an offer of them; None on ranks other than 0."""
        update = super().weights()
        self._published = None if update is None else update.checksum
        return update if self._transfer is None else self._transfer.offer(update)

    def send(self) -> None:
        """Take part until every sampler has the weights that were offered."""
        assert self._transfer is not None  # called only after an offer
        self._transfer.send()

    def checksum(self) -> str | None:
        """The checksum of the current weights; None on ranks other than 0."""
        update = super().weights()
        return None if update is None else update.checksum

    def published_checksum(self) -> str | None:
        """The checksum of the weights last published."""
        return self._published

    def _address(self) -> str:
        """The address at which other processes of the run reach this one; loopback if all are on this machine."""
        if self._compute.ray_address is None:
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
