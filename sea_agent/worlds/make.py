"""Makes every file of a built-in world: prompts, demonstrations, tokenizer, policy and, where it has one, encoder.

Data files are byte-identical on every machine. Weights are bit-identical on one machine; on others, where arithmetic
may round differently, they behave the same.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from sea_agent.worlds import resolve, tastes, world
from sea_agent.worlds.make_reviews import make_reviews
from sea_agent.worlds.train import train_encoder, train_policy
from sea_agent.worlds.words import write_jsonl, write_prompts

TRAINING_PROMPTS = 2048
HELD_OUT_PROMPTS = 512
DEMONSTRATIONS = 40_000
SHIPPED_DEMONSTRATIONS = 1024
"""Demonstrations written to the world: the first ones of the policy's training data."""
POLICY_STEPS = {"lexicon": 2000, "kitchen": 4500}
"""Supervised steps of each world's policy; copying takes longer to learn with other words between the copies."""
ENCODER_STEPS = 1800


def make_world(name: str, out_dir: Path, seed: int = 0, packages: Path = Path()) -> None:
    """Write a complete world to ``out_dir``; takes about two minutes on one core, ``reviews`` about seven.

    ``seed`` determines prompts, demonstrations and weights; the hidden reward and the judge do not depend on it. A
    world with ``attributes`` gets an encoder that learns them. ``reviews`` is made from texts in two packages, which
    the user has fetched into the directory ``packages``. ``tastes`` are the shipped prompts of ``reviews`` again.

    Raises:
        UserError: there is no such world, or a package is missing or not the pinned one.
    """
    source = world(name)
    if name == "reviews":
        make_reviews(out_dir, packages, seed)
        return
    if name == "tastes":
        _make_tastes(out_dir)
        return
    prompts = source.make_prompts(TRAINING_PROMPTS + HELD_OUT_PROMPTS, seed)
    demonstrations = source.make_demonstrations(DEMONSTRATIONS, seed)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_prompts(out_dir / "prompts.jsonl", prompts[:TRAINING_PROMPTS])
    write_prompts(out_dir / "heldout.jsonl", prompts[TRAINING_PROMPTS:])
    shipped = demonstrations[:SHIPPED_DEMONSTRATIONS]
    write_jsonl(out_dir / "demonstrations.jsonl", ({"prompt": prompt, "response": text} for prompt, text in shipped))
    tokenizer = policy_tokenizer(source.WORDS)
    tokenizer.save_pretrained(out_dir / "policy")
    train_policy(tokenizer, demonstrations, seed, POLICY_STEPS[name]).save_pretrained(out_dir / "policy")
    if hasattr(source, "attributes"):
        pair_tokenizer = encoder_tokenizer(source.WORDS)
        attributes_N_A = np.array([source.attributes(*pair) for pair in demonstrations])
        pair_tokenizer.save_pretrained(out_dir / "encoder")  # before training, which leaves padding settings in it
        encoder = train_encoder(pair_tokenizer, demonstrations, attributes_N_A, seed, ENCODER_STEPS)
        encoder.save_pretrained(out_dir / "encoder")


def _make_tastes(out_dir: Path) -> None:
    """Half of the prompts of ``reviews``, each in both tastes."""
    out_dir.mkdir(parents=True, exist_ok=True)
    for file in ("prompts.jsonl", "heldout.jsonl"):
        rows = Path(resolve(f"world://reviews/{file}")).read_text().splitlines()
        beginnings = [json.loads(row)["prompt"] for row in rows[: len(rows) // 2]]
        write_prompts(out_dir / file, tastes.make_prompts(beginnings))


def policy_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token per word; ``<s>`` precedes every text and nothing follows it, so that a response can."""
    return _tokenizer(words, bos_token="<s>", eos_token="</s>", single="<s> $A", pair="<s> $A $B")


def encoder_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token per word; a pair is encoded as ``[CLS] prompt [SEP] response [SEP]`` with token types 0 and 1."""
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
        # Decoding must not join the full stop, a separate word here, to the word before it.
        clean_up_tokenization_spaces=False,
        **named,
    )
