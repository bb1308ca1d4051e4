"""What is read of a policy's directory: its context length, and the tokens that end a response."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from policy_zoo import make_policy_of, plain_logprobs
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from actors.hf_sampler import HfSampler
from actors.sampling import SampleRequest
from learner.learner import PreferenceLearner
from sea_agent.config import LearnerConfig, PolicyConfig
from sea_agent.errors import UserError
from sea_agent.features.text import TextFeatures
from sea_agent.pretrained import UNLIMITED, context_length, end_token_ids, load_model, load_tokenizer, longest_input
from sea_agent.types import LabelSource, Preference, Prompt


@pytest.mark.parametrize(
    ("model_type", "settings", "length"),
    [
        ("llama", {"max_position_embeddings": 100}, 100),
        ("qwen3", {"max_position_embeddings": 100}, 100),
        ("gemma3", {"text_config": {"max_position_embeddings": 100}}, 100),
        ("gpt2", {"n_positions": 100}, 100),
        ("gptj", {"n_positions": 100}, 100),
        ("ctrl", {"n_positions": 100}, 100),
        ("opt", {"max_position_embeddings": 100}, 100),
        ("mpt", {"max_seq_len": 100}, 100),
        ("dbrx", {"max_seq_len": 100}, 100),
        ("falcon", {"max_position_embeddings": 100}, 100),
        ("whisper", {"max_target_positions": 100}, 100),
        ("bloom", {"seq_length": 100}, 100),
        ("bloom", {}, UNLIMITED),
        ("mamba", {}, UNLIMITED),
        ("recurrent_gemma", {}, UNLIMITED),
        ("xlnet", {}, UNLIMITED),
    ],
)
def test_the_context_length_is_read_wherever_a_configuration_keeps_it(
    model_type: str, settings: dict[str, Any], length: int, tmp_path: Path
) -> None:
    CONFIG_MAPPING[model_type](**settings).save_pretrained(tmp_path)
    assert context_length(str(tmp_path)) == length


def rewrite(path: Path, **keys: Any) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A policy whose tokenizer and generation settings both name token 0 as the end."""
    return make_policy_of("llama", tmp_path / "llama")


def ends(directory: Path) -> tuple[int, ...]:
    return end_token_ids(str(directory), load_tokenizer(str(directory)))


def test_responses_end_with_what_the_tokenizer_and_the_generation_settings_name(llama: Path) -> None:
    assert ends(llama) == (0,)
    rewrite(llama / "generation_config.json", eos_token_id=[5, 0])
    assert ends(llama) == (0, 5)
    rewrite(llama / "tokenizer_config.json", eos_token=None)
    assert ends(llama) == (5, 0)
    (llama / "generation_config.json").unlink()
    assert ends(llama) == (0,), "from config.json"
    rewrite(llama / "config.json", eos_token_id=None)
    with pytest.raises(UserError, match="names an end-of-sequence token"):
        ends(llama)


def test_sampler_posterior_and_saved_policy_agree_on_the_end(llama: Path, tmp_path: Path) -> None:
    """Also where only the tokenizer names it, and where the settings name another beside it."""
    for named in (None, 0, 5, [5, 6]):
        rewrite(llama / "config.json", eos_token_id=None)
        GenerationConfig(eos_token_id=named).save_pretrained(llama)
        policy = PolicyConfig(path=str(llama))
        expected = {0, *(named if isinstance(named, list) else [named])} - {None}
        assert set(HfSampler(policy, device="cpu")._end_ids) == expected
        assert set(TextFeatures(policy)._end_ids) == expected
        PreferenceLearner(policy, LearnerConfig(), total_steps=1).save_policy(tmp_path / "saved")
        saved = GenerationConfig.from_pretrained(tmp_path / "saved").eos_token_id
        assert set(saved if isinstance(saved, list) else [saved]) == expected


