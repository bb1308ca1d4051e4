"""Writing a policy as a Hugging Face directory from its weights alone, whatever engine holds the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict


def save_pretrained(directory: str | Path, model: Any, tokenizer: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write safetensors, model and generation configuration, and the tokenizer.

    Loads with ``AutoModelForCausalLM.from_pretrained(directory)``. ``model`` gives its configurations only.
    """
    Path(directory).mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(dict(tensors), directory, metadata={"format": "pt"})
    model.config.save_pretrained(directory)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
