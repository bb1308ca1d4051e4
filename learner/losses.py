"""Preference losses: summed response log-probabilities in, one loss value per pair out.

Weights and reduction come after, elsewhere. Only torch is needed here.

Dimensions: P preference pairs. All log-probabilities are natural logarithms.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import logsigmoid

if TYPE_CHECKING:
    from sea_agent.config import LearnerConfig

Tensor = torch.Tensor


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


def _dpo(pairs: Pairs, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """−(1−ε) log σ(βh) − ε log σ(−βh): arXiv 2305.18290, eq. 7, with the share ε of flipped labels."""
    logits = beta * pairs.gap()
    return -(1.0 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def _ipo(pairs: Pairs, *, beta: float, length_average: bool = False) -> Tensor:
    """(h − 1/(2β))²: arXiv 2310.12036, eq. 17, where β is called τ."""
    return (pairs.gap(average=length_average) - 1.0 / (2.0 * beta)) ** 2


def _slic(pairs: Pairs, *, beta: float) -> Tensor:
    """max(0, 1 − βh): the hinge of SLiC (arXiv 2305.10425) on the log-ratios to the reference."""
    return torch.relu(1.0 - beta * pairs.gap())


def _simpo(pairs: Pairs, *, beta: float, margin: float = 0.0) -> Tensor:
    """−log σ(β(p̄⁺ − p̄⁻) − γ), p̄ the mean log-probability of a token: arXiv 2405.14734, eq. 6."""
    return -logsigmoid(beta * pairs.gap(reference=False, average=True) - margin)


def _rpo(pairs: Pairs, *, beta: float, nll_weight: float = 0.2, label_smoothing: float = 0.0) -> Tensor:
    """DPO + η · (−log π(y⁺) / |y⁺|): arXiv 2404.19733, eq. 1.

    The likelihood term is the mean over each chosen response's own tokens, so it is a value of the pair. TRL
    (``loss_type=["sigmoid", "sft"]``) averages over all chosen tokens of a batch, which lets long responses count
    for more; the two agree when the chosen responses are equally long.
    """
    nll = -pairs.policy_chosen / _given(pairs.chosen_lengths, "chosen_lengths")
    return _dpo(pairs, beta=beta, label_smoothing=label_smoothing) + nll_weight * nll


_LOSSES: dict[str, Callable[..., Tensor]] = {"dpo": _dpo, "ipo": _ipo, "slic": _slic, "simpo": _simpo, "rpo": _rpo}


def preference_loss(
    name: str,
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor | None,
    reference_rejected: Tensor | None,
    *,
    beta: float,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """The loss of each pair, shape (P,).

    With h = (log π⁺ − log π_ref⁺) − (log π⁻ − log π_ref⁻):

    ===== ============================================== ===============================
    name  loss                                           options
    ===== ============================================== ===============================
    dpo   −(1−ε) log σ(βh) − ε log σ(−βh)                label_smoothing ε
    ipo   (h − 1/(2β))²                                  length_average
    slic  max(0, 1 − βh)
    simpo −log σ(β(p̄⁺ − p̄⁻) − γ), no reference           margin γ
    rpo   dpo − η log π⁺ / length                        nll_weight η, label_smoothing ε
    ===== ============================================== ===============================

    Args:
        policy_chosen: summed response log-probabilities (P,), like the three that follow. The reference's may be
            None for ``simpo``.
        chosen_lengths: response lengths in tokens (P,); needed by ``simpo``, ``rpo`` and ``length_average``.

    Raises:
        ValueError: for an unknown loss or option, naming the valid ones, or when a needed tensor is missing.
    """
    pairs = Pairs(
        policy_chosen, policy_rejected, reference_chosen, reference_rejected, chosen_lengths, rejected_lengths
    )
    return pair_loss(name, pairs, beta=beta, **options)


def pair_loss(name: str, pairs: Pairs, *, beta: float, **options: Any) -> Tensor:
    """``preference_loss`` on pairs that are already together, shape (P,)."""
    if name not in _LOSSES:
        raise ValueError(f"unknown preference loss {name!r}; valid names: {', '.join(_LOSSES)}")
    valid = [option for option in inspect.signature(_LOSSES[name]).parameters if option not in ("pairs", "beta")]
    for option in options:
        if option not in valid:
            raise ValueError(f"loss {name} has no option {option!r}; valid options: {', '.join(valid) or 'none'}")
    return _LOSSES[name](pairs, beta=beta, **options)


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


def implicit_margin(name: str, pairs: Pairs, *, beta: float, length_average: bool = False) -> Tensor:
    """(P,) implicit reward of the chosen response minus that of the rejected one, as the loss ``name`` sees it.

    βh, per token for length-averaged losses and without a reference for SimPO. Positive when the policy agrees with
    the label.
    """
    if name == "simpo":
        return beta * pairs.gap(reference=False, average=True)
    return beta * pairs.gap(average=length_average)


def uses_reference(name: str) -> bool:
    """Whether the loss compares the policy with a frozen reference."""
    return name != "simpo"


def loss_options(config: "LearnerConfig") -> dict[str, Any]:
    """The options that ``preference_loss`` takes for ``config.loss``: the one place where settings meet formulas."""
    options: dict[str, dict[str, Any]] = {
        "dpo": {"label_smoothing": config.label_smoothing},
        "ipo": {"length_average": config.ipo_length_average},
        "slic": {},
        "simpo": {"margin": config.simpo_margin},
        "rpo": {"nll_weight": config.rpo_nll_weight, "label_smoothing": config.label_smoothing},
    }
    return options[config.loss]
