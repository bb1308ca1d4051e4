"""Loading language models and tokenizers from Hugging Face directories, with actionable errors."""

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sea_agent.errors import UserError, first_line
from sea_agent.worlds import resolve

UNLIMITED = 2**31
"""The context length of a model without positions to run out of."""

# transformers raises one of these for a path or file that is wrong, broken or not a model.
_LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
# Where configurations keep the context length; MPT and older files of Bloom have names of their own.
_CONTEXT_NAMES = ("max_position_embeddings", "max_seq_len", "max_target_positions", "seq_length")
_ROBERTAS = ("roberta", "roberta-prelayernorm", "camembert", "data2vec-text", "xlm-roberta", "xlm-roberta-xl", "xmod")
"""Models whose first position is the one after that of the padding."""
# How peft loads the adapter of each kind of model; all other keys name reward models.
_MERGED_AS = {"policy.path": ("CausalLM", ""), "posterior.encoder_path": ("FeatureExtraction", "")}


@cache
def _transformers() -> Any:
    """The library, imported late because that takes seconds: a part that loads no model starts without it."""
    import transformers

    transformers.utils.logging.disable_progress_bar()  # the run shows its own progress
    return transformers


def _directory(path: str, key: str) -> str:
    """The directory or hub name of a model.

    Raises:
        UserError: it is neither, or holds an adapter, which is not a whole model.
    """
    directory = resolve(path)
    if not Path(directory).exists():
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(directory)
        except HFValidationError:
            raise UserError(
                f"{key}={path}: no such directory, and no name of a model on the hub (owner/name)."
            ) from None
    try:
        adapter = _transformers().utils.find_adapter_config_file(directory)
    except _LOAD_ERRORS:  # what the name lacks is told by what is loaded from it
        adapter = None
    if adapter is not None:
        kind, options = _MERGED_AS.get(key, ("SequenceClassification", ", num_labels=1"))
        raise UserError(
            f"{key}={path}: it holds an adapter (adapter_config.json), not a whole model. Merge it into its base model "
            "first, and give the new directory:\n"
            f"  model = peft.AutoPeftModelFor{kind}.from_pretrained({path!r}{options}).merge_and_unload()\n"
            "  model.save_pretrained('merged')\n"
            "  transformers.AutoTokenizer.from_pretrained(BASE_MODEL).save_pretrained('merged')"
        )
    if Path(directory).is_dir() and not (Path(directory) / "config.json").exists():
        raise UserError(
            f"{key}={path}: the directory holds no model: config.json is missing. Give a hub name, or a directory "
            "written by model.save_pretrained(DIR) and tokenizer.save_pretrained(DIR)."
        )
    return directory


def load_tokenizer(path: str, key: str = "policy.path") -> Any:
    """The tokenizer of a model directory or hub name. The end token doubles as the pad token if there is none.

    Raises:
        UserError: if no tokenizer can be loaded. ``key`` is the configuration key of ``path``.
    """
    directory = _directory(path, key)
    try:
        tokenizer = _transformers().AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except _LOAD_ERRORS as error:
        raise UserError(
            f"{key}={path}: no tokenizer could be loaded ({first_line(error)}). "
            "Save one next to the model with tokenizer.save_pretrained(DIR)."
        ) from None
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(path: str, dtype: str, device: str) -> Any:
    """A causal language model in evaluation mode, from safetensors only.

    Raises:
        UserError: if the directory holds no loadable causal language model.
    """
    return load_model(_transformers().AutoModelForCausalLM, path, "policy.path", dtype=dtype).to(device).eval()


