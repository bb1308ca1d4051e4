"""``sea_agent.bandit`` as a library: light, with defaults that are the same each time."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import sea_agent.bandit as bandit
from sea_agent.bandit import Ensemble, Laplace, Posterior, pad_candidates, select_pairs
from sea_agent.errors import UserError

D = 3
FAMILIES = pytest.mark.parametrize("family", [Ensemble, Laplace])


def test_it_needs_neither_ray_nor_transformers_and_hands_on_all_it_names() -> None:
    code = "import sys, sea_agent.bandit as b; [getattr(b, n) for n in b.__all__]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    modules = set(loaded.stdout.split())
    assert not modules & {"ray", "transformers", "vllm", "deepspeed", "datasets", "peft", "fastapi", "sqlalchemy"}
    assert modules & {"torch"}


def learned(family: type[Posterior], **ids: list[str]) -> Tensor:
    posterior = family(dimension=D)  # type: ignore[call-arg]
    rows_N_D = torch.randn(12, D, generator=torch.Generator().manual_seed(0))
    posterior.add(rows_N_D[:6], rows_N_D[6:], torch.ones(6), **ids)
    posterior.add(rows_N_D[6:], rows_N_D[:6], torch.ones(6, dtype=torch.bool))
    posterior.update()
    assert (posterior.labels, posterior.version) == (12, 1)
    return posterior.draw(rows_N_D[None])


@FAMILIES
def test_without_ids_and_generator_the_same_calls_give_the_same_draws(family: type[Posterior]) -> None:
    first, again = learned(family), learned(family)
    assert first.shape == (20, 1, 12)
    assert torch.equal(first, again)
    assert torch.equal(first, learned(family, ids=list("abcdef")))


@FAMILIES
def test_draws_without_a_generator_change_with_every_update(family: type[Posterior]) -> None:
    posterior = family(dimension=D)  # type: ignore[call-arg]
    rows_1_4_D = torch.randn(1, 4, D, generator=torch.Generator().manual_seed(0))
    before = posterior.draw(rows_1_4_D)
    assert torch.equal(posterior.draw(rows_1_4_D), before)
    posterior.update()  # without labels: only the draw is another
    assert not torch.equal(posterior.draw(rows_1_4_D), before)


def test_blocks_that_are_not_all_features_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2, 4\] features are 6 together and not 5"):
        Laplace(5, blocks=(2, 4))


def test_candidates_are_padded_with_zeros_that_are_not_valid() -> None:
    rows = [torch.full((count, D), float(count)) for count in (2, 4, 3)]
    features_P_M_D, valid_P_M = pad_candidates(rows)
    assert features_P_M_D.shape == (3, 4, D)
    assert valid_P_M.tolist() == [[True, True, False, False], [True] * 4, [True, True, True, False]]
    assert torch.equal(features_P_M_D[valid_P_M], torch.cat(rows))
    assert not features_P_M_D[~valid_P_M].any()


def test_a_function_takes_the_place_of_a_name() -> None:
    def lowest(rewards_S_P_M: Tensor, valid_P_M: Tensor, generator: np.random.Generator) -> Tensor:
        return rewards_S_P_M.mean(0).masked_fill(~valid_P_M, torch.inf).topk(2, largest=False).indices

    draws_S_P_M, valid_P_M = torch.tensor([[[4.0, 1.0, 3.0, 0.0]]]), torch.tensor([[True, True, True, False]])
    assert select_pairs(lowest, draws_S_P_M, valid_P_M, np.random.default_rng(0)).tolist() == [[1, 2]]


def test_a_function_that_takes_what_is_no_candidate_is_refused_by_name() -> None:
    def blind(rewards_S_P_M: Tensor, valid_P_M: Tensor, generator: np.random.Generator) -> Tensor:
        return rewards_S_P_M.mean(0).topk(2).indices

    draws_S_P_M, valid_P_M = torch.tensor([[[4.0, 1.0, 3.0, 9.0]]]), torch.tensor([[True, True, True, False]])
    with pytest.raises(UserError, match=r"^blind: paired \[3, 0\] where prompt 0 has the candidates \[0, 1, 2\]"):
        select_pairs(blind, draws_S_P_M, valid_P_M, np.random.default_rng(0))


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'sea_eee': give .*sea_ee.*or a function"):
        select_pairs("sea_eee", None, torch.ones(1, 2, dtype=torch.bool), np.random.default_rng(0))


def test_the_round_of_the_first_page_runs() -> None:
    """The five lines of the package's docstring."""
    lines = [line[4:] for line in (bandit.__doc__ or "").splitlines() if line.startswith("    ")]
    rows_2_4_D = torch.randn(2, 4, D, generator=torch.Generator().manual_seed(1))
    names = {"D": D, "features_P_M_D": rows_2_4_D, "valid_P_M": torch.ones(2, 4, dtype=torch.bool)}
    names |= {"generator": np.random.default_rng(0), "first_P_D": rows_2_4_D[:, 0], "second_P_D": rows_2_4_D[:, 1]}
    exec("\n".join(lines), vars(bandit) | names | {"first_wins_P": torch.ones(2)})
    assert len(lines) == 5
