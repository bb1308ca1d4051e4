"""Weights arrive at vLLM's samplers bit by bit, by every way, and the back ends agree in bfloat16."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpu_processes import configured, gap_above, in_a_process, three_rounds

from sea_agent.config import LearnerConfig

pytestmark = pytest.mark.gpu

Policies = Callable[[str], Path]
ENGINES: dict[str, dict[str, Any]] = {
    "torch": {},
    "lora": {"learner__lora": {"rank": 4}},
    "zero2": {"learner__engine": "deepspeed", "learner__zero_stage": 2},
    "zero3": {"learner__engine": "deepspeed", "learner__zero_stage": 3},
}


def assert_published(found: dict[str, Any]) -> None:
    """Three versions arrived, each another than the one before, and the last is what is saved."""
    assert len(set(found["checksums"])) == 3
    assert found["versions"] == [{0}, {1}, {2}]
    assert found["saved"] == found["unpublished"] == found["checksums"][-1]
    # The control: a sampler that holds anything else is named.
    assert f"sampler-0 holds weights {found['checksums'][-1]}" in found["refusal"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_ipc_publishes_bit_by_bit_on_one_gpu(
    policy_dir: Policies, tmp_path: Path, architecture: str, engine: str
) -> None:
    config = configured(str(policy_dir(architecture)), sampler__weight_transfer="ipc", **ENGINES[engine])
    assert_published(in_a_process(three_rounds, config, str(tmp_path)))


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_one_process_publishes_bit_by_bit_on_one_gpu(policy_dir: Policies, tmp_path: Path, architecture: str) -> None:
    config = configured(str(policy_dir(architecture)), runtime="inline")
    assert_published(in_a_process(three_rounds, config, str(tmp_path)))


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", ["nccl", "object_store"])
def test_weights_are_published_bit_by_bit_from_gpu_to_gpu(
    policy_dir: Policies, tmp_path: Path, way: str, engine: str
) -> None:
    config = configured(str(policy_dir("llama")), sampler__weight_transfer=way, **ENGINES[engine])
    assert_published(in_a_process(three_rounds, config, str(tmp_path)))


def test_a_trained_policy_has_nearly_equal_logprobs_in_vllm_and_learner() -> None:
    """With a limit that bfloat16 cannot keep, as the control, the same comparison refuses."""
    strict = configured("world://lexicon/policy", runtime="inline", learner__max_logprob_gap=1e-7)
    assert "sampler and learner disagree by" in in_a_process(gap_above, strict)
    limit = LearnerConfig().largest_gap("bfloat16")
    usual = configured("world://lexicon/policy", runtime="inline", learner__max_logprob_gap=limit)
    assert in_a_process(gap_above, usual) == "nothing"
