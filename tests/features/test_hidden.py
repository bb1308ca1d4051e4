"""Features are the frozen model's hidden states, whatever the batch, and their scale is set once."""

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from run_parts import features as features_of
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5Model,
)
from user_policies import CONTEXT, make_reward_model, make_tokenizer

from sea_agent.config import PolicyConfig, RunConfig
from sea_agent.config.files import parse_config
from sea_agent.errors import UnfitState, UserError
from sea_agent.features import Features, base, hidden
from sea_agent.features.base import FeatureMap, Pair, Row
from sea_agent.features.hidden import EncoderFeatures, PolicyFeatures
from sea_agent.types import Prompt, Response
from sea_agent.worlds import scorer

WORDS = [f"w{index}" for index in range(40)]
LIMIT = 24


def pair(prompt: Sequence[int], response: Sequence[int], tag: str = "") -> Pair:
    """Token i is the word w<i>."""
    texts = [" ".join(WORDS[index] for index in tokens) for tokens in (prompt, response)]
    return (
        Prompt(f"prompt{tag}", texts[0], tuple(prompt)),
        Response(f"response{tag}", f"prompt{tag}", texts[1], tuple(response), (0.0,) * len(response), 0),
    )


def pairs_of_many_lengths() -> list[Pair]:
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(0, 40, (count,), generator=generator).tolist()

    return [pair(tokens(p), tokens(r)) for p, r in ((9, 3), (3, 1), (4, 12), (8, 8), (2, 15), (3, 2), (10, 10))]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    directory = tmp_path_factory.mktemp("policy")
    LlamaForCausalLM(config).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(1)
    directory = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[CLS]", "[SEP]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", model_input_names=inputs)
    tokenizer.save_pretrained(directory)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=12,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LIMIT,
    )
    BertModel(config).save_pretrained(directory)
    return str(directory)


@pytest.fixture(params=["policy", "encoder"])
def feature_map(request: pytest.FixtureRequest, policy: str, encoder: str) -> FeatureMap:
    if request.param == "policy":
        return PolicyFeatures(PolicyConfig(path=policy), 3, "cpu")
    return EncoderFeatures(encoder, 3, "cpu")


def unscaled(feature_map: FeatureMap, pairs: Sequence[Pair]) -> Tensor:
    standardised_N_D = feature_map.features(pairs)
    return standardised_N_D * feature_map.state()["deviation"] + feature_map.state()["mean"]


def states_of_one(feature_map: FeatureMap, policy: str, encoder: str, row: Pair) -> Tensor:
    """Features of one unpadded sequence, straight from the definition."""
    prompt, response = row
    with torch.inference_mode():
        if isinstance(feature_map, PolicyFeatures):
            model = LlamaForCausalLM.from_pretrained(policy).eval()
            ids_1_T = torch.tensor([prompt.token_ids + response.token_ids])
            states_T_H = model(ids_1_T, output_hidden_states=True).hidden_states[-1][0]
            answer_T_H = states_T_H[len(prompt.token_ids) :]
            return torch.cat([answer_T_H.mean(0), answer_T_H[-1]])
        ids = [1, *(token + 3 for token in prompt.token_ids), 2, *(token + 3 for token in response.token_ids), 2]
        types = [0] * (len(prompt.token_ids) + 2) + [1] * (len(response.token_ids) + 1)
        model = BertModel.from_pretrained(encoder).eval()
        return model(torch.tensor([ids]), token_type_ids=torch.tensor([types])).last_hidden_state[0].mean(0)


def test_features_of_a_batch_are_the_hidden_states_of_each_sequence_alone(
    feature_map: FeatureMap, policy: str, encoder: str
) -> None:
    pairs = pairs_of_many_lengths()
    expected_N_D = torch.stack([states_of_one(feature_map, policy, encoder, row) for row in pairs])
    torch.testing.assert_close(unscaled(feature_map, pairs), expected_N_D, rtol=0, atol=1e-5)


