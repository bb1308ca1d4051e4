"""Making every file of a built-in world: prompts, demonstrations, tokenizer, policy and, where it has one, encoder.

Data files are the same bytes on every machine. Weights are the same on one machine and behave the same on
others, whose arithmetic may round differently.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from sea_agent.worlds import lexicon, world
from sea_agent.worlds.train import new_policy, seeded, train_encoder, train_policy

TRAINING_PROMPTS = 2048
HELD_OUT_PROMPTS = 512
DEMONSTRATIONS = 40_000
SHIPPED_DEMONSTRATIONS = 1024
"""Demonstrations written to the world, the first of those that the policy learnt from."""
POLICY_STEPS = {"lexicon": 2000, "kitchen": 4500}
"""Supervised steps of each world's policy: copying takes longer to learn where other words come between the copies."""
ENCODER_STEPS = 1800


def make_world(name: str, out_dir: Path, seed: int = 0) -> None:
    """Write a whole world to ``out_dir``; takes about two minutes on one core.

    ``seed`` draws other prompts, demonstrations and weights; the hidden reward and the judge stay the same. An encoder
    is made for a world that has ``attributes`` for it to learn.

    Raises:
        UserError: when there is no world of that name.
    """
    source = world(name)
    prompts = source.make_prompts(TRAINING_PROMPTS + HELD_OUT_PROMPTS, seed)
    demonstrations = source.make_demonstrations(DEMONSTRATIONS, seed)
    out_dir.mkdir(parents=True, exist_ok=True)
    _write_prompts(out_dir / "prompts.jsonl", prompts[:TRAINING_PROMPTS])
    _write_prompts(out_dir / "heldout.jsonl", prompts[TRAINING_PROMPTS:])
    _write_jsonl(
        out_dir / "demonstrations.jsonl",
        ({"prompt": prompt, "response": response} for prompt, response in demonstrations[:SHIPPED_DEMONSTRATIONS]),
    )

    tokenizer = policy_tokenizer(source.WORDS)
    tokenizer.save_pretrained(out_dir / "policy")
    train_policy(tokenizer, demonstrations, seed, POLICY_STEPS[name]).save_pretrained(out_dir / "policy")
    if hasattr(source, "attributes"):
        pair_tokenizer = encoder_tokenizer(source.WORDS)
        attributes_N_A = np.array([source.attributes(*pair) for pair in demonstrations])
        pair_tokenizer.save_pretrained(out_dir / "encoder")
        train_encoder(pair_tokenizer, demonstrations, attributes_N_A, seed, ENCODER_STEPS).save_pretrained(
            out_dir / "encoder"
        )


def make_speed_setting(out_dir: Path, seed: int = 0) -> None:
    """Write a larger setting for speed work: a random policy of about 3 M parameters and prompts of 40 words.

    Nothing in it has learnt anything: its responses are random words, about 80 of them until one ends by chance.
    """
    tokenizer = policy_tokenizer(lexicon.WORDS)
    out_dir.mkdir(parents=True, exist_ok=True)
    _write_prompts(out_dir / "prompts.jsonl", lexicon.make_prompts(512, seed, nouns=36))
    tokenizer.save_pretrained(out_dir / "policy")
    with seeded("speed setting", seed):
        policy = new_policy(
            tokenizer,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
        )
    policy.save_pretrained(out_dir / "policy")


def policy_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token a word; ``<s>`` goes before every text and nothing after it, so a response can follow."""
    return _tokenizer(words, bos_token="<s>", eos_token="</s>", single="<s> $A", pair="<s> $A $B")


def encoder_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token a word; a prompt and a response are read as ``[CLS] prompt [SEP] response [SEP]``, types 0 and 1."""
    return _tokenizer(
        words,
        cls_token="[CLS]",
        sep_token="[SEP]",
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _tokenizer(
    words: Iterable[str], single: str, pair: str, model_input_names: list[str] | None = None, **named: str
) -> PreTrainedTokenizerFast:
    special = ["<pad>", "<unk>", *named.values()]
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, vocabulary[token]) for token in named.values()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        model_input_names=model_input_names or ["input_ids", "attention_mask"],
        # Otherwise decoding would join the full stop, a word of its own here, to the word before it.
        clean_up_tokenization_spaces=False,
        **named,
    )


def _write_prompts(path: Path, prompts: Iterable[str]) -> None:
    _write_jsonl(path, ({"prompt": prompt} for prompt in prompts))


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
