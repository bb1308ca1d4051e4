"""Trains the scorers of the world ``reviews``: a network on stars and people's marks, and hashed words on stars.

Dimension letters: N texts, B batch, L tokens, D width, C channels, F buckets.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy import optimize, sparse
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from sea_agent.seeding import generator_for
from sea_agent.worlds.review_texts import Marked, Starred
from sea_agent.worlds.reviews import buckets
from sea_agent.worlds.train import seeded
from sea_agent.worlds.train_reviews import Rows, batches, fit, neighbour_axes, padded

WIDTH, CHANNELS, TOGETHER = 40, 64, 3
BATCH = 64
FRAGMENT = 16
"""Words of a review from which on its next sentence begins another text of the network's."""
PRECISION = 0.02
"""Of the Gaussian prior of a word's weight."""


class TextNetwork(nn.Module):
    """``reviews.Network`` as it is trained: the score (B,) of rows of tokens."""

    def __init__(self, axes_V_D: NDArray[np.float32]) -> None:
        super().__init__()
        self.embeddings = nn.Embedding.from_pretrained(torch.from_numpy(axes_V_D), freeze=False)
        self.filters = nn.Conv1d(axes_V_D.shape[1], CHANNELS, TOGETHER, padding=TOGETHER // 2)
        self.last = nn.Linear(2 * CHANNELS, 1, bias=False)
        nn.init.zeros_(self.last.weight)

    def forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Padding counts as nothing: zeros beside a text, and no activation."""
        tokens_B_L, mask_B_L = padded(rows)
        mask_B_1_L = mask_B_L[:, None]
        inputs_B_D_L = F.dropout(self.embeddings(tokens_B_L), 0.1, self.training).mT * mask_B_1_L
        active_B_C_L = torch.relu(self.filters(inputs_B_D_L)) * mask_B_1_L
        pooled = (active_B_C_L.amax(2), active_B_C_L.sum(2) / mask_B_1_L.sum(2))
        return self.last(F.dropout(torch.cat(pooled, 1), 0.2, self.training)).squeeze(1)

    def save(self, path: Path, scale: float) -> None:
        """Write what ``reviews.Network`` loads, in 16 bits."""
        filters_C_D_K = self.filters.weight
        tensors = {
            "embeddings_V_D": self.embeddings.weight,
            "filters_KD_C": filters_C_D_K.permute(2, 1, 0).reshape(-1, CHANNELS),
            "bias_C": self.filters.bias,
            "weights_2C": self.last.weight[0],
            "scale": torch.tensor([scale]),
        }
        save_file({name: np.ascontiguousarray(value.detach().half().numpy()) for name, value in tensors.items()}, path)


def train_network(
    tokenizer: PreTrainedTokenizerFast, reviews: Sequence[Starred], marked: Sequence[Marked], epochs: tuple[int, int]
) -> TextNetwork:
    """Fragments of reviews by their stars first, then snippets by people's mean mark; ``epochs`` of each."""
    texts = [(text, float(review.liked)) for review in reviews for text in fragments(review)]
    starred = tokenizer([text for text, _ in texts]).input_ids
    liked_N = torch.tensor([liked for _, liked in texts])
    snippets = tokenizer([" ".join(one.words) for one in marked]).input_ids
    marks_N = torch.tensor([one.marks.mean() for one in marked], dtype=torch.float32)
    with seeded("reviews", "network"):
        network = TextNetwork(0.3 * neighbour_axes(starred, len(tokenizer), WIDTH))

        def by_stars(batch: Rows) -> Tensor:
            return F.binary_cross_entropy_with_logits(network([starred[i] for i in batch]), liked_N[batch])

        def by_marks(batch: Rows) -> Tensor:
            return F.mse_loss(network([snippets[i] for i in batch]), marks_N[batch])

        network.train()
        for loss, rows, rate, times in ((by_stars, starred, 2e-3, epochs[0]), (by_marks, snippets, 1e-3, epochs[1])):
            optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01, fused=True)
            steps = times * -(-len(rows) // BATCH)
            fit(loss, [optimizer], batches(rows, steps, BATCH, "reviews", loss.__name__), steps)
    return network.eval()


def fragments(review: Starred) -> list[str]:
    """A review in pieces of whole sentences, as short as the texts that the network is for."""
    found: list[list[str]] = [[]]
    for sentence in review.sentences:
        if len(found[-1]) >= FRAGMENT:
            found.append([])
        found[-1] += sentence
    return [" ".join(words) for words in found if words]


def logits_of_a_mark(snippets: Sequence[Marked], draws: int = 100_000) -> float:
    """What a difference of one mean mark adds to the log-odds that one person marks one snippet above another.

    A logistic model of single marks, each compared with the mark of another person for another snippet; the means
    leave out the marks that are compared, and equal marks count half for each side.
    """
    rng = generator_for("reviews", "single marks")
    sides = []
    for _ in range(2):
        rows = rng.integers(len(snippets), size=draws)
        marks = [snippets[row].marks for row in rows]
        single_N = np.array([values[int(rng.integers(len(values)))] for values in marks])
        mean_N = np.array([(v.sum() - one) / (len(v) - 1) for v, one in zip(marks, single_N, strict=True)])
        sides.append((single_N, mean_N))
    (one, mean_one), (two, mean_two) = sides
    wins_N, gaps_N = (np.sign(one - two) + 1) / 2, mean_one - mean_two

    def surprise(scale: float) -> float:
        return float(np.mean(np.logaddexp(0, scale * gaps_N) - wins_N * scale * gaps_N))

    return float(optimize.minimize_scalar(surprise, bounds=(0.01, 10.0), method="bounded").x)


def train_words(reviews: Sequence[Starred], count: int, pairs: bool) -> NDArray[np.float64]:
    """(F,) weights of ``reviews.HashedWords``: logistic regression with a Gaussian prior on the stars."""
    rows = [buckets([word for part in review.sentences for word in part], count, pairs) for review in reviews]
    lengths = np.array([len(row) for row in rows])
    values = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    x_N_F = sparse.csr_matrix((values, np.concatenate(rows), starts), (len(rows), count))
    signs_N = np.array([1.0 if review.liked else -1.0 for review in reviews])

    def objective(weights_F: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins_N = signs_N * (x_N_F @ weights_F)
        value = np.logaddexp(0, -margins_N).sum() + PRECISION / 2 * (weights_F @ weights_F)
        return float(value), x_N_F.T @ (-signs_N / (1 + np.exp(margins_N))) + PRECISION * weights_F

    return optimize.minimize(objective, np.zeros(count), jac=True, method="L-BFGS-B", options={"maxiter": 60}).x


def save_words(path: Path, weights_F: NDArray[np.float64], pairs: bool) -> None:
    """Write what ``reviews.HashedWords`` loads, a byte for each weight."""
    scale = max(float(np.abs(weights_F).max()), 1e-9) / 127
    save_file(
        {
            "weights": np.round(weights_F / scale).astype(np.int8),
            "scale": np.array([scale], dtype=np.float32),
            "pairs": np.array([pairs], dtype=np.uint8),
        },
        path,
    )