@pytest.mark.parametrize(
    "architecture",
    ["llama", "qwen2 tied", "qwen3", "gemma2", "gpt_neox", "gpt2", "phi", "opt", "bloom", "mpt", "mamba", "mixtral"],
)
def test_a_padding_token_outside_the_embedding_changes_nothing(architecture: str, tmp_path: Path) -> None:
    """As an added ``[PAD]`` is, for which the embedding was never resized."""
    directory = make_policy_of(architecture, tmp_path / "policy")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == size
    tokenizer.save_pretrained(directory)
    rewrite(directory / "generation_config.json", pad_token_id=size)
    policy = PolicyConfig(path=str(directory))
    sampler = HfSampler(policy, device="cpu")
    prompts = [Prompt("short", "", (4,)), Prompt("long", "", (4, 5, 6, 7, 8, 9))]
    requests = [SampleRequest(f"{index}", prompts[index // 2], index, 1.0, 5) for index in range(4)]
    responses = sampler.sample(requests)
    rows = [(request.prompt.token_ids, one.token_ids) for request, one in zip(requests, responses, strict=True)]
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    trained = PreferenceLearner(policy, LearnerConfig(max_logprob_gap=1e-5), total_steps=1)
    for row, one, scored, ours in zip(
        rows, responses, sampler.logprobs(rows), trained.policy_logprobs(rows), strict=True
    ):
        expected = pytest.approx(plain_logprobs(model, *row), abs=1e-5)
        assert (list(one.logprobs), scored, ours) == (expected, expected, expected)
    pairs = zip(prompts, responses[::2], responses[1::2], strict=True)
    trained.step([Preference(prompt.id, prompt, one, two, LabelSource.ORACLE) for prompt, one, two in pairs])


@pytest.mark.parametrize("where", ["the tokenizer", "generation_config.json"])
def test_an_end_token_outside_the_model_is_refused(where: str, llama: Path) -> None:
    if where == "the tokenizer":
        tokenizer = AutoTokenizer.from_pretrained(llama)
        tokenizer.add_special_tokens({"eos_token": "<|end|>"})
        tokenizer.save_pretrained(llama)
    else:
        rewrite(llama / "generation_config.json", eos_token_id=[0, 32])
    with pytest.raises(UserError, match=rf"end-of-sequence token 32 of {where} is outside .* only 32 tokens"):
        ends(llama)


@pytest.mark.parametrize("token", ["0", -1, 1.5])
def test_an_end_token_that_is_no_number_is_refused(token: Any, llama: Path) -> None:
    rewrite(llama / "generation_config.json", eos_token_id=[0, token])
    with pytest.raises(UserError, match=rf"end-of-sequence token {token!r} is no token's number"):
        ends(llama)


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "camembert"])
def test_roberta_reads_fewer_tokens_than_it_has_positions(model_type: str) -> None:
    config = CONFIG_MAPPING[model_type](max_position_embeddings=48, pad_token_id=1)
    assert longest_input(config) == 46
    assert longest_input(CONFIG_MAPPING["gpt2"](n_positions=48)) == 48


@pytest.mark.parametrize("path", ["path/to/policy", "./nowhere", "/nowhere"])
def test_a_directory_that_is_not_there_is_told_as_one(path: str) -> None:
    with pytest.raises(UserError, match=rf"^policy\.path={path}: no such directory, and no name of a model on the hub"):
        load_tokenizer(path)


def test_a_directory_without_a_model_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the directory holds no model: config\.json is missing"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("content", ["{broken", "[1]", ""])
def test_generation_settings_that_cannot_be_read_are_refused_and_not_ignored(content: str, llama: Path) -> None:
    (llama / "generation_config.json").write_text(content)
    with pytest.raises(UserError, match=r"generation_config\.json cannot be read .*repair it, or remove it"):
        ends(llama)


@pytest.mark.parametrize(
    ("key", "auto_class"),
    [("oracle.path", AutoModelForSequenceClassification), ("posterior.encoder_path", AutoModel)],
)
def test_the_way_to_merge_an_adapter_is_that_of_its_kind_of_model(
    key: str, auto_class: Any, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the message says is done, and gives a model with what the adapter learnt."""
    options = {"num_labels": 1} if key == "oracle.path" else {}
    task = "SEQ_CLS" if options else "FEATURE_EXTRACTION"
    model = auto_class.from_pretrained(llama, **options)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type=task, init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="it holds an adapter") as caught:
        load_tokenizer(str(tmp_path / "adapter"), key=key)
    code = "\n".join(line.strip() for line in str(caught.value).splitlines()[1:])
    monkeypatch.chdir(tmp_path)
    exec(code.replace("BASE_MODEL", repr(str(llama))), {"peft": peft, "transformers": transformers})
    merged = load_model(auto_class, str(tmp_path / "merged"), key)
    tokens = torch.tensor([[3, 4, 5]])
    with torch.inference_mode():
        for mine, theirs in zip(merged(tokens)[:1], adapted.eval()(tokens)[:1], strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