def test_padding_that_is_not_masked_would_be_noticed(
    encoder: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ones(rows: list[list[int]], length: int, device: str) -> Tensor:
        return torch.tensor([row + [1] * (length - len(row)) for row in rows])

    monkeypatch.setattr(hidden, "padded", ones)
    feature_map, pairs = EncoderFeatures(encoder, 3, "cpu"), pairs_of_many_lengths()
    expected_N_D = torch.stack([states_of_one(feature_map, policy, encoder, row) for row in pairs])
    assert (unscaled(feature_map, pairs) - expected_N_D).abs().max() > 1e-2


def test_a_row_does_not_depend_on_its_batch_mates(feature_map: FeatureMap, policy: str, encoder: str) -> None:
    pairs = pairs_of_many_lengths()
    together_N_D = feature_map.features(pairs)
    fresh = (
        PolicyFeatures(PolicyConfig(path=policy), 3, "cpu")
        if isinstance(feature_map, PolicyFeatures)
        else EncoderFeatures(encoder, 3, "cpu")
    )
    fresh.load_state(feature_map.state())
    alone_N_D = torch.cat([fresh.features([row]) for row in reversed(pairs)]).flip(0)
    torch.testing.assert_close(together_N_D, alone_N_D, rtol=0, atol=1e-4)
    assert (together_N_D - alone_N_D.roll(1, 0)).abs().max() > 0.1


class CountingMap(FeatureMap):
    """Features (sum, length, constant) of the response's tokens; remembers every batch it was asked for."""

    def __init__(self, batch: int = 100) -> None:
        super().__init__((3,), batch)
        self.batches: list[tuple[list[int], int]] = []

    def _key(self, prompt: Prompt, response: Response) -> Hashable:
        return prompt.token_ids, response.token_ids

    def _tokens(self, prompt: Prompt, response: Response) -> Row:
        return {"input_ids": list(response.token_ids)}

    def _encode(self, rows: list[Row], length: int) -> Tensor:
        self.batches.append(([len(row["input_ids"]) for row in rows], length))
        return torch.tensor([[sum(row["input_ids"]), len(row["input_ids"]), 7.0] for row in rows])


def of_lengths(*lengths: int) -> list[Pair]:
    return [pair([0], [1] * length) for length in lengths]


def test_batches_are_bounded_and_never_mix_padded_lengths() -> None:
    counting = CountingMap(batch=2)
    raw_N_D = unscaled(counting, of_lengths(40, 3, 17, 16, 1, 33, 9))
    assert raw_N_D[:, 1].round().tolist() == [40, 3, 17, 16, 1, 33, 9]  # in the order asked for
    assert [length for _, length in counting.batches] == [16, 16, 32, 48]
    assert all(length - 16 < row <= length for rows, length in counting.batches for row in rows)
    assert max(len(rows) for rows, _ in counting.batches) == 2


def test_the_first_call_sets_the_scale_and_later_calls_keep_it() -> None:
    counting = CountingMap()
    first_N_D = counting.features(of_lengths(1, 2, 3, 6))
    torch.testing.assert_close(first_N_D[:, 1].mean(), torch.tensor(0.0))
    torch.testing.assert_close(first_N_D[:, 1].std(correction=0), torch.tensor(1.0))
    # Mean 3 and deviation √3.5 of the first call.
    later_N_D = counting.features(of_lengths(10, 20))
    torch.testing.assert_close(later_N_D[:, 1], torch.tensor([7.0, 17.0]) / 3.5**0.5)


def test_a_feature_that_did_not_vary_stays_finite_and_small() -> None:
    assert counting_constant(of_lengths(1, 2, 3)).tolist() == [0.0, 0.0, 0.0]
    assert counting_constant(of_lengths(4, 4)).tolist() == [0.0, 0.0]


def counting_constant(pairs: list[Pair]) -> Tensor:
    return CountingMap().features(pairs)[:, 2]


def test_a_saved_scale_is_used_after_resuming() -> None:
    counting, resumed = CountingMap(), CountingMap()
    counting.features(of_lengths(1, 2, 3))
    resumed.load_state(counting.state())
    later = of_lengths(10, 20)
    assert torch.equal(resumed.features(later), counting.features(later))
    assert not torch.equal(CountingMap().features(later), counting.features(later))
    assert CountingMap().state() == {}


def test_a_scale_of_another_dimension_is_refused() -> None:
    with pytest.raises(UnfitState, match=r"features\.mean: is .*\(4,\) and not"):
        CountingMap().load_state({"mean": torch.zeros(4), "deviation": torch.ones(4)})


def test_a_single_first_row_cannot_set_the_scale() -> None:
    with pytest.raises(ValueError, match="two rows"):
        CountingMap().features(of_lengths(3))


def test_no_rows_give_no_features_and_set_no_scale() -> None:
    counting = CountingMap()
    assert counting.features([]).shape == (0, 3)
    assert counting.state() == {}


def test_equal_content_is_encoded_once_whatever_its_ids() -> None:
    counting = CountingMap()
    counting.features([pair([1], [2, 3], "a"), pair([1], [2, 3], "b"), pair([1], [4], "c")])
    assert [len(rows) for rows, _ in counting.batches] == [2]
    counting.features([pair([1], [2, 3], "d"), pair([1], [4], "e")])
    assert [len(rows) for rows, _ in counting.batches] == [2]
    counting.features([pair([5], [2, 3], "a")])
    assert [len(rows) for rows, _ in counting.batches] == [2, 1]


def test_the_cache_is_bounded_and_forgets_the_least_recently_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_CACHE_BYTES", 2 * 3 * 4)  # two rows of three floats
    counting = CountingMap()
    assert unscaled(counting, of_lengths(1, 2, 3))[:, 1].tolist() == pytest.approx([1, 2, 3])
    counting.features(of_lengths(2))
    counting.features(of_lengths(4))  # 3 was used longest ago
    del counting.batches[:]
    counting.features(of_lengths(2, 4))
    assert counting.batches == []
    counting.features(of_lengths(3))
    assert counting.batches == [([3], 16)]


def encoded(encoder: str, row: Pair) -> Tensor:
    feature_map = EncoderFeatures(encoder, 3, "cpu")
    feature_map.load_state({"mean": torch.zeros(12), "deviation": torch.ones(12)})
    return feature_map.features([row])[0]


def test_a_long_prompt_loses_its_beginning_and_keeps_its_end(encoder: str) -> None:
    # 3 special tokens and 4 of the response leave 17 of the prompt's tokens.
    kept, answer = list(range(17)), [30, 31, 32, 33]
    whole_D = encoded(encoder, pair(kept, answer))
    torch.testing.assert_close(encoded(encoder, pair([20] * 9 + kept, answer)), whole_D, rtol=0, atol=1e-5)
    assert not torch.allclose(encoded(encoder, pair(kept + [20] * 9, answer)), whole_D, atol=1e-3)


def test_a_response_longer_than_the_encoder_keeps_its_beginning(encoder: str) -> None:
    kept = list(range(21))
    whole_D = encoded(encoder, pair([], kept))
    torch.testing.assert_close(encoded(encoder, pair([5, 6], [*kept, 30, 31])), whole_D, rtol=0, atol=1e-5)
    assert not torch.allclose(encoded(encoder, pair([5, 6], [30, *kept])), whole_D, atol=1e-3)


def test_a_response_without_tokens_is_refused(policy: str) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        PolicyFeatures(PolicyConfig(path=policy), 3, "cpu").features([pair([1], []), pair([1], [2])])


def broken(directory: Path) -> None:
    (directory / "config.json").write_text("{}")


def encoder_decoder(directory: Path) -> None:
    T5Model(T5Config(vocab_size=8, d_model=8, d_ff=8, d_kv=4, num_heads=2, num_layers=1)).save_pretrained(directory)
    backend = Tokenizer(models.WordLevel({"[PAD]": 0}, unk_token="[PAD]"))
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]").save_pretrained(directory)


