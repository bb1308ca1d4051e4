"""What every sampler promises, and what the back ends share.

Two back ends, one contract: prompts go in as token ids and are never tokenised again; each response is an exact
draw from softmax(logits / temperature) with no truncation or penalty, keyed by its own request's seed, or at
temperature 0 the likeliest token at each step; it ends at an end token, which is kept, or at its own
``max_new_tokens``; the reported log-probabilities are the model's own, before temperature.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sea_agent.errors import RunFailure, UserError
from sea_agent.types import Prompt, Response
from sea_agent.weights import WeightUpdate


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One response to sample; ``seed`` alone decides its random numbers. Temperature 0 decodes greedily."""

    id: str
    prompt: Prompt
    seed: int
    temperature: float
    max_new_tokens: int


class Sampler(Protocol):
    """A policy that can be sampled, scored and replaced."""

    version: int
    """Weight version now loaded; 0 is the policy as it was read from disk."""

    def sample(self, requests: Sequence[SampleRequest]) -> list[Response]:
        """One response for each request, matched by id; the order is free.

        Raises:
            UserError: a prompt does not fit the policy's context together with its response.
            RunFailure: the policy's log-probabilities are not finite.
        """
        ...

    def load_weights(self, update: WeightUpdate) -> str:
        """Replace the weights and take ``update.version``.

        Returns:
            ``sea_agent.weights.checksum`` of the weights now held, under the names of ``update``.

        Raises:
            RunFailure: a name is missing or unknown, or a shape or dtype differs.
        """
        ...

    def logprobs(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Natural-log probability of each response token of (prompt ids, response ids) rows, without temperature."""
        ...


def end_token_ids(tokenizer: Any, generation_config: Any, path: str) -> tuple[int, ...]:
    """Tokens that end a response: the tokenizer's, and those that the model's generation settings name.

    Raises:
        UserError: neither names one.
    """
    named = generation_config.eos_token_id
    candidates = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
    found = tuple(sorted({token for token in candidates if token is not None}))
    if not found:
        raise UserError(
            f"policy.path={path}: neither the tokenizer nor generation_config.json names an end-of-sequence token, so "
            "responses would never end. Set one with tokenizer.eos_token and save the tokenizer again."
        )
    return found


def check_requests(requests: Sequence[SampleRequest], context: int) -> None:
    """Refuse requests that would be answered wrongly rather than not at all.

    Raises:
        UserError: naming the first prompt that is empty or too long for a context of ``context`` tokens.
        ValueError: ids are not unique, or a temperature is negative.
    """
    if len({request.id for request in requests}) != len(requests):
        raise ValueError("request ids must be unique: responses are matched by id")
    for request in requests:
        if not request.temperature >= 0.0:
            raise ValueError(f"request {request.id}: temperature must not be negative, got {request.temperature}")
        length = len(request.prompt.token_ids)
        if not 0 < length <= context - request.max_new_tokens:
            raise UserError(
                f"prompt {request.prompt.id}: {length} tokens with sampler.max_new_tokens={request.max_new_tokens} "
                f"do not fit the policy's context of {context} tokens. Give a prompt of at least one token that "
                "leaves room for the response, or lower sampler.max_new_tokens."
            )


def check_update(update: WeightUpdate, model: torch.nn.Module) -> None:
    """Refuse an update that does not cover ``model``, a transformers model, exactly.

    Tied parameters have several names in a state dict; any of them will do, and so will all.

    Raises:
        RunFailure: naming the tensors that are missing, unknown, or of another shape or dtype.
    """
    known = model.state_dict(keep_vars=True)
    names_of: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names_of.setdefault(id(parameter), set()).add(name)
    problems = [f"{min(names)} is missing" for names in names_of.values() if not names & update.tensors.keys()]
    for name, tensor in update.tensors.items():
        if name not in known:
            problems.append(f"{name} is not a weight of this policy")
        elif tensor.shape != known[name].shape or tensor.dtype != known[name].dtype:
            problems.append(f"{name} is {_describe(tensor)}, the policy has {_describe(known[name])}")
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        raise RunFailure(
            f"sampler: weight version {update.version} does not fit the policy ({len(problems)} problems): {shown}. "
            "Learner and sampler must be built from the same policy.path and policy.dtype."
        )


def check_finite(logprobs: Mapping[str, Sequence[float]], version: int) -> None:
    """Refuse log-probabilities, by request id, of a policy that has diverged.

    Raises:
        RunFailure: naming the first request with a value that is not a finite number.
    """
    for request_id, values in logprobs.items():
        if not all(-float("inf") < value < float("inf") for value in values):
            raise RunFailure(
                f"sampler: policy version {version} gave a log-probability that is not finite for request "
                f"{request_id}; the policy has diverged. Lower learner.learning_rate or raise learner.beta."
            )


def _describe(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
