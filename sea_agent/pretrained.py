"""Loading language models and tokenizers from Hugging Face directories, with errors a user can act on."""

import os
from functools import cache
from typing import Any

import torch
from safetensors import SafetensorError

from sea_agent.errors import UserError
from sea_agent.worlds import resolve

# A wrong, broken or foreign path or file is reported by transformers as one of these.
_LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)


@cache
def _transformers() -> Any:
    """The library, which takes seconds to import: a part that loads no model starts without it."""
    import transformers

    transformers.utils.logging.disable_progress_bar()  # the run has a display of its own
    return transformers


def load_tokenizer(path: str, key: str = "policy.path") -> Any:
    """The tokenizer of a model directory or hub name, with a pad token where its end token can serve as one.

    Raises:
        UserError: when there is none; ``key`` names the configuration key that points there.
    """
    directory = resolve(path)
    try:
        tokenizer = _transformers().AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
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
    return load_model(_transformers().AutoModelForCausalLM, path, "policy.path", dtype=dtype).to(device).eval()


def load_model(auto_class: Any, path: str, key: str, *, dtype: str = "float32", unused: str | None = None) -> Any:
    """A model of ``auto_class`` from safetensors, every weight of it from the file but those named ``*unused*``.

    Raises:
        UserError: when nothing fitting can be loaded, or the file lacks weights, which would then be random.
            ``key`` names the configuration key that points there.
    """
    try:
        model, info = auto_class.from_pretrained(
            resolve(path),
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except _LOAD_ERRORS as error:
        raise UserError(
            f"{key}={path}: no model for {auto_class.__name__} could be loaded ({_first_line(error)}). "
            "Give a directory written by model.save_pretrained(DIR) (safetensors)."
        ) from None
    missing = sorted(name for name in info["missing_keys"] if unused is None or unused not in name)
    if missing:
        raise UserError(
            f"{key}={path}: the file lacks {len(missing)} weights of {type(model).__name__}, first {missing[0]}; they "
            "would be random. Give the directory of a whole model of this kind."
        )
    return model


def model_config(path: str) -> Any:
    """The text part of a policy's configuration.

    Raises:
        UserError: when there is none.
    """
    directory = resolve(path)
    try:
        config = _transformers().AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except _LOAD_ERRORS as error:
        raise UserError(
            f"policy.path={path}: no model configuration could be read ({_first_line(error)}). "
            "Give a Hugging Face model directory, with config.json in it, or a hub name."
        ) from None
    return config.get_text_config()


def context_length(path: str) -> int:
    """Longest sequence, prompt and response together, that the policy was built for, in tokens."""
    return int(getattr(model_config(path), "max_position_embeddings", 2**31))


def use_threads(count: int) -> None:
    """Bound the CPU threads of this process."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch.set_num_threads(count)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says that there was no memory left, on the host or on a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch on the host
