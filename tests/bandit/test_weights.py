"""A label of weight w counts like w labels, in both families of posteriors and in the evidence."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sea_agent.bandit.ensemble import Ensemble
from sea_agent.bandit.evidence import log_evidence
from sea_agent.bandit.laplace import Laplace
from sea_agent.bandit.posterior import Posterior
from sea_agent.bandit.replay import Replay
from sea_agent.config import EnsembleConfig

BLOCKS = (4, 6)
WEIGHTS = torch.tensor([1.0, 3.0, 1.0, 2.0, 1.0, 1.0, 4.0, 1.0])
TIMES = WEIGHTS.int()


def laplace() -> Posterior:
    return Laplace(sum(BLOCKS), members=8, blocks=BLOCKS)


def ensemble() -> Posterior:
    # Minibatches of everything, so that both ways of counting take the same steps.
    return Ensemble(
        sum(BLOCKS), EnsembleConfig(hidden=8, minibatch=1000, minibatches=40, learning_rate=3e-3), members=4
    )


FAMILIES = pytest.mark.parametrize("make", [laplace, ensemble])


def labelled() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    first_N_D, second_N_D = torch.randn(2, len(WEIGHTS), sum(BLOCKS), generator=generator)
    return first_N_D, second_N_D, torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.5, 1.0, 0.0])


def believed(posterior: Posterior) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    posterior.update(np.random.default_rng(0))
    return posterior.draw(torch.randn(5, 3, sum(BLOCKS), generator=generator), np.random.default_rng(1))


@FAMILIES
def test_a_weight_counts_like_as_many_labels(make: Callable[[], Posterior]) -> None:
    first_N_D, second_N_D, wins_N = labelled()
    ids = [str(row) for row in range(len(wins_N))]
    weighted, repeated, plain = make(), make(), make()
    weighted.add(first_N_D, second_N_D, wins_N, ids, WEIGHTS)
    copies = [tensor.repeat_interleave(TIMES, 0) for tensor in (first_N_D, second_N_D, wins_N)]
    repeated.add(*copies, [str(row) for row in range(int(TIMES.sum()))])
    plain.add(first_N_D, second_N_D, wins_N, ids)
    expected = believed(repeated)
    assert torch.allclose(believed(weighted), expected, atol=2e-3)
    assert not torch.allclose(believed(plain), expected, atol=2e-2), "the control: weights change the posterior"


@FAMILIES
def test_weights_of_one_change_no_bit(make: Callable[[], Posterior]) -> None:
    given, silent = make(), make()
    ids = [str(row) for row in range(len(WEIGHTS))]
    given.add(*labelled(), ids, torch.ones(len(WEIGHTS)))
    silent.add(*labelled(), ids)
    assert torch.equal(believed(given), believed(silent))


@FAMILIES
def test_a_saved_posterior_goes_on_with_its_weights(make: Callable[[], Posterior]) -> None:
    first, second = make(), make()
    first.add(*labelled(), [str(row) for row in range(len(WEIGHTS))], WEIGHTS)
    second.load_state(first.state())
    assert torch.equal(believed(second), believed(first))


def test_evidence_of_weighted_labels_is_that_of_copies() -> None:
    first_N_D, second_N_D, wins_N = (tensor.double() for tensor in labelled())
    difference_N_D = first_N_D - second_N_D
    rows_N = torch.arange(len(wins_N)).repeat_interleave(TIMES)
    scales_B = torch.tensor([0.7, 1.6], dtype=torch.float64)

    def grams(rows_N_D: Tensor) -> Tensor:
        return torch.stack([part @ part.T for part in rows_N_D.split(BLOCKS, dim=1)])

    weighted = log_evidence(grams(difference_N_D), wins_N, scales_B, WEIGHTS.double())
    copied = log_evidence(grams(difference_N_D[rows_N]), wins_N[rows_N], scales_B)
    assert float(weighted) == pytest.approx(float(copied), abs=1e-6)
    assert abs(float(log_evidence(grams(difference_N_D), wins_N, scales_B)) - float(copied)) > 0.1


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_positive_number_is_refused(weight: float) -> None:
    replay = Replay(sum(BLOCKS))
    rows = torch.zeros(1, sum(BLOCKS))
    with pytest.raises(ValueError, match="weights"):
        replay.add(rows, rows, torch.ones(1), ["x"], torch.tensor([weight]))
    assert len(replay) == 0


def test_an_ensemble_learns_as_long_from_labels_at_once_as_from_as_many_rounds() -> None:
    """One update over the labels of three rounds takes the steps of three updates, and counts one version."""
    config = EnsembleConfig(hidden=8, minibatch=1000, minibatches=2)
    ids = [str(row) for row in range(len(WEIGHTS))]
    once, thrice = (Ensemble(sum(BLOCKS), config, members=4) for _ in range(2))
    for posterior in (once, thrice):
        posterior.add(*labelled(), ids)
    once.update(np.random.default_rng(0), rounds=3)
    generator = np.random.default_rng(0)
    for _ in range(3):
        thrice.update(generator)
    probe = torch.eye(sum(BLOCKS))[None]
    assert torch.equal(once.mean(probe), thrice.mean(probe))
    assert (once.version, thrice.version) == (1, 3)
