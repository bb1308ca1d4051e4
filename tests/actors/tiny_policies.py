"""Tiny policies with a word-level tokenizer, requests for them, and what their samplers must agree with."""

from collections.abc import Sequence
from pathlib import Path

import torch
from scipy import stats
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from actors.sampling import SampleRequest
from sea_agent.config import PolicyConfig
from sea_agent.seeding import seed_for
from sea_agent.types import Prompt, Response
from sea_agent.weights import WeightUpdate, checksum

VOCABULARY = 48
PAD, END = 0, 1


def _config(architecture: str, tied: bool) -> PreTrainedConfig:
    shared = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": END,
        "pad_token_id": PAD,
    }
    match architecture:
        case "llama":
            return LlamaConfig(**shared, num_key_value_heads=1)
        case "qwen2":
            return Qwen2Config(**shared, num_key_value_heads=1)
        case "gpt_neox":
            return GPTNeoXConfig(**shared)
        case "gemma2":  # vLLM's class has no head of its own
            # It scales its embeddings: with the weights of the others it would be certain of every token.
            own = {"initializer_range": 0.1, "final_logit_softcapping": None, "attn_logit_softcapping": None}
            return Gemma2Config(**(shared | own), num_key_value_heads=1, head_dim=32)
        case "gpt_neo":  # vLLM has no class for it, and cannot run that of transformers
            return GPTNeoConfig(**shared, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]])
    raise ValueError(architecture)


def save_policy(directory: Path, architecture: str, tied: bool) -> None:
    words = {"<pad>": PAD, "</s>": END} | {f"w{index}": index for index in range(2, VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w2"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="w2")
    fast.save_pretrained(directory)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(_config(architecture, tied))
    # A published policy often ships sampling settings; none of them may reach our samples.
    model.generation_config.update(do_sample=True, top_k=3, top_p=0.5, temperature=0.3, repetition_penalty=1.7)
    model.save_pretrained(directory)


def request(
    name: str, prompt: Sequence[int] = (5, 6, 7), seed: int = 0, temperature: float = 0.7, max_new_tokens: int = 12
) -> SampleRequest:
    """A request whose prompt is given as token ids."""
    text = " ".join(f"w{token}" for token in prompt)
    return SampleRequest(name, Prompt(f"prompt-{name}", text, tuple(prompt)), seed, temperature, max_new_tokens)


def varied_requests(count: int) -> list[SampleRequest]:
    """Requests with prompts of 1 to 7 tokens, in no order of length."""
    return [
        request(f"r{index}", [2 + (index * 7 + step) % 40 for step in range(1 + index * 5 % 7)], seed_for("r", index))
        for index in range(count)
    ]


def perturbed(policy: PolicyConfig, version: int, scale: float = 0.05) -> tuple[WeightUpdate, torch.nn.Module]:
    """A weight update with noise on every parameter, and a transformers model that holds the same weights."""
    model = AutoModelForCausalLM.from_pretrained(policy.path, dtype=torch.float32).eval()
    noise = torch.Generator().manual_seed(version)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=noise))
    tensors = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    return WeightUpdate(version, tensors, checksum(tensors)), model


def forward_logprobs(model: torch.nn.Module, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
    """One unpadded, uncached forward pass: what the samplers' log-probabilities must equal."""
    with torch.inference_mode():
        logits_L_V = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
    picked = logits_L_V.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(response)[:, None])
    return picked[:, 0].tolist()


def greedy_tokens(model: torch.nn.Module, request: SampleRequest) -> tuple[int, ...]:
    """The likeliest next token, one unpadded, uncached forward pass after the other."""
    tokens: list[int] = []
    while len(tokens) < request.max_new_tokens and END not in tokens:
        with torch.inference_mode():
            logits_V = model(input_ids=torch.tensor([[*request.prompt.token_ids, *tokens]])).logits[0, -1]
        tokens.append(int(logits_V.argmax()))
    return tuple(tokens)


def by_id(responses: Sequence[Response]) -> dict[str, Response]:
    return {response.id: response for response in responses}


def goodness_of_fit(drawn: Sequence[int], probabilities: torch.Tensor) -> float:
    """p-value of the draws under the probabilities; tokens expected fewer than 5 times are pooled."""
    counts = torch.bincount(torch.tensor(drawn), minlength=len(probabilities)).double()
    expected = probabilities.double() * len(drawn)
    rare = expected < 5
    observed = [*counts[~rare].tolist(), counts[rare].sum().item()]
    wanted = [*expected[~rare].tolist(), expected[rare].sum().item()]
    return float(stats.chisquare(observed, wanted, sum_check=False).pvalue)
