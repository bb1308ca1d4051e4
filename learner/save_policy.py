"""Writes a policy as a Hugging Face directory from its weights, independently of the engine."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig


def save_pretrained(
    directory: str | Path,
    model: Any,
    tokenizer: Any,
    tensors: Mapping[str, torch.Tensor],
    *,
    end_ids: Sequence[int],
    removed_prefix: str,
) -> None:
    """Write safetensors, model configuration, the special tokens of generation, and the tokenizer.

    ``AutoModelForCausalLM.from_pretrained(directory)`` loads the result, as does whatever loaded the directory that
    ``model`` was loaded from: transformers renames, splits and joins some weights when it loads them, such as those of
    experts, and undoes it here. ``model`` provides its configurations and how it was loaded. ``end_ids`` are the tokens
    that end a response; ``removed_prefix`` is what the names of the checkpoint lack (``missing_prefix``).
    """
    described = copy.copy(model)
    settings = model.generation_config
    # Only the tokens: transformers loads some sampling settings that it refuses to save.
    described.generation_config = GenerationConfig(
        bos_token_id=settings.bos_token_id,
        pad_token_id=settings.pad_token_id,
        eos_token_id=end_ids[0] if len(end_ids) == 1 else list(end_ids),
    )
    state_dict = {name.removeprefix(removed_prefix): value for name, value in tensors.items()}
    described.save_pretrained(directory, state_dict=state_dict)
    tokenizer.save_pretrained(directory)
