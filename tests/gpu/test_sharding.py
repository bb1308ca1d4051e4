"""ZeRO on GPUs: what is gathered from its parts is the whole policy."""

from collections.abc import Callable
from pathlib import Path

import pytest
from gpu_processes import configured, in_a_process, trained_weights
from safetensors.torch import load_file

pytestmark = pytest.mark.gpu

Policies = Callable[[str], Path]


def check(policy: Path, folder: Path, stage: int, ranks: int) -> None:
    """The gathered weights are those on disk at first, are saved as they are, and learn what plain torch learns."""
    shared = {"policy__dtype": "float32", "sampler__backend": "hf"}
    settings = {"learner__engine": "deepspeed", "learner__zero_stage": stage, "learner__ranks": ranks}
    sharded = in_a_process(trained_weights, configured(str(policy), **shared, **settings), str(folder / "sharded"))
    plain = in_a_process(trained_weights, configured(str(policy), **shared), str(folder / "plain"))
    assert sharded["first"] == plain["first"] == sharded["on disk"]
    assert sharded["last"] == sharded["saved"] != sharded["first"]
    found, expected = (load_file(folder / name / "model.safetensors") for name in ("sharded", "plain"))
    start = load_file(policy / "model.safetensors")
    moved = sum(float((value - start[name]).abs().sum()) for name, value in expected.items())
    differs = sum(float((found[name] - value).abs().sum()) for name, value in expected.items())
    # In all, because AdamW turns the rounding of a vanishing gradient into a part of a whole step.
    assert moved > 0
    assert differs < 0.01 * moved


@pytest.mark.parametrize("stage", [2, 3])
def test_one_gpu_learns_with_zero_what_it_learns_without(policy_dir: Policies, tmp_path: Path, stage: int) -> None:
    check(policy_dir("llama"), tmp_path, stage, 1)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("stage", [2, 3])
def test_two_gpus_learn_with_zero_what_one_learns_without(policy_dir: Policies, tmp_path: Path, stage: int) -> None:
    check(policy_dir("llama"), tmp_path, stage, 2)
