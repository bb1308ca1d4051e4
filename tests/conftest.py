"""What tests share: tiny policies of several architectures, prompts, and ways to run the command line."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded in tests, and a wrong name is told at once

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

from sea_agent.cli import main

torch.set_num_threads(1)

WORDS = [f"w{index}" for index in range(29)]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of the 29 words, an end token that serves as padding, and an unknown token."""
    vocabulary = {word: index for index, word in enumerate(["<end>", "<pad>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>", unk_token="<unk>"
    )


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


@pytest.fixture(scope="session")
def policy_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``policy_dir("llama")``: directory of a tiny random policy, made once."""
    made: dict[str, Path] = {}

    def get(architecture: str = "llama") -> Path:
        if architecture not in made:
            made[architecture] = make_policy(architecture, tmp_path_factory.mktemp(architecture))
        return made[architecture]

    return get


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows to a JSONL file and return its path."""

    def write(rows: list[dict], name: str = "prompts.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def sea_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """Run the command line in this process, from ``tmp_path``."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Finished:
        monkeypatch.setattr(sys, "argv", ["sea-agent", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return Finished(int(stop.value.code or 0), *capsys.readouterr())

    return run
