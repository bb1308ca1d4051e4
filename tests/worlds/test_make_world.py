"""The shipped world ``lexicon`` is what ``make_world`` makes, has the stated statistics, and loads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from worlds.conftest import Remake, digest, shapes

from benchmarks.worlds import (
    encoder_features,
    make_speed_setting,
    pair_accuracy,
    policy_features,
    read_prompts,
    sample,
    scores,
    statistics,
)
from sea_agent.errors import UserError
from sea_agent.worlds import lexicon, resolve
from sea_agent.worlds.make import DEMONSTRATIONS, encoder_tokenizer, make_world, policy_tokenizer
from sea_agent.worlds.train import held_out_loss, seeded, train_encoder, train_policy

SHIPPED = Path(resolve("world://lexicon/prompts.jsonl")).parent
EXACT = (
    "prompts.jsonl",
    "heldout.jsonl",
    "demonstrations.jsonl",
    "policy/tokenizer.json",
    "encoder/tokenizer.json",
)
# Of the weights that training left when the world was made.
WEIGHTS = {"policy": "3b14d441c5c2f0aa", "encoder": "bb604a7b50ae026b"}
# Training on another CPU rounds differently and ends at other weights of the same quality.
LOSS_TOLERANCE = 0.08  # nats per response token
REWARD_TOLERANCE = 0.25
ACCURACY_TOLERANCE = 0.05


@pytest.fixture(scope="module")
def remade(remake: Remake) -> Path:
    return remake("lexicon")


@pytest.fixture(scope="module")
def retrained(retrain: Remake) -> Path:
    return retrain("lexicon")


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return read_prompts(SHIPPED / "heldout.jsonl")[:128]


@pytest.fixture(scope="module")
def texts(prompts: list[str]) -> list[list[str]]:
    return sample(SHIPPED / "policy", prompts, seed=1)


def loss_of(policy_dir: Path) -> float:
    return held_out_loss(
        AutoModelForCausalLM.from_pretrained(policy_dir),
        AutoTokenizer.from_pretrained(policy_dir),
        lexicon.make_demonstrations(512, seed=12345),
    )


@pytest.mark.parametrize("name", EXACT)
def test_data_files_are_remade_byte_for_byte(remade: Path, name: str) -> None:
    assert (remade / name).read_bytes() == (SHIPPED / name).read_bytes()


def test_another_seed_makes_other_data() -> None:
    assert lexicon.make_prompts(8, seed=1) != read_prompts(SHIPPED / "prompts.jsonl")[:8]


@pytest.mark.parametrize("model", ["policy", "encoder"])
def test_the_shipped_weights_are_those_that_were_made(remade: Path, model: str) -> None:
    assert digest(SHIPPED / model / "model.safetensors") == WEIGHTS[model]
    assert digest(remade / model / "model.safetensors") != WEIGHTS[model]
    assert shapes(remade / model) == shapes(SHIPPED / model)


@pytest.mark.soak
def test_the_retrained_policy_behaves_like_the_shipped_one(
    retrained: Path, prompts: list[str], texts: list[list[str]]
) -> None:
    assert all((retrained / name).read_bytes() == (SHIPPED / name).read_bytes() for name in EXACT)
    again = sample(retrained / "policy", prompts, seed=1)
    gap = scores("lexicon", "reward", prompts, again).mean() - scores("lexicon", "reward", prompts, texts).mean()
    assert abs(gap) < REWARD_TOLERANCE
    assert loss_of(retrained / "policy") == pytest.approx(loss_of(SHIPPED / "policy"), abs=LOSS_TOLERANCE)


def test_a_policy_that_learnt_too_little_is_outside_the_tolerance(remade: Path) -> None:
    assert loss_of(remade / "policy") > loss_of(SHIPPED / "policy") + LOSS_TOLERANCE


def encoder_accuracy(root: Path, prompts: list[str], texts: list[list[str]]) -> float:
    rewards = scores("lexicon", "reward", prompts, texts)
    features = encoder_features(root / "encoder", prompts, texts)
    return float(np.mean([pair_accuracy(features, rewards, 400, seed) for seed in range(5)]))


@pytest.mark.soak
def test_the_retrained_encoder_predicts_the_reward_as_the_shipped_one_does(
    retrained: Path, prompts: list[str], texts: list[list[str]]
) -> None:
    shipped, again = (encoder_accuracy(root, prompts, texts) for root in (SHIPPED, retrained))
    assert again == pytest.approx(shipped, abs=ACCURACY_TOLERANCE)


def test_features_order_unseen_pairs_and_shuffled_features_do_not(prompts: list[str], texts: list[list[str]]) -> None:
    rewards = scores("lexicon", "reward", prompts, texts)

    def accuracy(features: np.ndarray) -> float:
        return float(np.mean([pair_accuracy(features, rewards, 400, seed) for seed in range(5)]))

    encoder = encoder_features(SHIPPED / "encoder", prompts, texts)
    assert accuracy(policy_features(SHIPPED / "policy", prompts, texts)) > 0.58
    assert accuracy(encoder) > 0.72
    shuffled = np.random.default_rng(0).permuted(encoder, axis=1)
    assert abs(accuracy(shuffled) - 0.5) < 0.06


def test_samples_of_the_shipped_policy_have_the_stated_statistics(prompts: list[str], texts: list[list[str]]) -> None:
    measured = statistics("lexicon", prompts, texts)
    assert -0.2 < measured["mean reward"] < 0.4
    assert 1.05 < measured["reward deviation within a prompt"] < 1.3
    assert 1.9 < measured["best of the candidates"] < 2.5
    assert measured["distinct texts of a prompt"] > 19.9
    assert 0.7 < measured["correlation with the judge within prompts"] < 0.8


def test_responses_to_another_prompt_score_far_lower(prompts: list[str], texts: list[list[str]]) -> None:
    strangers = texts[1:] + texts[:1]
    own, other = (scores("lexicon", "reward", prompts, rows).mean() for rows in (texts, strangers))
    assert own > other + 1.5


def test_held_out_prompts_were_never_trained_on() -> None:
    held_out = set(read_prompts(SHIPPED / "heldout.jsonl"))
    assert len(held_out) >= 384
    assert held_out.isdisjoint(read_prompts(SHIPPED / "prompts.jsonl"))
    assert held_out.isdisjoint(prompt for prompt, _ in lexicon.make_demonstrations(DEMONSTRATIONS, seed=0))


@pytest.mark.parametrize("model", ["policy", "encoder"])
def test_shipped_weights_are_small_finite_and_float32(model: str) -> None:
    path = SHIPPED / model / "model.safetensors"
    assert path.stat().st_size < 1_000_000
    weights = load_file(path)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


def test_the_policy_tokenizer_opens_a_text_and_never_closes_it() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "policy")
    prompt, response = lexicon.make_demonstrations(1, seed=0)[0]
    ids = tokenizer(prompt).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert len(ids) == 13
    assert tokenizer.eos_token_id not in ids
    answered = ids + tokenizer(response, add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
    assert answered[:-1] == tokenizer(f"{prompt} {response}").input_ids
    assert tokenizer.decode(answered[len(ids) :], skip_special_tokens=True) == response
    assert tokenizer.unk_token_id not in tokenizer(" ".join(lexicon.WORDS)).input_ids


def test_the_encoder_reads_prompt_and_response_as_two_kinds_of_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "encoder")
    encoder = AutoModel.from_pretrained(SHIPPED / "encoder")
    prompt, response = lexicon.make_demonstrations(1, seed=0)[0]
    pair = tokenizer(prompt, response, return_tensors="pt")
    assert tokenizer.decode(pair.input_ids[0]) == f"[CLS] {prompt} [SEP] {response} [SEP]"
    assert pair.token_type_ids.sum() == len(response.split()) + 1
    with torch.inference_mode():
        states = encoder(**pair).last_hidden_state
        without_types = encoder(**{**pair, "token_type_ids": torch.zeros_like(pair.input_ids)}).last_hidden_state
    assert not torch.allclose(states, without_types, atol=1e-3)


@pytest.mark.parametrize("train", ["policy", "encoder"])
def test_training_is_a_function_of_the_seed(train: str) -> None:
    demonstrations = lexicon.make_demonstrations(200, seed=0)
    attributes = np.array([lexicon.attributes(*pair) for pair in demonstrations])

    def trained(seed: int) -> list[torch.Tensor]:
        if train == "policy":
            model = train_policy(policy_tokenizer(lexicon.WORDS), demonstrations, seed, steps=4)
        else:
            model = train_encoder(encoder_tokenizer(lexicon.WORDS), demonstrations, attributes, seed, steps=4)
        return list(model.parameters())

    assert _equal(trained(0), trained(0))
    assert not _equal(trained(0), trained(1))


def test_making_weights_leaves_global_randomness_and_threads_alone() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with seeded("test"):
        torch.rand(3)
        assert not torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_the_speed_setting_is_larger_and_loads(tmp_path: Path) -> None:
    make_speed_setting(tmp_path)
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert 2.5e6 < sum(tensor.numel() for tensor in policy.parameters()) < 3.5e6
    prompt = read_prompts(tmp_path / "prompts.jsonl")[0]
    assert len(AutoTokenizer.from_pretrained(tmp_path / "policy")(prompt).input_ids) == 41
    assert np.isfinite(lexicon.reward(prompt, "anchor ."))


def test_an_unknown_world_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"atlantis.*lexicon"):
        make_world("atlantis", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
