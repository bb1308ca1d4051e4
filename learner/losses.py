"""Preference losses: summed response log-probabilities in, one loss value per pair out.

With h = (log π⁺ − log π_ref⁺) − (log π⁻ − log π_ref⁻) and p̄ the mean log-probability of a token:

===== ============================================== ===============================
name  loss                                           options
===== ============================================== ===============================
dpo   −(1−ε) log σ(βh) − ε log σ(−βh)                label_smoothing ε
ipo   (h − 1/(2β))²                                  length_average
slic  max(0, 1 − βh)
simpo −log σ(β(p̄⁺ − p̄⁻) − γ), no reference           margin γ
rpo   dpo − η log π⁺ / length                        nll_weight η, label_smoothing ε
===== ============================================== ===============================

Weights and reduction come after, elsewhere. Of the large libraries only torch is needed here.

Dimensions: P preference pairs. All log-probabilities are natural logarithms.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import logsigmoid

from sea_agent.config import LearnerConfig
from sea_agent.plugins import Plugin, accepted, is_own

Tensor = torch.Tensor
_CONTRACT = (
    "a loss is a function of learner.losses.Pairs, and of beta where it has that parameter, that returns one finite "
    "value for each pair, differentiable by the policy's log-probabilities"
)


@dataclass(frozen=True)
class Pairs:
    """Summed response log-probabilities of P pairs, each of shape (P,).

    The reference may be None for losses that use none, lengths (in tokens) for losses that average over none.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None
    chosen_lengths: Tensor | None = None
    rejected_lengths: Tensor | None = None

    def gap(self, *, reference: bool = True, average: bool = False) -> Tensor:
        """(P,) chosen minus rejected log-probability: relative to the reference, per token, or both."""
        chosen, rejected = self.policy_chosen, self.policy_rejected
        if reference:
            chosen = chosen - _given(self.reference_chosen, "reference_chosen")
            rejected = rejected - _given(self.reference_rejected, "reference_rejected")
        if average:
            chosen = chosen / _given(self.chosen_lengths, "chosen_lengths")
            rejected = rejected / _given(self.rejected_lengths, "rejected_lengths")
        return chosen - rejected

    def swap(self) -> "Pairs":
        """The same pairs with chosen and rejected exchanged."""
        return Pairs(
            self.policy_rejected,
            self.policy_chosen,
            self.reference_rejected,
            self.reference_chosen,
            self.rejected_lengths,
            self.chosen_lengths,
        )


def _given(tensor: Tensor | None, name: str) -> Tensor:
    if tensor is None:
        raise ValueError(f"this loss needs {name}")
    return tensor


