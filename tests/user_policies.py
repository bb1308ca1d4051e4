"""Tiny random policies of several architectures, with tokenizers whose words are w0, w1, …"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

WORDS = [f"w{index}" for index in range(29)]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of the 29 words, an end token that serves as padding, and an unknown token."""
    vocabulary = {word: index for index, word in enumerate(["<end>", "<pad>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>", unk_token="<unk>")


def make_byte_tokenizer() -> Qwen2Tokenizer:
    """One token for each byte; Qwen policies load with a byte-level tokenizer whatever is saved beside them."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<end>", "<pad>", *letters])}
    return Qwen2Tokenizer(vocab=vocabulary, merges=[], eos_token="<end>", pad_token="<pad>", unk_token="<pad>")


def make_policy(architecture: str, directory: Path, seed: int = 0) -> Path:
    """A random policy of two small layers, saved with its tokenizer in Hugging Face format."""
    torch.manual_seed(seed)
    tokenizer = make_byte_tokenizer() if architecture == "qwen2" else make_tokenizer()
    size = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    size |= {} if architecture == "gpt_neox" else {"num_key_value_heads": 1}
    common = {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    models = {
        "llama": (LlamaForCausalLM, LlamaConfig),
        "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig),
        "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    }
    model_class, config_class = models[architecture]
    # Larger initial weights than usual, so that different prompts give visibly different distributions.
    model = model_class(config_class(**size, **common, **ends, initializer_range=0.3))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
