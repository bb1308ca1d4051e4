"""Text features: what each block holds, for any vocabulary and length, and that they learn fast."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_parts import features as features_of
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.worlds import read_prompts, sample
from sea_agent.bandit.laplace import Laplace
from sea_agent.config import PolicyConfig
from sea_agent.config.files import load_config
from sea_agent.features import text as text_features
from sea_agent.features.text import TextFeatures
from sea_agent.types import Prompt, Response
from sea_agent.worlds import resolve, scorer

END = 2


def save_policy(directory: Path, vocabulary: int) -> str:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=END,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    words = Tokenizer(WordLevel({f"w{index}": index for index in range(vocabulary)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token=f"w{END}").save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_policy(tmp_path_factory.mktemp("small"), 40)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_policy(tmp_path_factory.mktemp("large"), 5000)


def blocks_of(policy: str, *rows: tuple[Sequence[int], Sequence[int]]) -> dict[str, Tensor]:
    """Every block of unscaled features, by name."""
    features = TextFeatures(PolicyConfig(path=policy), 256, "cpu")
    features.load_state({"mean": torch.zeros(features.dimension), "deviation": torch.ones(features.dimension)})
    pairs = [
        (Prompt(f"p{index}", "", tuple(prompt)), Response(f"r{index}", f"p{index}", "", tuple(response), (), 0))
        for index, (prompt, response) in enumerate(rows)
    ]
    parts = features.features(pairs).split(features.blocks, dim=1)
    return dict(zip(features._blocks, parts, strict=True))


def test_tokens_copied_from_the_prompt_are_told_from_new_ones(small: str) -> None:
    blocks = blocks_of(small, ([10, 11, 12], [11, 30, 11, 12, END]), ([30], [11, 30]))
    assert blocks["copied"][0].nonzero().flatten().tolist() == [11, 12]
    assert blocks["new"][0].nonzero().flatten().tolist() == [END, 30]
    assert blocks["copied"][1].nonzero().flatten().tolist() == [30]
    assert blocks["new"][1].nonzero().flatten().tolist() == [11]
    # Length, copied, new, repeated, ended, length squared.
    assert blocks["counts"].tolist() == [[5, 2, 2, 1, 1, 25], [2, 1, 1, 0, 0, 4]]


def test_order_shows_in_places_and_neighbours_and_nowhere_else_in_the_text(small: str) -> None:
    blocks = blocks_of(small, ([10, 11], [10, 20, 30, END]), ([10, 11], [30, 20, 10, END]))
    for name in ("copied", "new", "copied components", "new components", "counts", "prompt"):
        assert torch.equal(blocks[name][0], blocks[name][1])
    for name in ("position", "neighbours", "hidden", "likelihood"):
        assert not torch.allclose(blocks[name][0], blocks[name][1])
    assert blocks["position"][:, 30].tolist() == [0.5, 0.0]


def test_the_prompt_changes_what_the_response_means(small: str) -> None:
    blocks = blocks_of(small, ([5, 10], [20, 21]), ([6, 10], [20, 21]))
    assert torch.equal(blocks["new"][0], blocks["new"][1])
    assert not torch.equal(blocks["prompt"][0], blocks["prompt"][1])
    crossed = blocks["prompt"].unflatten(1, (40, -1))
    assert crossed[0].abs().sum(1).nonzero().flatten().tolist() == [5, 10]


def test_components_are_the_summed_places_on_the_embeddings_principal_axes(small: str) -> None:
    embeddings = LlamaForCausalLM.from_pretrained(small).get_input_embeddings().weight.detach().double()
    centred = embeddings - embeddings.mean(0)
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    places = (left * sizes)[:, :16]
    places = places / places.std(0)
    blocks = blocks_of(small, ([10], [10, 20, 20, 21]))
    torch.testing.assert_close(
        blocks["new components"][0].double().abs(), (places[20] + places[21]).abs(), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(blocks["copied components"][0].double().abs(), places[10].abs(), rtol=0, atol=1e-4)


def test_neighbours_are_products_of_kinds_of_tokens_at_most_three_apart(small: str) -> None:
    response = [10, 20, 30, 11, 21]
    kinds = TextFeatures(PolicyConfig(path=small), 256, "cpu")._kinds_V_E.double()
    near = [(10, 20), (10, 30), (10, 11), (20, 30), (20, 11), (20, 21), (30, 11), (30, 21), (11, 21)]
    expected = torch.stack([torch.outer(kinds[first], kinds[second]) for first, second in near]).sum(0)
    # A shorter response beside it, so that padding is seen to add nothing.
    blocks = blocks_of(small, ([10, 11], response), ([10], [20, 30]), ([10], [20]))
    torch.testing.assert_close(blocks["neighbours"][0].double(), expected.flatten(), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        blocks["neighbours"][1].double(), torch.outer(kinds[20], kinds[30]).flatten(), rtol=0, atol=1e-4
    )
    assert not blocks["neighbours"][2].any()


@pytest.mark.parametrize("vocabulary", [60, 900], ids=["every token a landmark", "landmarks"])
def test_tokens_that_the_policy_reads_and_writes_alike_are_of_one_kind(vocabulary: int, tmp_path: Path) -> None:
    directory = save_policy(tmp_path, vocabulary)
    model = LlamaForCausalLM.from_pretrained(directory)
    # Read alike: tokens equal modulo 2. Written alike: tokens equal modulo 3. Both: modulo 6.
    for layer, classes in ((model.get_input_embeddings(), 2), (model.get_output_embeddings(), 3)):
        noise = 0.1 * torch.randn(vocabulary, 24, generator=torch.Generator().manual_seed(classes))
        centres = torch.randn(classes, 24, generator=torch.Generator().manual_seed(classes + 10))
        layer.weight.data = centres[torch.arange(vocabulary) % classes] + noise
    model.save_pretrained(directory)
    kinds = TextFeatures(PolicyConfig(path=directory), 256, "cpu")._kinds_V_E
    distances = torch.cdist(kinds, kinds)
    distances.fill_diagonal_(torch.inf)
    nearest = distances.argmin(1)
    assert bool((nearest % 6 == torch.arange(vocabulary) % 6).all())


def test_likelihood_is_the_policys_log_probability(small: str) -> None:
    blocks = blocks_of(small, ([10, 11], [20, 21, END]), ([7], [8]))
    model = LlamaForCausalLM.from_pretrained(small).eval()
    with torch.inference_mode():
        logprobs = model(torch.tensor([[10, 11, 20, 21, END]])).logits.log_softmax(-1)
    total = float(logprobs[0, 1, 20] + logprobs[0, 2, 21] + logprobs[0, 3, END])
    torch.testing.assert_close(blocks["likelihood"][0], torch.tensor([total, total / 3]), rtol=0, atol=1e-4)


def test_a_large_vocabulary_and_long_texts_keep_the_features_few_and_finite(large: str) -> None:
    generator = np.random.default_rng(0)
    rows = [(generator.integers(0, 5000, 300).tolist(), generator.integers(0, 5000, 400).tolist()) for _ in range(3)]
    blocks = blocks_of(large, *rows)
    assert sum(block.shape[1] for block in blocks.values()) < 12_000
    assert all(block.isfinite().all() for block in blocks.values())
    # Hashing keeps different tokens apart, but for collisions.
    distinct = [len(set(response) - set(prompt)) for prompt, response in rows]
    found = (blocks["new"] > 0).sum(1).tolist()
    assert all(0.7 * count < buckets <= count for count, buckets in zip(distinct, found, strict=True))


def test_batch_mates_change_nothing_but_rounding(large: str) -> None:
    rows = [([7, 8, 9], [8, 4000, END]), ([4000], [1, 2, 3, 4, 5]), ([3], [3])]
    together = blocks_of(large, *rows)
    for index, row in enumerate(rows):
        for name, block in blocks_of(large, row).items():
            torch.testing.assert_close(block[0], together[name][index], rtol=0, atol=1e-4)


def test_logits_are_held_for_answered_positions_and_for_as_many_rows_as_there_is_room(
    large: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large vocabulary would otherwise hold more than the model itself."""
    generator = np.random.default_rng(1)
    rows = [(generator.integers(3, 5000, 20).tolist(), generator.integers(3, 5000, 9).tolist()) for _ in range(8)]
    at_once, shapes = blocks_of(large, *rows), []
    forward = LlamaForCausalLM.forward

    def noted(*given: Any, **options: Any) -> Any:
        output = forward(*given, **options)
        shapes.append(tuple(output.logits.shape))
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", noted)
    # Of 32 padded positions the first answered one is the 21st, and the one before it predicts it.
    room = 3 * text_features._LOGIT_COPIES * 4 * 5000 * 13
    monkeypatch.setattr(text_features, "_LOGIT_BYTES", room)
    in_parts = blocks_of(large, *rows)
    assert shapes == [(3, 13, 5000), (3, 13, 5000), (2, 13, 5000)]
    for name, block in in_parts.items():
        torch.testing.assert_close(block, at_once[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "qwen2"])