def load_model(auto_class: Any, path: str, key: str, *, dtype: str = "float32", unused: str | None = None) -> Any:
    """A model of ``auto_class`` from safetensors. All its weights must be in the file, except those named ``*unused*``.

    Raises:
        UserError: if no such model can be loaded, or the file lacks weights, which would be random. ``key`` is the
            configuration key of ``path``.
    """
    directory = _directory(path, key)
    try:
        model, info = auto_class.from_pretrained(
            directory,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except _LOAD_ERRORS as error:
        raise UserError(
            f"{key}={path}: no model for {auto_class.__name__} could be loaded ({first_line(error)}). "
            "Give a directory written by model.save_pretrained(DIR), in safetensors."
        ) from None
    missing = sorted(name for name in info["missing_keys"] if unused is None or unused not in name)
    if missing:
        raise UserError(
            f"{key}={path}: the file lacks {len(missing)} weights of {type(model).__name__}, first {missing[0]}; they "
            "would be random. Give the directory of a complete model of this class."
        )
    return model


def model_config(path: str) -> Any:
    """The configuration of a policy's text model.

    Raises:
        UserError: if it cannot be read.
    """
    directory = _directory(path, "policy.path")
    try:
        config = _transformers().AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except _LOAD_ERRORS as error:
        raise UserError(
            f"policy.path={path}: no model configuration could be read ({first_line(error)}). "
            "Give a hub name or a Hugging Face model directory that contains config.json."
        ) from None
    return config.get_text_config()


def context_length(path: str) -> int:
    """Context length of the policy, in tokens: the longest prompt and response together.

    Some models, such as Bloom and Mamba, have no limit; theirs is ``UNLIMITED``.
    """
    return longest_input(model_config(path))


def longest_input(config: Any) -> int:
    """The most tokens that a model of this configuration of ``transformers`` reads, or ``UNLIMITED``."""
    limits = (getattr(config, name, None) for name in _CONTEXT_NAMES)
    # XLNet writes "none" as -1.
    limit = next((int(limit) for limit in limits if limit is not None and limit > 0), UNLIMITED)
    # RoBERTa and its kin count positions from the one after the padding's.
    return limit - (config.pad_token_id or 0) - 1 if config.model_type in _ROBERTAS else limit


def end_token_ids(path: str, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a response: that of the policy's tokenizer first, then those of its generation settings.

    Raises:
        UserError: there is none, or the model lacks one of them and could never give it.
    """
    named = generation_config(path).eos_token_id
    candidates = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
    found = tuple(dict.fromkeys(token for token in candidates if token is not None))
    for token in found:
        if not isinstance(token, int) or token < 0:
            raise UserError(f"policy.path={path}: the end-of-sequence token {token!r} is no token's number; repair it.")
    if not found:
        raise UserError(
            f"policy.path={path}: neither the tokenizer nor generation_config.json names an end-of-sequence token, so "
            "responses would never end. Set one with tokenizer.eos_token and save the tokenizer again."
        )
    size = model_config(path).vocab_size
    if max(found) >= size:
        raise UserError(
            f"policy.path={path}: the end-of-sequence token {max(found)} of "
            f"{'the tokenizer' if max(found) == tokenizer.eos_token_id else 'generation_config.json'} is outside the "
            f"model, which has only {size} tokens, so no response could end with it. Name an end token of the model, "
            "or call model.resize_token_embeddings(len(tokenizer)) and train the new token."
        )
    return found


def generation_config(path: str) -> Any:
    """The generation settings saved with the policy, or those that transformers derives from its configuration.

    Raises:
        UserError: there are saved ones that cannot be read.
    """
    directory = resolve(path)
    if _file(path, "generation_config.json") is None:
        config = _transformers().AutoConfig.from_pretrained(directory, trust_remote_code=False)
        return _transformers().GenerationConfig.from_model_config(config)
    try:
        return _transformers().GenerationConfig.from_pretrained(directory)
    except (*_LOAD_ERRORS, TypeError, AttributeError) as error:
        raise UserError(
            f"policy.path={path}: generation_config.json cannot be read ({first_line(error)}). It names the tokens "
            "that end a response; repair it, or remove it if the tokenizer's end token is the only one."
        ) from None


def skeleton(path: str, dtype: str) -> Any:
    """The policy without values, on the meta device: names, shapes and ties of its weights."""
    config = _transformers().AutoConfig.from_pretrained(resolve(path), trust_remote_code=False)
    with torch.device("meta"):
        return _transformers().AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))


def missing_prefix(path: str, model: Any) -> str:
    """What the names in the files of the policy lack before those in the loaded model; usually nothing.

    Files of the model below the language-model head, as GPT-2 and Bloom were published, lack ``transformer.``.
    """
    prefix = f"{model.base_model_prefix}."
    in_files = _names_in_files(path)
    names = (name.removeprefix(prefix) for name in model.state_dict(keep_vars=True) if name.startswith(prefix))
    return prefix if any(name in in_files for name in names) else ""


def _names_in_files(path: str) -> set[str]:
    """The names of the tensors in the policy's safetensors."""
    index = _file(path, "model.safetensors.index.json")
    if index is not None:
        return set(json.loads(Path(index).read_text())["weight_map"])
    weights = _file(path, "model.safetensors")
    if weights is None:  # a directory of adapters, whose base transformers loads from elsewhere
        return set()
    with safe_open(weights, "pt") as file:
        return set(file.keys())


def _file(path: str, name: str) -> str | None:
    """Where a file of the policy lies on this machine, fetched from the hub if it comes from there; None without it.

    Without a connection only what was fetched before is there.
    """
    found: str | None = _transformers().utils.cached_file(
        resolve(path),
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found


def input_limit(model: Any, tokenizer: Any) -> int:
    """The most tokens that a model reads at once, as its tokenizer, its configuration and its positions say."""
    limits = [tokenizer.model_max_length, longest_input(model.config.get_text_config())]
    for name, layer in model.named_modules():
        # RoBERTa and its kin count positions from the one after the padding's.
        if name.endswith("position_embeddings") and getattr(layer, "padding_idx", None) is not None:
            limits.append(layer.num_embeddings - layer.padding_idx - 1)
    return min(limits)


def require_own_tokenizer(model: Any, tokenizer: Any, name: str) -> None:
    """Refuse the tokenizer of another model, which has more words than the model. ``name`` is ``key=path``."""
    known = model.get_input_embeddings().num_embeddings
    if tokenizer.vocab_size > known:
        raise UserError(
            f"{name}: the tokenizer has {tokenizer.vocab_size} tokens, but the model has only {known}. Save the "
            "tokenizer that belongs to the model beside it."
        )


def require_embedded(model: Any, tokens: Sequence[int], name: str) -> None:
    """Refuse tokens that the model does not have, such as those added to a tokenizer only. ``name`` is ``key=path``."""
    known, largest = model.get_input_embeddings().num_embeddings, max(tokens, default=0)
    if largest >= known:
        raise UserError(
            f"{name}: the tokenizer makes token {largest}, but the model has only {known} tokens. Save the tokenizer "
            "that belongs to the model beside it."
        )


def model_inputs(model: Any, encoding: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """What the model takes of a tokenizer's encoding: a generic tokenizer also gives types of tokens."""
    taken = inspect.signature(model.forward).parameters
    return {name: values for name, values in encoding.items() if name in taken}


def use_threads(count: int) -> None:
    """Limit the CPU threads of this process."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch.set_num_threads(count)


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error means out of memory, on the host or on a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch on the CPU
