"""The contract of every sampler, and the code that the back ends share.

Both back ends keep one contract. Prompts arrive as token ids and are never tokenised again. Each response is an exact
draw from softmax(logits / temperature) without truncation or penalties, keyed by its request's seed; at temperature 0
it is the likeliest token at each step. It ends with an end token, which is kept, or at its ``max_new_tokens``. The
reported log-probabilities are the model's own, before temperature.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sea_agent.errors import RunFailure, UserError
from sea_agent.types import Prompt, Response, TokenRow
from sea_agent.weights import WeightUpdate


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """A request for one response; its random numbers depend on ``seed`` alone. Temperature 0 decodes greedily."""

    id: str
    prompt: Prompt
    seed: int
    temperature: float
    max_new_tokens: int


class Sampler(ABC):
    """A policy that can be sampled, scored and updated."""

    version = 0
    """Version of the loaded weights; 0 is the policy as read from disk."""
    _tokenizer: Any
    _context: int

    def sample(self, requests: Sequence[SampleRequest]) -> list[Response]:
        """One response for each request, ordered by id.

        Raises:
            UserError: a prompt and its response do not fit the policy's context.
            RunFailure: the policy's log-probabilities are not finite.
        """
        if not requests:
            return []
        _check_requests(requests, self._context)
        # Sorted, so that the same set of requests is computed identically in whatever order it arrives.
        ordered = sorted(requests, key=lambda request: request.id)
        responses = [
            Response(
                id=request.id,
                prompt_id=request.prompt.id,
                text=self._tokenizer.decode(tokens, skip_special_tokens=True),
                token_ids=tuple(tokens),
                logprobs=tuple(logprobs),
                policy_version=self.version,
            )
            for request, (tokens, logprobs) in zip(ordered, self._draw(ordered), strict=True)
        ]
        _check_finite(responses)
        return responses

    @abstractmethod
    def _draw(self, requests: Sequence[SampleRequest]) -> Iterable[tuple[Sequence[int], Iterable[float]]]:
        """The token ids and log-probabilities of the response to each request, in the order of the requests."""

    @abstractmethod
    def load_weights(self, update: WeightUpdate) -> str:
        """Replace the weights and take ``update.version``.

        Returns:
            ``sea_agent.weights.checksum`` of the weights now held, under the names of ``update``.

        Raises:
            RunFailure: a name is missing or unknown, or a shape or dtype differs.
        """

    @abstractmethod
    def logprobs(self, rows: Sequence[TokenRow]) -> list[list[float]]:
        """log π(token) of each response token, in nats, at temperature 1."""


def _check_requests(requests: Sequence[SampleRequest], context: int) -> None:
    """Reject requests that would otherwise be answered incorrectly, for a context of ``context`` tokens."""
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
    """Reject an update that does not cover ``model``, a transformers model, exactly.

    Tied parameters have several names in a state dict; an update needs at least one of them.

    Raises:
        RunFailure: naming the tensors that are missing, unknown, or of another shape or dtype.
    """
    known = model.state_dict(keep_vars=True)
    names_of: dict[int, set[str]] = {}
    for name, tensor in known.items():
        names_of.setdefault(id(tensor), set()).add(name)
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


def _check_finite(responses: Sequence[Response]) -> None:
    for response in responses:
        if not all(map(math.isfinite, response.logprobs)):
            raise RunFailure(
                f"sampler: policy version {response.policy_version} gave a log-probability that is not finite for "
                f"request {response.id}; the policy has diverged. Lower learner.learning_rate or raise learner.beta."
            )


def _describe(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
