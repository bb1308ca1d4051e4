"""Loading language models and tokenizers from Hugging Face directories, with errors a user can act on."""

import os
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from sea_agent.errors import UserError
from sea_agent.worlds import resolve

# The run has a progress display of its own.
transformers_logging.disable_progress_bar()

# A wrong path or file is reported by transformers as one of these.
_LOAD_ERRORS = (OSError, ValueError, KeyError)


def load_tokenizer(path: str, key: str = "policy.path") -> Any:
    """The tokenizer of a model directory or hub name, with a pad token where its end token can serve as one.

    Raises:
        UserError: when there is none; ``key`` names the configuration key that points there.
    """
    directory = resolve(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
    except _LOAD_ERRORS as error:
        raise UserError(
            f"{key}={path}: no tokenizer could be loaded ({_first_line(error)}). "
            "Save one beside the model with tokenizer.save_pretrained(DIR)."
        ) from None
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(path: str, dtype: str, device: str) -> Any:
    """A causal language model in evaluation mode, safetensors only.

    Raises:
        UserError: when the directory holds no loadable causal language model.
    """
    directory = resolve(path)
    try:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype), use_safetensors=True)
    except _LOAD_ERRORS as error:
        raise UserError(
            f"policy.path={path}: no causal language model could be loaded ({_first_line(error)}). "
            "Give a directory written by model.save_pretrained(DIR) (safetensors)."
        ) from None
    return model.to(device).eval()


def context_length(path: str) -> int:
    """Longest sequence, prompt and response together, that the policy was built for, in tokens."""
    directory = resolve(path)
    try:
        config = AutoConfig.from_pretrained(directory)
    except _LOAD_ERRORS as error:
        raise UserError(
            f"policy.path={path}: no model configuration could be read ({_first_line(error)}). "
            "Give a Hugging Face model directory, with config.json in it, or a hub name."
        ) from None
    return int(getattr(config.get_text_config(), "max_position_embeddings", 2**31))


def use_threads(count: int) -> None:
    """Bound the CPU threads of this process."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch.set_num_threads(count)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
