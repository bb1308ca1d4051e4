"""The preference learner: one optimisation round on labelled pairs, and the weights that come out of it.

Dimensions: P preference pairs of a micro-batch; N its sequences, in the order that ``learner.objective`` gives them.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from learner.deepspeed_engine import DeepSpeedEngine
from learner.engine import Engine, TrainingState
from learner.lora import add_adapters, base_name, merged_parameters
from learner.losses import PreferenceLoss
from learner.objective import MicroBatch, evaluate, micro_batch, shard
from learner.save_policy import save_pretrained
from learner.schedule import learning_rate_multiplier
from learner.sequences import collate, rows_of, token_logprobs
from learner.torch_engine import TorchEngine
from sea_agent.config import LearnerConfig, PolicyConfig
from sea_agent.errors import RunFailure
from sea_agent.pretrained import end_token_ids, load_policy, load_tokenizer, missing_prefix, use_threads
from sea_agent.saved_state import require
from sea_agent.types import REFERENCE_VERSION, Preference, Response, TokenRow
from sea_agent.weights import WeightUpdate, checksum, saved_buffers

Tensor = torch.Tensor


class PreferenceLearner:
    """Trains the policy on preferences against a frozen reference, one call of ``step`` for each round.

    With several ranks there is one learner in each of ``config.ranks`` processes, and every method is called on all of
    them at the same time and with the same arguments.

    Args:
        policy: the model to start from; it is also the reference.
        config: settings; ``config.engine`` picks the engine.
        total_steps: optimiser steps of the whole run, for the cosine schedule.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads of this process.
        seed: seed of the adapters' first weights.
        rank: which of ``config.ranks`` this is.
        rendezvous: ``tcp://HOST:PORT`` where the ranks meet; needed with several.
        deadline_seconds: longest wait for another rank.

    Raises:
        UserError: when the policy cannot be loaded or the settings do not fit it.
        RunFailure: when the other ranks do not answer before the deadline.
    """

    def __init__(
        self,
        policy: PolicyConfig,
        config: LearnerConfig,
        *,
        total_steps: int,
        device: str = "cpu",
        threads: int = 1,
        seed: int = 0,
        rank: int = 0,
        rendezvous: str | None = None,
        deadline_seconds: float = 900.0,
    ) -> None:
        use_threads(threads)
        self.version = 0
        self._config, self._loss = config, PreferenceLoss(config)
        self._total_steps = total_steps
        self._device = device
        self._optimizer_steps = 0
        self._tokenizer = load_tokenizer(policy.path)
        self._max_logprob_gap = config.largest_gap(policy.dtype)
        # DeepSpeed moves the model itself, in parts where it is sharded.
        model = load_policy(policy.path, policy.dtype, device if config.engine == "torch" else "cpu")
        self._reference: Any = None
        self._base = model
        # Read now: the directory may be gone when the policy is saved.
        self._checkpoint: dict[str, Any] = {
            "end_ids": end_token_ids(policy.path, self._tokenizer),
            "removed_prefix": missing_prefix(policy.path, model),
        }
        if config.lora is not None:
            model = add_adapters(model, config.lora, seed)
        elif self._loss.uses_reference:
            self._reference = copy.deepcopy(model).requires_grad_(False)
        self._model = model
        self._engine: Engine
        if config.engine == "torch":
            self._engine = TorchEngine(model, config)
        else:
            self._engine = DeepSpeedEngine(
                model, config, device=device, rank=rank, rendezvous=rendezvous, deadline_seconds=deadline_seconds
            )
        if self._reference is not None:
            self._reference = self._engine.share(self._reference)

    def step(
        self, preferences: Sequence[Preference], rate: float = 1.0, batches: int = 1, oldest: int | None = None
    ) -> dict[str, float]:
        """One round: ``steps_per_round`` optimiser steps on the weighted mean loss, then one version more.

        With several ``batches`` every n-th preference is in one of them, and each batch is stepped on by itself.
        ``oldest`` is the first version whose responses may be learnt from; without it, ``max_staleness`` before this.

        The loss is Σ wᵢlᵢ / Σ wᵢ over all preferences, so ranks and micro-batches change rounding only.
        lᵢ is the preference loss and, with ``optimism``, the exploration term of the explored response.
        ``rate`` multiplies the learning rate: Adam hardly notices a smaller loss. Preferences of weight 0 are left out;
        with none left, or no step to take, nothing is trained and only ``pairs`` is returned.

        Returns:
            ``pairs``; means over the round's optimiser steps of ``loss``, ``accuracy`` (share of pairs whose implicit
            reward agrees with the label, by weight), ``margin`` (of the implicit reward) and ``grad_norm`` (before
            clipping); ``learning_rate`` of the last one; and ``logprob_gap``, the mean absolute difference per token
            between the sampler's log-probabilities and this policy's before the round (nats), over responses of the
            present version, left out where there are none; and ``kl``, the mean of log π(y|x) − log π_ref(y|x) over the
            policy's own responses before the round (nats), left out without a reference: where all that the policy
            sampled is learnt from, an estimate of the KL divergence.

        Raises:
            RunFailure: when a response, unless it is the reference's, is older than ``oldest``, or when
                ``logprob_gap`` exceeds ``max_logprob_gap`` (the weights are then as they were), or when another rank
                does not answer.
            ValueError: for a negative weight.
        """
        self._check(preferences, self.version - self._config.max_staleness if oldest is None else oldest)
        rows = [preference for preference in preferences if preference.weight > 0]
        metrics = {"pairs": float(len(rows))}
        if rows and self._config.steps_per_round:
            with self._engine.answers():
                metrics |= self._train([rows[start::batches] for start in range(min(batches, len(rows)))], rate)
        self.version += 1
        return metrics

    def reference_logprobs(self, rows: Sequence[TokenRow]) -> list[float]:
        """Summed log-probability (nats) of each response under the frozen reference."""
        with self._as_reference() as model:
            return [sum(tokens) for tokens in self._score(model, rows)]

    def policy_logprobs(self, rows: Sequence[TokenRow]) -> list[list[float]]:
        """Log-probability (nats) of each response token under the current policy."""
        return self._score(self._engine.module, rows)

    def logprob_gap(self, rows: Sequence[TokenRow], sampled: Sequence[Sequence[float]]) -> float:
        """Mean absolute difference per token (nats) to what a sampler of this version says of the response tokens.

        Raises:
            RunFailure: when it exceeds ``max_logprob_gap``.
        """
        pairs = zip(self.policy_logprobs(rows), sampled, strict=True)
        gaps = [abs(ours - theirs) for mine, other in pairs for ours, theirs in zip(mine, other, strict=True)]
        return self._accepted_gap(sum(gaps) / len(gaps))

    def weights(self) -> WeightUpdate | None:
        """All weights of this version under their Hugging Face names, adapters merged; None on ranks other than 0.

        They include the buffers that a saved model has, such as the routing bias of DeepSeek. Tied weights appear once.
        """
        tensors = self._collect()
        if tensors is None:
            return None
        return WeightUpdate(version=self.version, tensors=tensors, checksum=checksum(tensors))

    def save_policy(self, directory: str | Path) -> None:
        """Write the current policy, merged, with its tokenizer, in Hugging Face format."""
        tensors = self._collect()
        if tensors is not None:
            save_pretrained(directory, self._base, self._tokenizer, tensors, **self._checkpoint)

    def save_weights(self, file: str | Path) -> None:
        """Write what ``weights`` gives as safetensors."""
        tensors = self._collect()
        if tensors is not None:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)

    def state(self) -> dict[str, Any] | None:
        """All that a later learner needs to go on exactly from here: tensors and plain values only; None but on rank 0.

        It does not depend on the engine, the ZeRO stage or the number of ranks; every rank loads the same state.
        """
        training = self._engine.state()
        if training is None:
            return None
        return {"version": self.version, "optimizer_steps": self._optimizer_steps, "training": vars(training)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``.

        Raises:
            UnfitState: when it belongs to another policy or other adapters, or is no such state.
        """
        training = {field.name: object for field in fields(TrainingState)}
        require(state, {"version": int, "optimizer_steps": int, "training": training}, "learner")
        self._engine.load_state(TrainingState(**state["training"]))
        self.version = state["version"]
        self._optimizer_steps = state["optimizer_steps"]

    # One round

    def _check(self, preferences: Sequence[Preference], oldest: int) -> None:
        for preference in preferences:
            if preference.weight < 0:
                raise ValueError(f"preference {preference.id} has the negative weight {preference.weight}")
            for response in (preference.chosen, preference.rejected, preference.explored):
                if response is not None and REFERENCE_VERSION != response.policy_version < oldest:
                    self._refuse_stale(response)

    def _refuse_stale(self, response: Response) -> None:
        limit = self._config.max_staleness
        raise RunFailure(
            f"response {response.id} was sampled by policy version {response.policy_version}; the learner is at "
            f"version {self.version} and learner.max_staleness={limit} allows no more than {limit} versions between "
            "them, those of imagined rounds not counted. Publish the weights before sampling, or raise "
            "learner.max_staleness."
        )

    def _train(self, batches: list[list[Preference]], rate: float) -> dict[str, float]:
        steps = len(batches) * self._config.steps_per_round
        means = torch.zeros(3, dtype=torch.float64)
        mean_norm = 0.0
        metrics: dict[str, float] = {}
        for number, sums in enumerate(self._gradients(batches)):
            gap, compared_tokens, ratio, own_responses = sums[3:].tolist()
            if number == 0 and compared_tokens:
                metrics["logprob_gap"] = self._accepted_gap(gap / compared_tokens)
            if number == 0 and own_responses:
                metrics["kl"] = ratio / own_responses
            metrics["learning_rate"] = rate * self._learning_rate()
            mean_norm += self._engine.step(metrics["learning_rate"]) / steps
            means += sums[:3] / steps
            self._optimizer_steps += 1
        loss, accuracy, margin = means.tolist()
        return metrics | {"loss": loss, "accuracy": accuracy, "margin": margin, "grad_norm": mean_norm}

    def _gradients(self, batches: list[list[Preference]]) -> Iterator[Tensor]:
        """Accumulates the gradient of one optimiser step after the other, and gives what was summed on the way."""
        for rows in batches:
            total_weight = sum(row.weight for row in rows)
            micros = self._micro_batches(rows)
            for _ in range(self._config.steps_per_round):
                yield self._engine.sum_over_ranks(self._accumulate(micros, total_weight))

    def _micro_batches(self, rows: list[Preference]) -> list[MicroBatch]:
        parts = shard(rows, self._engine.rank, self._engine.ranks, self._config.micro_batch)
        make = partial(micro_batch, explores=self._config.optimism != "none")
        micros = [make(part, self.version, self._device) for part in parts]
        if not self._loss.uses_reference:
            return micros
        with torch.no_grad(), self._as_reference() as reference:
            return [replace(micro, reference_N=token_logprobs(reference, micro.batch).sum(1)) for micro in micros]

    def _accumulate(self, micros: list[MicroBatch], total_weight: float) -> Tensor:
        sums = torch.zeros(7, dtype=torch.float64)
        for micro in micros:
            loss, addends = evaluate(self._engine.module, micro, self._config, self._loss, total_weight)
            self._engine.backward(loss)
            sums += addends
        return sums

    def _learning_rate(self) -> float:
        config = self._config
        return config.learning_rate * learning_rate_multiplier(
            self._optimizer_steps,
            warmup_steps=config.warmup_steps,
            total_steps=self._total_steps,
            schedule=config.schedule,
        )

    def _accepted_gap(self, gap: float) -> float:
        limit = self._max_logprob_gap
        # Written so that a gap that is not a number is refused too.
        if not gap <= limit:
            self._engine.discard()
            raise RunFailure(
                f"sampler and learner disagree by {gap:.4g} nats per token at version {self.version}, above "
                f"learner.max_logprob_gap={limit:g}. Either they hold different weights, or they compute the model "
                "differently: an architecture that this sampler.backend does not compute as transformers does (try "
                "sampler.backend=hf), adapters that do not merge exactly (learner.lora.targets), or products rounded "
                "to fewer bits, as policy.dtype=bfloat16 and TF32 do. Raise learner.max_logprob_gap only for rounding."
            )
        return gap

    # Models and weights

    @contextmanager
    def _as_reference(self) -> Iterator[Any]:
        if self._config.lora is not None:
            with self._model.disable_adapter():
                yield self._engine.module
        elif self._reference is not None:
            yield self._reference
        else:
            raise ValueError(f"learner.loss={self._config.loss} keeps no reference model")

    @torch.no_grad()
    def _score(self, model: Any, rows: Sequence[TokenRow]) -> list[list[float]]:
        size = 2 * self._config.micro_batch
        scores = []
        for start in range(0, len(rows), size):
            batch = collate(rows[start : start + size], self._device)
            scores += rows_of(token_logprobs(model, batch), batch)
        return scores

    def _collect(self) -> dict[str, Tensor] | None:
        tensors = {}
        for name, value in self._parameters():
            if self._engine.rank == 0:
                tensors[name] = value.to("cpu", copy=True)
        return tensors if self._engine.rank == 0 else None

    def _parameters(self) -> Iterator[tuple[str, Tensor]]:
        if self._config.lora is not None:
            yield from merged_parameters(self._model, self._engine.gathered)
        else:
            for name, parameter in self._model.named_parameters():
                with self._engine.gathered([parameter]):
                    yield name, parameter.detach()
        for name, buffer in saved_buffers(self._base):
            yield base_name(name), buffer
