"""Tiny random policies and reward models of several architectures, with tokenizers whose words are w0, w1, …"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
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


DECODERS = ("llama", "qwen2", "qwen3", "gemma", "gpt_neox", "mistral", "gpt2", "opt", "modernbert-decoder")
ENCODERS = ("bert", "roberta", "deberta-v2", "modernbert")
CONTEXT = 64

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('tools are not known') }}{% endif %}"
    "w{{ {'system': 26, 'user': 27, 'assistant': 28}[m.role] }} {{ m.content }} <end>{% endfor %}"
)
"""A word for the role, and the end token after every turn; no tools."""


def make_reward_model(
    architecture: str, directory: Path, tokenizer: Any = None, *, seed: int = 0, outputs: int = 1, **settings: Any
) -> Path:
    """A random classifier of one small layer, saved with a tokenizer. ``settings`` are of its configuration."""
    torch.manual_seed(seed)
    if tokenizer is None:
        tokenizer = make_byte_tokenizer() if architecture == "qwen2" else make_tokenizer()
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    grouped = architecture in ("llama", "qwen2", "qwen3", "gemma", "mistral")
    size |= {"num_key_value_heads": 1, "head_dim": 16} if grouped else {}
    size |= {"word_embed_proj_dim": 32, "ffn_dim": 32} if architecture == "opt" else {}
    common = {"vocab_size": len(tokenizer), "num_labels": outputs}
    common |= {} if architecture == "xlnet" else {"max_position_embeddings": CONTEXT}
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    tokens = {"pad_token_id": tokenizer.pad_token_id, **special}
    # Larger initial weights than usual, so that different texts get visibly different rewards.
    config = AutoConfig.for_model(architecture, **size | common | tokens | {"initializer_range": 0.5} | settings)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
