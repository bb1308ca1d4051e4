"""Trains the models of the world ``reviews`` on one core: the tokenizer, the policy, and what scores texts.

Dimension letters: B batch, L tokens, V vocabulary, D width, C channels.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import eigsh
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from sea_agent.seeding import generator_for
from sea_agent.worlds.reviews import WORD
from sea_agent.worlds.train import new_policy, seeded

Rows = NDArray[np.int64]
VOCABULARY = 4096
WIDTH = 128
END_OF_WORD = "</w>"
BATCH = 64
WINDOW = 2
"""How far apart two tokens are neighbours when their embeddings begin."""
EMBEDDING_SCALE = 0.04
"""Standard deviation of the first embeddings; they are the output layer, too, and larger ones begin too certain."""
MUON_RATE = 0.02
EMBEDDING_RATE = 2.5e-3


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A BPE tokenizer of lower-case words, whose last piece is marked: after a whole word no piece continues it.

    ``<s>`` precedes every text and nothing follows it, so that a response can.
    """
    counts = Counter(word for text in texts for word in text.split())
    letters = sorted({letter for word in counts for letter in word})
    named = ["<pad>", "<unk>", "<s>", "</s>"]
    pieces = [*named, *letters, *(letter + END_OF_WORD for letter in letters)]
    merges = learn_merges(counts, VOCABULARY - len(pieces))
    pieces += [one + two for one, two in merges]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", end_of_word_suffix=END_OF_WORD))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(WORD.pattern), "isolated")]
    )
    core.decoder = decoders.BPEDecoder(suffix=END_OF_WORD)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def learn_merges(counts: Mapping[str, int], number: int) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al., 2016): the most frequent pair of neighbouring pieces, again and again.

    Of equally frequent pairs the first in the alphabet is merged, so that the same texts give the same merges
    everywhere; the trainer of the library tokenizers leaves that to chance where ends of words are marked.
    """
    words = [[*word[:-1], word[-1] + END_OF_WORD] for word in counts]
    times = list(counts.values())
    frequency: Counter[tuple[str, str]] = Counter()
    places: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for place, pieces in enumerate(words):
        for pair in pairwise(pieces):
            frequency[pair] += times[place]
            places[pair].add(place)
    queue = [(-count, pair) for pair, count in frequency.items()]
    heapify(queue)
    merges: list[tuple[str, str]] = []
    while queue and len(merges) < number:
        count, pair = heappop(queue)
        if -count != frequency[pair]:
            continue  # counted anew since
        merges.append(pair)
        changed: set[tuple[str, str]] = set()
        for place in places.pop(pair):
            before, words[place] = words[place], _merged(words[place], pair)
            for sign, pieces in ((-1, before), (1, words[place])):
                for found in pairwise(pieces):
                    frequency[found] += sign * times[place]
                    changed.add(found)
                    if sign > 0:
                        places[found].add(place)
        for found in changed:
            if frequency[found] > 0:
                heappush(queue, (-frequency[found], found))
    return merges


def _merged(pieces: Sequence[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        # A piece that was merged just now is no part of another merge.
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def neighbour_axes(rows: Sequence[Sequence[int]], vocabulary: int, width: int) -> NDArray[np.float32]:
    """(V, D) principal axes of the positive pointwise mutual information of neighbouring tokens.

    Similar tokens have similar neighbours (Levy and Goldberg, 2014), so training begins with much of what it would
    need many texts to find.
    """
    flat = np.concatenate([[*row, *[-1] * WINDOW] for row in rows])
    counts = sparse.csr_matrix((vocabulary, vocabulary))
    for apart in range(1, WINDOW + 1):
        one, two = flat[:-apart], flat[apart:]
        both = (one >= 0) & (two >= 0)
        ones = np.ones(int(both.sum()))
        counts = counts + sparse.csr_matrix((ones, (one[both], two[both])), shape=counts.shape)
    found = sparse.coo_matrix(counts + counts.T)
    total_V = np.asarray(found.sum(1)).ravel()
    # Counts to the power of .75 keep rare neighbours from looking informative.
    context_V = total_V**0.75
    information = np.log(found.data * context_V.sum() / (total_V[found.row] * context_V[found.col]))
    positive = sparse.csr_matrix((np.maximum(information, 0), (found.row, found.col)), shape=found.shape)
    symmetric = (positive + positive.T) / 2
    start = generator_for("reviews", "axes").normal(size=vocabulary)
    strength_D, axes_V_D = eigsh(symmetric, k=width, which="LA", v0=start)
    axes_V_D = axes_V_D * np.sqrt(np.maximum(strength_D, 0))
    return (axes_V_D / (axes_V_D.std() + 1e-12)).astype(np.float32)


class Muon(torch.optim.Optimizer):
    """Momentum whose step for a matrix is made orthogonal by Newton-Schulz iterations (Jordan et al., 2024)."""

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; matrices of one shape are made orthogonal together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for matrix in group["params"]:
                shapes.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in shapes.items():
                steps = []
                for matrix in matrices:
                    assert matrix.grad is not None
                    speed = self.state[matrix].setdefault("speed", torch.zeros_like(matrix))
                    speed.lerp_(matrix.grad, 1 - group["momentum"])
                    steps.append(matrix.grad.lerp(speed, group["momentum"]))
                scale = group["lr"] * math.sqrt(max(1, shape[0] / shape[1]))
                for matrix, step in zip(matrices, _orthogonal(torch.stack(steps)), strict=True):
                    matrix.sub_(step, alpha=scale)


def _orthogonal(matrices: Tensor) -> Tensor:
    """Matrices with nearly the same singular vectors and singular values near 1."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def train_policy(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], seed: int, steps: int) -> LlamaForCausalLM:
    """A small language model of sentences, from the axes of neighbouring tokens on."""
    rows = closed_rows(tokenizer, texts)
    with seeded("reviews", "policy", seed):
        policy = new_policy(
            tokenizer,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
            tie_word_embeddings=True,
        )
        embeddings = policy.get_input_embeddings().weight
        with torch.no_grad():
            embeddings.copy_(EMBEDDING_SCALE * torch.from_numpy(neighbour_axes(rows, *embeddings.shape)))
        matrices = [weight for weight in policy.model.layers.parameters() if weight.ndim == 2]
        others = [embeddings, *(weight for weight in policy.parameters() if weight.ndim == 1)]
        optimizers = [
            Muon(matrices, lr=MUON_RATE),
            torch.optim.AdamW(others, lr=EMBEDDING_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]

        def loss(batch: Rows) -> Tensor:
            return sentence_loss(policy, [rows[i] for i in batch])

        policy.train()
        fit(loss, optimizers, batches(rows, steps, BATCH, "reviews", "policy batches", seed), steps)
    return policy.eval()


def closed_rows(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, with the token that opens it and the one that ends it."""
    return [[*ids, tokenizer.eos_token_id] for ids in tokenizer(list(texts)).input_ids]


def sentence_loss(policy: LlamaForCausalLM, rows: Sequence[Sequence[int]]) -> Tensor:
    """Mean negative log-likelihood of a token, the end included, in nats."""
    tokens_B_L, mask_B_L = padded(rows)
    # Padding is on the right, where causal attention hides it from real tokens, and gets no logits.
    hidden_B_L_D = policy.model(input_ids=tokens_B_L[:, :-1]).last_hidden_state
    asked_B_L = mask_B_L[:, 1:]
    return F.cross_entropy(policy.lm_head(hidden_B_L_D[asked_B_L]), tokens_B_L[:, 1:][asked_B_L])


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids (B, L), filled up with zeros, and where they are real."""
    lengths_B = torch.tensor([len(row) for row in rows])
    mask_B_L = torch.arange(int(lengths_B.max())) < lengths_B[:, None]
    tokens_B_L = torch.zeros(mask_B_L.shape, dtype=torch.long)
    tokens_B_L[mask_B_L] = torch.tensor([token for row in rows for token in row])
    return tokens_B_L, mask_B_L


def batches(rows: Sequence[Sequence[int]], count: int, size: int, *key: int | str) -> Iterator[Rows]:
    """``count`` batches of ``size`` rows of like length, epoch after epoch, in random order."""
    rng = generator_for(*key)
    lengths = np.array([len(row) for row in rows])
    given = 0
    while given < count:
        # Rows of like length in random order: little padding, and no order within an epoch.
        order = np.lexsort((rng.random(len(lengths)), lengths))
        starts = rng.permutation(range(0, len(order), size))
        for start in starts[: count - given]:
            given += 1
            yield order[start : start + size]


def fit(
    loss: Callable[[Rows], Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    rows: Iterable[Rows],
    steps: int,
) -> None:
    """Steps on each batch of ``rows``, with rates that rise during the first twentieth and fall to zero."""
    warmup = max(1, steps // 20)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / warmup, 1 - step / steps))
        for optimizer in optimizers
    ]
    for batch in rows:
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss(batch).backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
