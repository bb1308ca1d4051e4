"""Writing a policy as a Hugging Face directory from its weights alone, whatever engine holds the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from transformers import GenerationConfig


def save_pretrained(directory: str | Path, model: Any, tokenizer: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write safetensors, model configuration, the special tokens of generation, and the tokenizer.

    Loads with ``AutoModelForCausalLM.from_pretrained(directory)``. ``model`` gives its configurations only.
    """
    Path(directory).mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(dict(tensors), directory, metadata={"format": "pt"})
    model.config.save_pretrained(directory)
    settings = model.generation_config
    if settings is not None:
        # The tokens alone: a policy may come with sampling settings that transformers loads but refuses to save.
        GenerationConfig(
            bos_token_id=settings.bos_token_id, eos_token_id=settings.eos_token_id, pad_token_id=settings.pad_token_id
        ).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
