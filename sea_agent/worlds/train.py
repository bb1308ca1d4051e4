"""Trains the small models of a built-in world on one core, deterministically given the seed.

Dimension letters: B batch, N training texts, L tokens, D hidden width, A attributes, R random rewards.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import ElectraConfig, ElectraModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sea_agent.seeding import generator_for, seed_for

IGNORED = -100
BATCH = 32
RANDOM_REWARDS = 128


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Run the block on one thread with torch's global generator seeded by ``key``; restore both afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(*key))
            yield
    finally:
        torch.set_num_threads(threads)


def new_policy(tokenizer: PreTrainedTokenizerFast, tie_word_embeddings: bool = False, **shape: int) -> LlamaForCausalLM:
    """A randomly initialised Llama-style policy for this tokenizer; ``shape`` holds sizes of ``LlamaConfig``."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attention_dropout=0.0,
        tie_word_embeddings=tie_word_embeddings,
        dtype="float32",
        **shape,
    )
    return LlamaForCausalLM(config)


def train_policy(
    tokenizer: PreTrainedTokenizerFast, demonstrations: Sequence[tuple[str, str]], seed: int, steps: int
) -> LlamaForCausalLM:
    """Supervised training of a small policy on the responses of (prompt, response) demonstrations."""
    tokens_N_L, labels_N_L = _demonstration_tokens(tokenizer, demonstrations)
    with seeded("policy", seed):
        policy = new_policy(
            tokenizer,
            hidden_size=64,
            intermediate_size=168,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )

        def loss(rows: Tensor) -> Tensor:
            return _response_loss(policy, tokens_N_L[rows], labels_N_L[rows])

        _fit(policy, loss, len(demonstrations), steps, 2.5e-3, "policy batches", seed)
    return policy.eval()


def train_encoder(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[tuple[str, str]],
    attributes_N_A: NDArray[np.float64],
    seed: int,
    steps: int,
) -> ElectraModel:
    """A small cross-encoder of (prompt, response), trained on random rewards over generic attributes.

    Its mean hidden state over all attended tokens learns to predict random linear mixtures of standardised attributes
    through a linear head, which is discarded.
    """
    prompts, responses = zip(*texts, strict=True)
    batch = dict(tokenizer(list(prompts), list(responses), padding=True, return_tensors="pt"))
    rewards_N_R = torch.tensor(_random_rewards(attributes_N_A, seed), dtype=torch.float32)
    with seeded("encoder", seed):
        encoder = ElectraModel(
            ElectraConfig(
                vocab_size=len(tokenizer),
                pad_token_id=tokenizer.pad_token_id,
                embedding_size=64,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=64,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
        head = nn.Linear(64, RANDOM_REWARDS)

        def loss(rows: Tensor) -> Tensor:
            inputs = {name: values[rows] for name, values in batch.items()}
            hidden_B_L_D = encoder(**inputs).last_hidden_state
            mask_B_L_1 = inputs["attention_mask"].unsqueeze(-1)
            pooled_B_D = (hidden_B_L_D * mask_B_L_1).sum(1) / mask_B_L_1.sum(1)
            return F.mse_loss(head(pooled_B_D), rewards_N_R[rows])

        _fit(nn.ModuleList([encoder, head]), loss, len(texts), steps, 6e-3, "encoder batches", seed)
    return encoder.eval()


def held_out_loss(
    policy: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, demonstrations: Sequence[tuple[str, str]]
) -> float:
    """Mean negative log-likelihood of a response token, in nats."""
    tokens_N_L, labels_N_L = _demonstration_tokens(tokenizer, demonstrations)
    with torch.no_grad():
        return _response_loss(policy, tokens_N_L, labels_N_L).item()


def _response_loss(policy: LlamaForCausalLM, tokens_B_L: Tensor, labels_B_L: Tensor) -> Tensor:
    # No mask: padding is on the right, where causal attention hides it from real tokens.
    logits_B_L_V = policy(input_ids=tokens_B_L).logits
    return F.cross_entropy(logits_B_L_V[:, :-1].flatten(0, 1), labels_B_L[:, 1:].flatten(), ignore_index=IGNORED)


def _fit(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    examples: int,
    steps: int,
    learning_rate: float,
    *key: int | str,
) -> None:
    """AdamW with a short warm-up and cosine decay to zero, on random batches keyed by ``key``."""
    rng = generator_for(*key)
    warmup = max(1, steps // 20)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))
    )
    model.train()
    for _ in range(steps):
        value = loss(torch.from_numpy(rng.integers(examples, size=BATCH)))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _demonstration_tokens(
    tokenizer: PreTrainedTokenizerFast, demonstrations: Sequence[tuple[str, str]]
) -> tuple[Tensor, Tensor]:
    """Token ids and labels, each (N, L), of the prompt as any caller tokenises it, the response and the end token."""
    prompts, responses = zip(*demonstrations, strict=True)
    heads = tokenizer(list(prompts)).input_ids
    tails = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(list(responses), add_special_tokens=False).input_ids]
    tokens = [torch.tensor(head + tail) for head, tail in zip(heads, tails, strict=True)]
    labels = [torch.tensor([IGNORED] * len(head) + tail) for head, tail in zip(heads, tails, strict=True)]
    return pad_sequence(tokens, True, tokenizer.pad_token_id), pad_sequence(labels, True, IGNORED)


def _random_rewards(attributes_N_A: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """(N, R) standardised random mixtures of the attributes."""
    rng = generator_for("random rewards", seed)
    deviation_A = attributes_N_A.std(0)
    standard_N_A = (attributes_N_A - attributes_N_A.mean(0)) / np.where(deviation_A > 0, deviation_A, 1.0)
    mixtures_N_R = standard_N_A @ rng.normal(size=(attributes_N_A.shape[1], RANDOM_REWARDS))
    return (mixtures_N_R - mixtures_N_R.mean(0)) / mixtures_N_R.std(0)
