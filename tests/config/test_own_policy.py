"""The preset for a policy of one's own, and presets for worlds that meet one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from sea_agent.config.files import load_config, presets
from sea_agent.config.world_settings import parameters
from sea_agent.errors import UserError
from sea_agent.lab.spec import plan, read_spec
from sea_agent.worlds import resolve

README = Path(__file__).parents[2] / "README.md"
ORACLE = {"kind": "python", "target": "mine.py:compare"}


@pytest.fixture
def large(tmp_path: Path) -> str:
    """The weights of a policy with six million parameters, in two files."""
    folder = tmp_path / "large"
    folder.mkdir()
    for number in (1, 2):
        save_file({"layer": torch.zeros(3000, 1000, dtype=torch.float16)}, folder / f"model-{number}.safetensors")
    return str(folder)


def extending(folder: Path, preset: str, policy: str, **changes: Any) -> str:
    path = folder / "mine.yaml"
    tree: dict[str, Any] = {"extends": preset, "policy": {"path": policy}}
    if preset != "live":  # there the users ask and answer
        tree |= {"prompts": {"path": "p.jsonl"}, "oracle": ORACLE}
    path.write_text(yaml.safe_dump(tree | changes))
    return str(path)


def test_the_weights_of_a_policy_are_counted_without_loading_them(
    large: str, policy_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    assert parameters(large) == 6_000_000
    model = AutoModelForCausalLM.from_pretrained(policy_dir("llama"))
    assert parameters(str(policy_dir("llama"))) == sum(weight.numel() for weight in model.parameters())
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    assert parameters(str(tmp_path)) is None
    assert parameters("nobody/nothing") is None


WORLDLY = [name for name in presets() if load_config(name).policy.path.startswith("world://")]


@pytest.mark.parametrize("preset", WORLDLY)
def test_a_preset_for_a_world_is_refused_for_a_larger_policy(preset: str, large: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        load_config(extending(tmp_path, preset, large))
    said = str(refusal.value)
    assert "mine.yaml: learner.learning_rate=0.002 and sampler.max_new_tokens=14 would ruin" in said
    assert "6,000,000 weights" in said
    assert "extends: own" in said
    with pytest.raises(UserError, match="of unknown size"):
        load_config(preset, ["policy.path=meta-llama/Llama-3.2-1B"])


@pytest.mark.parametrize("explicit", ["in the file", "by --set", "by --set of a section"])
def test_settings_of_the_users_own_are_not_refused(explicit: str, large: str, tmp_path: Path) -> None:
    rate, length = {"learning_rate": 2e-3}, {"max_new_tokens": 14}
    if explicit == "in the file":
        config = load_config(extending(tmp_path, "sea", large, learner=rate, sampler=length))
    elif explicit == "by --set":
        settings = ["learner.learning_rate=2e-3", "sampler.max_new_tokens=14"]
        config = load_config(extending(tmp_path, "sea", large), settings)
    else:
        file = extending(tmp_path, "sea", large)
        config = load_config(file, ["learner={learning_rate: 2e-3}", "sampler={max_new_tokens: 14, candidates: 4}"])
    assert config.learner.learning_rate == 2e-3
    with pytest.raises(UserError, match=r"mine\.yaml: sampler\.max_new_tokens=14 would ruin"):
        load_config(extending(tmp_path, "sea", large, learner=rate))


def test_a_small_policy_and_a_worlds_copy_are_not_refused(
    policy_dir: Callable[[str], Path], tmp_path: Path, large: str
) -> None:
    for policy in (str(policy_dir("llama")), "world://kitchen/policy", resolve("world://lexicon/policy")):
        assert load_config(extending(tmp_path, "sea", policy)).sampler.max_new_tokens == 14
    assert load_config(extending(tmp_path, "own", large)).sampler.max_new_tokens == 256


@pytest.mark.parametrize("path", ["./none", "/none", "runs/worlds/lexicon-1/policy"])
def test_a_policy_that_is_not_there_yet_is_left_to_what_loads_it(path: str, tmp_path: Path) -> None:
    """An experiment is planned before `sea-agent world make` has made its policies."""
    assert load_config(extending(tmp_path, "passive", path)).policy.path == path


def test_a_run_goes_on_with_what_it_began_with(large: str, tmp_path: Path) -> None:
    """The configuration that a run wrote down extends nothing."""
    config = load_config(extending(tmp_path, "sea", large), ["learner.learning_rate=1e-6", "sampler.max_new_tokens=14"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(str(tmp_path / "config.yaml")) == config


def test_an_experiment_is_held_to_the_same(large: str, tmp_path: Path) -> None:
    spec: dict[str, Any] = {"name": "mine", "base": "sea", "seeds": [0], "methods": {"sea": {}}}
    spec["set"] = {"policy.path": large, "learner.learning_rate": 1e-6}

    def cells() -> list[Any]:
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
        return plan(read_spec(tmp_path / "spec.yaml"), "spec.yaml")

    with pytest.raises(UserError, match=r"spec\.yaml: sea/seed-0: sampler\.max_new_tokens=14 would ruin"):
        cells()
    spec["methods"]["sea"] = {"set": {"sampler.max_new_tokens": 200}}
    assert cells()[0].config.sampler.max_new_tokens == 200
    spec |= {"base": "own", "methods": {"sea": {}}}
    assert cells()[0].config.sampler.max_new_tokens == 256


def test_the_preset_for_a_policy_of_ones_own_holds_the_recommended_values() -> None:
    config = load_config("own")
    assert (config.posterior.family, config.posterior.features, config.posterior.feature_batch) == (
        "laplace",
        "policy",
        16,
    )
    assert (config.batch_size, config.sampler.candidates, config.sampler.max_new_tokens) == (32, 8, 256)
    assert (config.learner.loss, config.learner.beta, config.learner.learning_rate) == ("dpo", 0.1, 1e-6)
    assert 0 < config.imagination.rounds <= 8
    assert config.imagination.max_kl == 10.0


def test_the_readmes_example_is_the_preset_for_a_policy_of_ones_own(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    example = re.search(r"```yaml\n# mine\.yaml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    tree = yaml.safe_load(example[1])
    assert tree["extends"] == "own"
    (tmp_path / "mine.yaml").write_text(example[1])
    config = load_config(str(tmp_path / "mine.yaml"))
    kept = load_config("own")
    assert (config.posterior, config.imagination, config.learner) == (kept.posterior, kept.imagination, kept.learner)
