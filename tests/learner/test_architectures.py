"""Learner, sampler and saved policy are one model, whatever the architecture: against plain transformers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_zoo import ARCHITECTURES, layout, make_policy_of, plain_greedy, plain_logprobs
from transformers import AutoModelForCausalLM

import learner.learner
from actors.hf_sampler import HfSampler
from actors.sampling import SampleRequest
from learner.learner import PreferenceLearner
from learner.lora import check_adapters
from sea_agent.config import LearnerConfig, LoraConfig, PolicyConfig
from sea_agent.errors import RunFailure, UserError
from sea_agent.types import LabelSource, Preference, Prompt, Response

END = 0
# Rounding was measured to be at most 2e-6 nats on these policies.
EXACT = 1e-5
ADAPTERS = {"rank": 4}
# peft refuses the output projections of Mamba.
TARGETS = {"mamba": {"targets": ("in_proj", "x_proj")}}
# Their layers are Llama's as far as adapters are concerned.
LIKE_LLAMA = ("llama", "qwen2 tied", "qwen3", "mistral", "gemma2", "phi", "qwen2_moe", "cohere")
REQUESTS = [
    SampleRequest(f"{index}-{side}", Prompt(f"p{index}", "", tuple(range(3, 4 + 3 * index))), 7 * index + side, 1.0, 6)
    for index in range(4)
    for side in range(2)
]
Policies = Callable[..., Path]


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Policies:
    """``policies(architecture, dtype)``: a directory, made once."""
    made: dict[tuple[str, str], Path] = {}

    def get(architecture: str, dtype: str = "float32") -> Path:
        if (architecture, dtype) not in made:
            made[architecture, dtype] = make_policy_of(architecture, tmp_path_factory.mktemp("policy"), dtype)
        return made[architecture, dtype]

    return get


def learner_of(directory: Path, dtype: str = "float32", **settings: Any) -> PreferenceLearner:
    config = LearnerConfig.model_validate({"learning_rate": 1e-2, "max_logprob_gap": EXACT} | settings)
    return PreferenceLearner(
        PolicyConfig.model_validate({"path": str(directory), "dtype": dtype}), config, total_steps=3
    )


def preferences(responses: list[Response]) -> list[Preference]:
    """The first response to each prompt is preferred to the second."""
    first, second = responses[::2], responses[1::2]
    prompts = [request.prompt for request in REQUESTS[::2]]
    rows = zip(prompts, first, second, strict=True)
    return [Preference(prompt.id, prompt, one, two, LabelSource.ORACLE) for prompt, one, two in rows]


def three_updates(directory: Path, **settings: Any) -> tuple[PreferenceLearner, HfSampler]:
    """A learner and a sampler after three rounds, in each of which the learner compares its log-probabilities."""
    trained, sampler = learner_of(directory, **settings), HfSampler(PolicyConfig(path=str(directory)), device="cpu")
    for _ in range(3):
        metrics = trained.step(preferences(sampler.sample(REQUESTS)))
        assert metrics["logprob_gap"] < EXACT
        update = trained.weights()
        assert update is not None
        assert sampler.load_weights(update) == update.checksum
    return trained, sampler


@pytest.mark.parametrize(
    ("architecture", "lora"),
    [(name, False) for name in ARCHITECTURES] + [(name, True) for name in ARCHITECTURES if name not in LIKE_LLAMA],
)
def test_three_updates_leave_one_model_with_the_tensors_of_its_checkpoint(
    architecture: str, lora: bool, policies: Policies, tmp_path: Path
) -> None:
    directory = policies(architecture)
    settings = {"lora": ADAPTERS | TARGETS.get(architecture, {})} if lora else {}
    trained, sampler = three_updates(directory, **settings)
    trained.save_policy(tmp_path / "policy")
    assert layout(tmp_path / "policy") == layout(directory)
    before, after = (
        AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval() for path in (directory, tmp_path / "policy")
    )
    responses = sampler.sample(REQUESTS)
    rows = [(request.prompt.token_ids, one.token_ids) for request, one in zip(REQUESTS, responses, strict=True)]
    expected = [plain_logprobs(after, *row) for row in rows]
    for name, found in (
        ("sampled", [one.logprobs for one in responses]),
        ("scored", sampler.logprobs(rows)),
        ("learner", trained.policy_logprobs(rows)),
    ):
        for ours, theirs in zip(found, expected, strict=True):
            assert list(ours) == pytest.approx(theirs, abs=EXACT), name
    assert plain_logprobs(before, *rows[0]) != pytest.approx(expected[0], abs=1e-3), "nothing was learnt"
    greedy = sampler.sample([replace(request, temperature=0.0) for request in REQUESTS])
    for request, one in zip(REQUESTS, greedy, strict=True):
        assert one.token_ids == plain_greedy(after, request.prompt.token_ids, END, request.max_new_tokens)


@pytest.mark.parametrize("architecture", ["llama tied", "deepseek_v3"])
def test_the_saved_policy_keeps_the_dtype_of_every_tensor(
    architecture: str, policies: Policies, tmp_path: Path
) -> None:
    directory = policies(architecture, "bfloat16")
    learner_of(directory, "bfloat16").save_policy(tmp_path / "policy")
    assert layout(tmp_path / "policy").keys() == layout(directory).keys()
    loaded = AutoModelForCausalLM.from_pretrained(directory, dtype="auto").state_dict()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype="auto").state_dict()
    for name, tensor in loaded.items():
        assert saved[name].dtype == tensor.dtype
        assert torch.equal(saved[name], tensor), name


@pytest.mark.parametrize("architecture", ["gpt2", "bloom", "opt"])
def test_a_checkpoint_without_the_prefix_of_its_names_is_saved_without_it(
    architecture: str, policies: Policies, tmp_path: Path
) -> None:
    """As the published GPT-2 and Bloom are: files of the model below the language-model head."""
    directory = policies(architecture)
    model = AutoModelForCausalLM.from_pretrained(directory)
    bare = tmp_path / "bare"
    model.base_model.save_pretrained(bare)
    for file in directory.iterdir():
        if "token" in file.name:
            (bare / file.name).write_bytes(file.read_bytes())
    assert not layout(bare).keys() & layout(directory).keys()
    learner_of(bare).save_policy(tmp_path / "policy")
    assert layout(tmp_path / "policy") == layout(bare)


def test_a_buffer_that_is_not_published_would_be_noticed(
    policies: Policies, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(learner.learner, "saved_buffers", lambda _: ())
    trained = learner_of(policies("deepseek_v3"))
    trained.save_policy(tmp_path / "policy")
    lost = layout(policies("deepseek_v3")).keys() - layout(tmp_path / "policy").keys()
    assert lost == {"model.layers.1.mlp.gate.e_score_correction_bias"}
    update = trained.weights()
    assert update is not None
    with pytest.raises(RunFailure, match="e_score_correction_bias is missing"):
        HfSampler(PolicyConfig(path=str(policies("deepseek_v3"))), device="cpu").load_weights(update)


@pytest.mark.parametrize(
    ("architecture", "target", "tensors"),
    [
        ("llama tied", "lm_head", "model.embed_tokens.weight and lm_head.weight"),
        ("qwen2 tied", "embed_tokens", "model.embed_tokens.weight and lm_head.weight"),
        ("gemma2", "lm_head", "model.embed_tokens.weight and lm_head.weight"),
        ("gpt2", "wte", "transformer.wte.weight and lm_head.weight"),
        ("bloom", "lm_head", "transformer.word_embeddings.weight and lm_head.weight"),
        ("opt", "embed_positions", "OPTLearnedPositionalEmbedding"),
    ],
)
def test_adapters_that_cannot_be_merged_are_refused_without_the_weights(
    architecture: str, target: str, tensors: str, policies: Policies
) -> None:
    policy = PolicyConfig(path=str(policies(architecture)))
    with pytest.raises(UserError, match=rf"learner\.lora\.targets=.*adapts .*{target}.*{tensors}"):
        check_adapters(policy, LoraConfig(targets=(target,)))
    check_adapters(policy, LoraConfig())


def test_targets_that_are_no_regular_expression_are_refused(policies: Policies) -> None:
    with pytest.raises(UserError, match=r"learner\.lora\.targets='\*q\(' does not fit the policy: nothing to repeat"):
        check_adapters(PolicyConfig(path=str(policies("llama"))), LoraConfig(targets="*q("))


@pytest.mark.parametrize(
    ("architecture", "target", "module"), [("llama", "mlp", "LlamaMLP"), ("llama", "norm", "LlamaRMSNorm")]
)
def test_targets_that_are_no_layer_are_refused_by_what_they_are(
    architecture: str, target: str, module: str, policies: Policies
) -> None:
    with pytest.raises(UserError, match=rf"it names a {module}, which is no linear layer .*Name the layers inside it"):
        check_adapters(PolicyConfig(path=str(policies(architecture))), LoraConfig(targets=(target,)))


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [
        ("llama", ("lm_head", "embed_tokens")),
        ("gemma3 untied", ("lm_head", "embed_tokens")),
        ("gpt_neox", ("embed_out", "embed_in")),
        ("gpt2", ("wpe", "c_attn")),
        ("mixtral", ("w1", "w2", "w3")),
        ("qwen3_moe", ("gate_proj", "up_proj", "down_proj")),
    ],
)
def test_adapters_on_embeddings_and_experts_are_exact(
    architecture: str, targets: tuple[str, ...], policies: Policies
) -> None:
    trained, sampler = three_updates(policies(architecture), lora=ADAPTERS | {"targets": targets})
    assert trained.step(preferences(sampler.sample(REQUESTS)))["logprob_gap"] < EXACT
    changed = {
        name
        for name, value in AutoModelForCausalLM.from_pretrained(policies(architecture)).state_dict().items()
        if not torch.equal(value, sampler._model.state_dict()[name])
    }
    assert changed, "the adapters changed nothing"