def test_every_family_of_policies_has_text_features(family: str, policy_dir: Callable[[str], Path]) -> None:
    blocks = blocks_of(str(policy_dir(family)), ([4, 5], [5, 6]), ([4], [7, 7]))
    assert all(block.isfinite().all() for block in blocks.values())
    assert blocks["counts"][:, 0].tolist() == [2, 2]


def test_a_response_without_tokens_is_refused(small: str) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        blocks_of(small, ([4], []))


def pair_accuracy(world: str, kind: str, labels: int, without: str = "") -> float:
    """Share of pairs of responses to unseen prompts of the world that are ordered as the hidden reward does."""
    path = f"world://{world}/policy"
    tokenizer = AutoTokenizer.from_pretrained(resolve(path))
    prompts = read_prompts(Path(resolve(f"world://{world}/heldout.jsonl")))[:160]
    texts = sample(Path(resolve(path)), prompts, seed=0, candidates=8)
    score = scorer(world, "reward")
    rows, rewards = [], []
    for prompt, responses in zip(prompts, texts, strict=True):
        asked = Prompt(prompt, prompt, tuple(tokenizer(prompt).input_ids))
        for text in responses:
            ids = tokenizer(text + tokenizer.eos_token, add_special_tokens=False).input_ids
            rows.append((asked, Response(text, prompt, text, tuple(ids), (), 0)))
            rewards.append(score(prompt, text))
    features = features_of(load_config("lab", [f"posterior.features={kind}", f"policy.path={path}"]))
    features_N_D = features.features(rows)
    if without:
        names = list(TextFeatures(PolicyConfig(path=path), 1, "cpu")._blocks)
        features_N_D.split(features.blocks, dim=1)[names.index(without)].zero_()
    features_P_M_D = features_N_D.unflatten(0, (160, 8))
    rewards_P_M = torch.tensor(rewards).unflatten(0, (160, 8))
    first, second = features_P_M_D[:, ::2].flatten(0, 1), features_P_M_D[:, 1::2].flatten(0, 1)
    gap = rewards_P_M[:, ::2].flatten() - rewards_P_M[:, 1::2].flatten()
    posterior = Laplace(sum(features.blocks), blocks=features.blocks)
    posterior.add(first[:labels], second[:labels], (gap[:labels] > 0).float(), [str(row) for row in range(labels)])
    posterior.update(np.random.default_rng(0))
    held = posterior.mean(torch.stack([first[labels:], second[labels:]], 1))
    return float(((held[:, 0] > held[:, 1]) == (gap[labels:] > 0)).float().mean())


def test_text_features_learn_a_hidden_reward_from_labels_that_leave_hidden_states_at_a_loss() -> None:
    assert pair_accuracy("lexicon", "text", 200) > 0.78
    assert pair_accuracy("lexicon", "policy", 200) < 0.72


def test_kinds_of_neighbours_learn_a_hidden_reward_that_no_word_is_part_of() -> None:
    assert pair_accuracy("kitchen", "text", 200) > 0.7
    assert pair_accuracy("kitchen", "text", 200, without="neighbours") < 0.6
    assert pair_accuracy("kitchen", "policy", 200) < 0.6
