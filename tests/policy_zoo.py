"""Tiny random policies of many architectures, which differ in names, ties, buffers, experts and positions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from user_policies import make_tokenizer

from sea_agent.weights import saved_buffers

CONTEXT = 48
_USUAL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
}
_GROUPED = _USUAL | {"num_key_value_heads": 1}
_HEADED = _GROUPED | {"head_dim": 16}
_GEMMA = _HEADED | {"query_pre_attn_scalar": 16, "sliding_window": 16}
_HEADS = ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT}
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
_EXPERTS |= {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
_DEEPSEEK = _USUAL | _EXPERTS | {"num_key_value_heads": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
_DEEPSEEK |= {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
_GATED = _LINEAR | {f"linear_{name}": size for name, size in zip(_HEADS, (2, 2, 8, 8), strict=True)}
_JAMBA = {"mamba_d_state": 4, "mamba_dt_rank": 4, "attn_layer_period": 2, "expert_layer_period": 2}
_JAMBA |= {"attn_layer_offset": 1, "expert_layer_offset": 1, "num_experts": 2}
_OPT = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 2}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _GROUPED),
    "llama tied": ("llama", _GROUPED | {"tie_word_embeddings": True}),
    "qwen2 tied": ("qwen2", _GROUPED | {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", _HEADED),
    "mistral": ("mistral", _HEADED),
    "gemma2": ("gemma2", _GEMMA),
    "gemma3 untied": ("gemma3_text", _GEMMA | {"tie_word_embeddings": False}),
    "gpt_neox": ("gpt_neox", _USUAL),
    "gpt2": ("gpt2", _GPT),
    "phi": ("phi", _USUAL),
    "phi3": ("phi3", _GROUPED),
    "opt": ("opt", _OPT | {"max_position_embeddings": CONTEXT}),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 2}),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 2, "expansion_ratio": 2, "max_seq_len": CONTEXT}),
    "falcon": ("falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}),
    "cohere": ("cohere", _GROUPED),
    "mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "mixtral": ("mixtral", _GROUPED | _EXPERTS),
    "qwen2_moe": ("qwen2_moe", _GROUPED | _EXPERTS),
    "qwen3_moe": ("qwen3_moe", _HEADED | _EXPERTS),
    "deepseek_v3": ("deepseek_v3", _DEEPSEEK),
    "gpt_oss": ("gpt_oss", _HEADED | _EXPERTS),
    "qwen3_next": ("qwen3_next", _HEADED | _EXPERTS | _GATED),
    "jamba": ("jamba", _GROUPED | _JAMBA),
    "rwkv": ("rwkv", {"hidden_size": 32, "num_hidden_layers": 2, "context_length": CONTEXT}),
}
"""Model type and settings of its configuration."""

ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "minimax": ("minimax", _HEADED | _EXPERTS | _LINEAR),
    "roberta": ("roberta", _USUAL | {"is_decoder": True}),
}
"""What transformers computes with its cache otherwise than without, whatever else is in the batch."""


def random_model(architecture: str, dtype: str = "float32", **settings: Any) -> PreTrainedModel:
    """A random model over the words of ``make_tokenizer``; every saved tensor differs from what a new model has."""
    model_type, shape = (ARCHITECTURES | ODD)[architecture]
    tokenizer = make_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = CONFIG_MAPPING[model_type](**{"vocab_size": len(tokenizer)} | shape | ends | settings)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        for _, tensor in [*model.named_parameters(), *saved_buffers(model)]:
            tensor.add_(torch.randn(tensor.shape).to(tensor.dtype), alpha=0.1)
    return model.eval()


def make_policy_of(architecture: str, directory: Path, dtype: str = "float32", **settings: Any) -> Path:
    """A random policy, saved with its tokenizer."""
    random_model(architecture, dtype, **settings).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


def make_endless_policy(directory: Path) -> Path:
    """A random policy that never ends a response."""
    model, tokenizer = random_model("phi", max_position_embeddings=100_000), make_tokenizer()
    with torch.no_grad():
        model.lm_head.bias[tokenizer.eos_token_id] = -1e4
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def layout(directory: Path) -> dict[str, tuple[list[int], str]]:
    """Shape and dtype of every tensor in the files of a model."""
    found = {}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        found |= {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}
    return found


@torch.inference_mode()
def plain_logprobs(model: Any, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
    """One unpadded, uncached forward pass of transformers."""
    logits_L_V = model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0].float()
    picked = logits_L_V.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(response)[:, None])
    return picked[:, 0].tolist()


@torch.inference_mode()
def plain_greedy(model: Any, prompt: Sequence[int], end: int, most: int) -> tuple[int, ...]:
    """The likeliest next token, one unpadded, uncached forward pass after the other."""
    tokens: list[int] = []
    while len(tokens) < most and end not in tokens:
        logits_V = model(input_ids=torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0, -1]
        tokens.append(int(logits_V.argmax()))
    return tuple(tokens)