@pytest.mark.parametrize(
    ("make", "reason"), [(broken, "no tokenizer could be loaded"), (encoder_decoder, "encoder-decoder")]
)
def test_an_encoder_that_cannot_serve_is_refused_by_its_key(
    make: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=f"posterior.encoder_path={tmp_path}: .*{reason}"):
        EncoderFeatures(str(tmp_path), 3, "cpu")


def room(prompt: str, response: str) -> list[Pair]:
    return [(Prompt("p", prompt, (1,)), Response("r", "p", text, (1,), (0.0,), 0)) for text in (response, "w1")]


def test_roberta_reads_as_many_tokens_as_it_has_positions_for_and_loses_the_rest(tmp_path: Path) -> None:
    """It counts positions from the one after the padding's, so that two of 64 are never used."""
    make_reward_model("roberta", tmp_path)
    words = " ".join(f"w{index % 29}" for index in range(CONTEXT))
    feature_map = EncoderFeatures(str(tmp_path), 3, "cpu")
    feature_map.load_state({"mean": torch.zeros(32), "deviation": torch.ones(32)})
    ids = AutoTokenizer.from_pretrained(tmp_path)(f"{words} w1 w2").input_ids[-(CONTEXT - 2) :]
    with torch.inference_mode():
        states_T_H = AutoModel.from_pretrained(tmp_path).eval()(torch.tensor([ids])).last_hidden_state[0]
    (found_D, _) = feature_map.features(room(words, "w1 w2"))
    torch.testing.assert_close(found_D, states_T_H.mean(0), rtol=0, atol=1e-5)