def dpo(pairs: Pairs, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """−(1−ε) log σ(βh) − ε log σ(−βh): arXiv 2305.18290, eq. 7, with the share ε of flipped labels."""
    logits = beta * pairs.gap()
    return -(1.0 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def ipo(pairs: Pairs, *, beta: float, length_average: bool = False) -> Tensor:
    """(h − 1/(2β))²: arXiv 2310.12036, eq. 17, where β is called τ."""
    return (pairs.gap(average=length_average) - 1.0 / (2.0 * beta)) ** 2


def slic(pairs: Pairs, *, beta: float) -> Tensor:
    """max(0, 1 − βh): the hinge of SLiC (arXiv 2305.10425) on the log-ratios to the reference."""
    return torch.relu(1.0 - beta * pairs.gap())


def simpo(pairs: Pairs, *, beta: float, margin: float = 0.0) -> Tensor:
    """−log σ(β(p̄⁺ − p̄⁻) − γ), p̄ the mean log-probability of a token: arXiv 2405.14734, eq. 6."""
    return -logsigmoid(beta * pairs.gap(reference=False, average=True) - margin)


def rpo(pairs: Pairs, *, beta: float, nll_weight: float = 0.2, label_smoothing: float = 0.0) -> Tensor:
    """DPO + η · (−log π(y⁺) / |y⁺|): arXiv 2404.19733, eq. 1.

    The likelihood term is the mean over each chosen response's own tokens, so it is a value of the pair. TRL
    (``loss_type=["sigmoid", "sft"]``) averages over all chosen tokens of a batch, which lets long responses count
    for more; the two agree when the chosen responses are equally long.
    """
    nll = -pairs.policy_chosen / _given(pairs.chosen_lengths, "chosen_lengths")
    return dpo(pairs, beta=beta, label_smoothing=label_smoothing) + nll_weight * nll


LOSSES: dict[str, Callable[..., Tensor]] = {loss.__name__: loss for loss in (dpo, ipo, slic, simpo, rpo)}


class PreferenceLoss:
    """The loss that a configuration names, with its options: a built-in one, or a user's own from ``file.py:name``.

    A loss compares with the reference unless it is SimPO, or says ``uses_reference = False`` as an attribute.

    Raises:
        UserError: when the user's file, its function or what that returns for made-up pairs is not as it has to be.
    """

    def __init__(self, config: LearnerConfig) -> None:
        settings = {
            "beta": config.beta,
            "label_smoothing": config.label_smoothing,
            "length_average": config.ipo_length_average,
            "margin": config.simpo_margin,
            "nll_weight": config.rpo_nll_weight,
        }
        self._own = Plugin("learner.loss", config.loss, _CONTRACT) if is_own(config.loss) else None
        function = LOSSES[config.loss] if self._own is None else self._own.function
        self.uses_reference = bool(getattr(function, "uses_reference", function is not simpo))
        self.options = accepted(function, settings)
        self._function = self._own or function
        self._beta = config.beta
        self._averages = function is simpo or self.options.get("length_average", False)
        if self._own is not None and not self(_made_up(self.uses_reference)).requires_grad:
            raise self._own.refusal("returned values without a gradient")

    def __call__(self, pairs: Pairs) -> Tensor:
        """The loss of each pair, shape (P,).

        Raises:
            UserError: when a user's own loss returns anything else, or values that are not finite.
        """
        loss_P = self._function(pairs, **self.options)
        if self._own is not None and (problem := _problem(loss_P, len(pairs.policy_chosen))):
            raise self._own.refusal(problem)
        return loss_P

    def margin(self, pairs: Pairs) -> Tensor:
        """(P,) implicit reward of the chosen response minus that of the rejected one, as the loss sees it.

        βh, per token for length-averaged losses and without a reference for losses that use none. Positive when the
        policy agrees with the label.
        """
        return self._beta * pairs.gap(reference=self.uses_reference, average=self._averages)


def _problem(loss_P: object, pairs: int) -> str | None:
    """What is wrong with what a loss returned, if anything."""
    if not isinstance(loss_P, Tensor):
        return f"returned {type(loss_P).__name__}"
    if loss_P.shape != (pairs,) or not loss_P.is_floating_point():
        return f"returned {loss_P.dtype} of shape {tuple(loss_P.shape)} for {pairs} pairs"
    return None if loss_P.isfinite().all() else "returned values that are not finite"


def _made_up(reference: bool) -> Pairs:
    """Three pairs to try a loss on: the policy agrees with the label, disagrees, and is as the reference."""
    chosen, rejected = torch.tensor([[-3.0, -9.0, -5.0], [-8.0, -2.0, -6.0]], requires_grad=True)
    pairs = Pairs(chosen, rejected, chosen_lengths=torch.tensor([4, 2, 1]), rejected_lengths=torch.tensor([3, 3, 2]))
    base = {"reference_chosen": torch.full((3,), -5.0), "reference_rejected": torch.full((3,), -6.0)}
    return replace(pairs, **base) if reference else pairs


def optimism(name: str, policy_P: Tensor, reference_P: Tensor | None, *, beta: float, weight: float) -> Tensor:
    """(P,) what is added to each pair's loss for the explored response ỹ to its prompt, α being ``weight``.

    ==== ================================ ==============================================================
    name term                             ỹ
    ==== ================================ ==============================================================
    xpo  α log π(ỹ)                       a response of the reference (arXiv 2405.21046, algorithm 1)
    selm αβ (log π(ỹ) − log π_ref(ỹ))     the previous policy's greedy response (arXiv 2405.19332)
    ==== ================================ ==============================================================

    Minimising it takes probability away from ỹ and gives it to responses not tried yet. Among policies that explain
    the labels equally well it prefers the one whose implicit reward promises more.

    Args:
        policy_P: summed log-probabilities of ỹ under the policy, in nats; ``reference_P`` those under the reference,
            None for ``xpo``.

    Raises:
        ValueError: for an unknown name, or when a needed tensor is missing.
    """
    if name == "xpo":
        return weight * policy_P
    if name == "selm":
        return weight * beta * (policy_P - _given(reference_P, "reference_P"))
    raise ValueError(f"unknown optimism {name!r}; valid names: xpo, selm")
