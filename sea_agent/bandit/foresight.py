"""What a posterior would have said of each label without having seen it, and how far it can be trusted for that.

Dimension legend: N labelled duels.
"""

import math

from torch import Tensor, where, zeros_like


def left_out(logits_N: Tensor, variances_N: Tensor, wins_N: Tensor, weights_N: Tensor) -> Tensor:
    """probability_N that the first response wins, each under the Laplace posterior without that label.

    The label's own site is divided out of its marginal (Vehtari et al. 2016, "Bayesian leave-one-out cross-validation
    approximations for Gaussian latent variable models", section 3.2), and the rest is averaged through the sigmoid by
    MacKay's approximation. The scales of the prior still are those of all labels.

    Args:
        logits_N: of each duel at the mode.
        variances_N: of each logit under the posterior.
        wins_N, weights_N: the labels, and how often each counts.
    """
    chance_N = logits_N.sigmoid()
    precision_N = 1 / variances_N.clamp_min(1e-12) - weights_N * chance_N * (1 - chance_N)
    variance_N = 1 / precision_N.clamp_min(1e-12)
    mean_N = logits_N - variance_N * weights_N * (wins_N - chance_N)
    return (mean_N / (1 + math.pi / 8 * variance_N).sqrt()).sigmoid()


def information(probability_X: Tensor) -> Tensor:
    """What a probability says of its outcome: ln 2 less its entropy, in nats; 0 for a coin and ln 2 for certainty."""
    rest_X = 1 - probability_X
    return math.log(2) + _x_log_x(probability_X) + _x_log_x(rest_X)


def trust(probability_N: Tensor, wins_N: Tensor, weights_N: Tensor) -> float:
    """How much of what the probabilities claim to know the labels have borne out, in [0, 1].

    The gain over a coin, Σ w (ln 2 + log p(label)), against the gain that the probabilities themselves expect and one
    nat more: without that a few lucky labels would do. 0 where the labels do not bear out more than a coin.
    """
    probability_N = probability_N.clamp(1e-9, 1 - 1e-9)
    said_N = wins_N * probability_N.log() + (1 - wins_N) * (1 - probability_N).log()
    gained = float((weights_N * (said_N + math.log(2))).sum())
    expected = float((weights_N * information(probability_N)).sum())
    return min(max(gained, 0.0) / (expected + 1.0), 1.0)


def _x_log_x(probability_X: Tensor) -> Tensor:
    return where(probability_X > 0, probability_X * probability_X.clamp_min(1e-300).log(), zeros_like(probability_X))