def test_an_encoder_with_the_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    make_reward_model("bert", tmp_path, vocab_size=20)
    with pytest.raises(UserError, match=r"posterior\.encoder_path=.*the tokenizer has 32 tokens, .* only 20"):
        EncoderFeatures(str(tmp_path), 3, "cpu")


def test_an_encoder_with_damaged_weights_is_refused_on_trial(encoder: str, tmp_path: Path) -> None:
    EncoderFeatures(encoder, 3, "cpu").try_on([Prompt("p", "w1 w2", (1,))])
    model = AutoModel.from_pretrained(encoder)
    model.embeddings.LayerNorm.weight.data[0] = torch.nan
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"posterior\.encoder_path=.*not finite"):
        EncoderFeatures(str(tmp_path), 3, "cpu").try_on([Prompt("p", "w1 w2", (1,))])


def run_config(policy: str, **posterior: Any) -> RunConfig:
    tree = {
        "policy": {"path": policy},
        "prompts": {"path": "unused.jsonl"},
        "posterior": posterior,
        "oracle": {"kind": "world"},
        "budget": {"oracle_queries": 1},
    }
    return parse_config(tree, where="test")


def test_the_configuration_chooses_the_maps(policy: str, encoder: str) -> None:
    def made(**fields: Any) -> Features:
        return features_of(run_config(policy, **fields))

    rows = pairs_of_many_lengths()
    hidden_N_D = made().features(rows)
    encoded_N_D = made(features="encoder", encoder_path=encoder).features(rows)
    assert torch.equal(hidden_N_D, PolicyFeatures(PolicyConfig(path=policy), 256, "cpu").features(rows))
    assert torch.equal(encoded_N_D, EncoderFeatures(encoder, 256, "cpu").features(rows))
    text, both = made(features="text"), made(features="text", encoder_path=encoder)
    assert both.blocks == (*text.blocks, 12)
    assert torch.equal(both.features(rows), torch.cat([text.features(rows), encoded_N_D], dim=1))


def test_the_control_sees_the_hidden_reward_and_nothing_else(policy: str) -> None:
    prompt, good, bad = "plain warm : lamp =>", "lamp .", "um um"
    rows = [(Prompt("p", prompt, (1,)), Response(text, "p", text, (1,), (0.0,), 0)) for text in (good, bad)]
    rewards = [scorer("lexicon", "reward")(prompt, text) for text in (good, bad)]
    features_N_1 = features_of(run_config(policy, features="reward")).features(rows)
    assert features_N_1.flatten().tolist() == pytest.approx([1.0, -1.0] if rewards[0] > rewards[1] else [-1.0, 1.0])


def test_several_maps_resume_together(policy: str, encoder: str) -> None:
    def made() -> Features:
        return features_of(run_config(policy, features="text", encoder_path=encoder))

    first, resumed, rows = made(), made(), pairs_of_many_lengths()
    first.features(rows[:4])
    resumed.load_state(first.state())
    assert torch.equal(resumed.features(rows[4:]), first.features(rows[4:]))
    assert not torch.equal(made().features(rows[4:]), first.features(rows[4:]))
