"""Writes a policy as a Hugging Face directory from its weights, independently of the engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from transformers import GenerationConfig

_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def save_pretrained(directory: str | Path, model: Any, tokenizer: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write safetensors, model configuration, the special tokens of generation, and the tokenizer.

    ``AutoModelForCausalLM.from_pretrained(directory)`` loads the result. ``model`` provides only its configurations.
    """
    Path(directory).mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(dict(tensors), directory, metadata={"format": "pt"})
    model.config.save_pretrained(directory)
    if model.generation_config is not None:
        # Only the tokens: transformers loads some sampling settings that it refuses to save.
        tokens = {name: getattr(model.generation_config, name) for name in _SPECIAL_TOKENS}
        GenerationConfig(**tokens).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
