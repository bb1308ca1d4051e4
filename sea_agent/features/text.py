"""Features of the response text for learning from few labels, with any tokenizer: ``posterior.features: text``.

They are not specific to a world: the tokens of the response, whether they are copied from the prompt, where each first
occurs, which kinds of tokens follow each other, the length, interactions with the prompt, and hidden states and
log-probabilities of the frozen reference policy. Each of these is one block. The posterior finds by evidence how much
of the reward each block explains (``bandit/evidence.py``).

The bucket of a token is its id if the vocabulary is small, and a hash of the id otherwise. The cost is linear in the
number of tokens, apart from the forward pass of the policy.

Dimension legend: B rows of a batch, N tokens of the batch's responses (or the distinct tokens of each, where noted),
T padded tokens, A the last of them, from the first answered one on, V vocabulary, L landmarks, H hidden units,
K buckets, E principal axes of the token embeddings.
"""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sea_agent.config import PolicyConfig
from sea_agent.features.base import FeatureMap, Row
from sea_agent.features.hidden import PaddedSequences, sampled_tokens
from sea_agent.pretrained import end_token_ids, load_policy, load_tokenizer
from sea_agent.types import Prompt, Response

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOKEN_BUCKETS = 1024
_PROMPT_BUCKETS = 128
_AXES = 16
# The Gaussian kernel between tokens: number of landmarks for a large vocabulary, width as a share of the median squared
# distance, and smallest eigenvalue that is not rounding error.
_LANDMARKS = 256
_WIDTH = 0.25
_SMALLEST_EIGENVALUE = 1e-9
# The neighbours of a token are the three tokens after it: close enough to refer to each other.
_REACH = 3
_COUNTS = 6
# Blocks whose features have different units: each feature is divided by its own deviation.
_OWN_SCALES = ("counts", "hidden", "likelihood")
# Logits of one forward pass: bytes in all, and float copies of them that are held at once.
_LOGIT_BYTES = 2**30
_LOGIT_COPIES = 3
# 2³² / golden ratio: multiplicative hashing (Knuth, "The Art of Computer Programming", 6.4).
_MULTIPLIER = 2654435761

Array = NDArray[Any]


class TextFeatures(FeatureMap):
    """Blocks of features from the tokens of (prompt, response) and from the frozen reference policy.

    =================  ============================================================================================
    copied, new        indicators of the tokens in the response, copied from the prompt or not (K each)
    copied and new     sums over the same tokens of their coordinates on the principal axes of the policy's
    components         embeddings, so that similar tokens share what is learnt (E each)
    counts             length, number of copied, new and repeated tokens, whether the response ended, squared length
    position           position of the first occurrence of each token, as a share of the length (K)
    neighbours         pairs of token kinds at most three tokens apart: sums of outer products (E²)
    prompt             counts (log scale) and components, each times every token of the prompt
    hidden             last hidden states of the policy: mean over the response, and last token (2 H)
    likelihood         log-probability of the response under the policy, total and per token, in nats
    =================  ============================================================================================
    """

    def __init__(self, policy: PolicyConfig, batch: int = 256, device: str = "cpu") -> None:
        model = load_policy(policy.path, policy.dtype, device)
        self._model, self._device = model, device
        self._axes_V_E = _principal_places(_embeddings(model.get_input_embeddings()))
        self._kinds_V_E = _kinds(model)
        self._end_ids = end_token_ids(policy.path, load_tokenizer(policy.path))
        self._vocabulary, axes = self._axes_V_E.shape
        tokens = min(self._vocabulary, _TOKEN_BUCKETS)
        self._blocks = {
            "copied": tokens,
            "new": tokens,
            "copied components": axes,
            "new components": axes,
            "counts": _COUNTS,
            "position": tokens,
            "neighbours": self._kinds_V_E.shape[1] ** 2,
            "prompt": min(self._vocabulary, _PROMPT_BUCKETS) * (_COUNTS - 1 + 2 * axes),
            "hidden": 2 * model.config.get_text_config().hidden_size,
            "likelihood": 2,
        }
        shared = [name not in _OWN_SCALES for name in self._blocks]
        super().__init__(tuple(self._blocks.values()), batch, shared)

    def _key(self, prompt: Prompt, response: Response) -> Hashable:
        return prompt.token_ids, response.token_ids

    def _tokens(self, prompt: Prompt, response: Response) -> Row:
        return sampled_tokens(prompt, response)

    def _encode(self, rows: list[Row], length: int) -> Tensor:
        blocks = self._text(rows) | self._view(rows, length)
        return torch.cat([blocks[name] for name in self._blocks], dim=1)

    def _text(self, rows: list[Row]) -> dict[str, Tensor]:
        """The blocks that need no forward pass."""
        starts = [len(row["answered"]) - sum(row["answered"]) for row in rows]
        prompts = [np.array(row["input_ids"][:start], dtype=np.int64) for row, start in zip(rows, starts, strict=True)]
        responses = [np.array(row["input_ids"][start:]) for row, start in zip(rows, starts, strict=True)]
        lengths_B = np.array([len(response) for response in responses])
        row_N, token_N = np.repeat(np.arange(len(rows)), lengths_B), np.concatenate(responses)
        place_N = np.concatenate([np.arange(length) / length for length in lengths_B])
        given = np.unique(np.repeat(np.arange(len(rows)), starts) * self._vocabulary + np.concatenate(prompts))

        # From here on, N counts the distinct tokens of each response, at their first occurrence.
        found_N, first_N = np.unique(row_N * self._vocabulary + token_N, return_index=True)
        own_N, kind_N = np.divmod(found_N, self._vocabulary)
        copied_N = np.isin(found_N, given)
        side_N = copied_N.astype(np.int64)
        bucket_N = self._buckets(kind_N, _TOKEN_BUCKETS)
        presence_2_B_K = np.zeros((2, len(rows), self._blocks["copied"]), dtype=np.float32)
        np.add.at(presence_2_B_K, (side_N, own_N, bucket_N), 1.0)
        position_B_K = np.zeros(presence_2_B_K.shape[1:], dtype=np.float32)
        np.add.at(position_B_K, (own_N, bucket_N), place_N[first_N])
        components_2_B_E = np.zeros((2, len(rows), self._axes_V_E.shape[1]), dtype=np.float32)
        np.add.at(components_2_B_E, (side_N, own_N), self._axes_V_E[kind_N])

        distinct_B = np.bincount(own_N, minlength=len(rows))
        copies_B = np.bincount(own_N[copied_N], minlength=len(rows))
        ended_B = np.isin([response[-1] for response in responses], self._end_ids)
        plain = [lengths_B, copies_B, distinct_B - copies_B, lengths_B - distinct_B, ended_B]
        counts_B_6 = np.stack([*plain, lengths_B**2], axis=1).astype(np.float32)
        # Log scale, so that interactions with a long response do not dominate those with a short one.
        summary_B_S = np.concatenate([np.log1p(counts_B_6[:, :-1]), *components_2_B_E], axis=1)
        blocks = {
            "copied": presence_2_B_K[1],
            "new": presence_2_B_K[0],
            "copied components": components_2_B_E[1],
            "new components": components_2_B_E[0],
            "counts": counts_B_6,
            "position": position_B_K,
            "prompt": self._crossed(given, summary_B_S),
        }
        return {name: torch.from_numpy(block) for name, block in blocks.items()} | {
            "neighbours": self._neighbours(responses)
        }

    def _neighbours(self, responses: list[Array]) -> Tensor:
        """neighbours_B_EE: sum of the outer products of the kinds of all token pairs at most ``_REACH`` apart."""
        kinds_B_T_E = pad_sequence([self._kinds_V_E[response] for response in responses], batch_first=True)
        reach = min(_REACH, kinds_B_T_E.shape[1] - 1)
        return sum(
            (
                torch.einsum("bti,btj->bij", kinds_B_T_E[:, :-apart], kinds_B_T_E[:, apart:]).flatten(1)
                for apart in range(1, reach + 1)
            ),
            start=torch.zeros(len(responses), self._blocks["neighbours"]),
        )

    def _crossed(self, given: Array, summary_B_S: Array) -> Array:
        """Products of every prompt token with every summary feature of the response."""
        row, kind = np.divmod(given, self._vocabulary)
        prompt_B_K = np.zeros((len(summary_B_S), min(self._vocabulary, _PROMPT_BUCKETS)), dtype=np.float32)
        prompt_B_K[row, self._buckets(kind, _PROMPT_BUCKETS)] = 1.0
        return (prompt_B_K[:, :, None] * summary_B_S[:, None, :]).reshape(len(summary_B_S), -1)

    def _buckets(self, tokens: Array, count: int) -> Array:
        return tokens if self._vocabulary <= count else _hash(tokens, count)

    def _view(self, rows: list[Row], length: int) -> dict[str, Tensor]:
        """The blocks from the forward pass of the policy, on as many rows at once as their logits leave room for."""
        first = min(len(row["input_ids"]) - sum(row["answered"]) for row in rows)
        at_once = max(1, _LOGIT_BYTES // (_LOGIT_COPIES * 4 * self._vocabulary * (length - first + 1)))
        parts = [self._part(rows[start : start + at_once], length, first) for start in range(0, len(rows), at_once)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _part(self, rows: list[Row], length: int, first: int) -> dict[str, Tensor]:
        """The same of rows whose responses begin at the position ``first`` or later."""
        batch = PaddedSequences(rows, length, self._device)
        output = batch.through(self._model, output_hidden_states=True, logits_to_keep=length - first + 1)
        logits_B_A_V, targets_B_A = output.logits[:, :-1].float(), batch.ids_B_T[:, first:]
        chosen_B_A = logits_B_A_V.gather(-1, targets_B_A[..., None])[..., 0]
        logprobs_B_A = chosen_B_A - logits_B_A_V.logsumexp(-1)
        answered_B_A = batch.answered_B_T[:, first:]
        total_B = (logprobs_B_A * answered_B_A).sum(1)
        likelihood_B_2 = torch.stack([total_B, total_B / answered_B_A.sum(1)], dim=1)
        return {"hidden": batch.mean_and_last(output.hidden_states[-1]).cpu(), "likelihood": likelihood_B_2.cpu()}


def _embeddings(layer: torch.nn.Module) -> Tensor:
    """embeddings_V_H of the tokens."""
    return layer.get_parameter("weight").detach().float().cpu()


def _kinds(model: "PreTrainedModel") -> Tensor:
    """kinds_V_E: coordinates of each token in a space of token kinds; each axis has unit variance.

    Kernel PCA (Schölkopf, Smola and Müller 1998) with a narrow Gaussian kernel, using landmarks if the vocabulary is
    large. Tokens with similar input and output embeddings share a location, and other tokens are not interpolated
    between them. Products of these coordinates therefore distinguish classes of tokens, whereas products of the
    embeddings' own principal axes mostly distinguish parts of speech.
    """
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    embeddings_V_H = torch.cat([_embeddings(layer) / _embeddings(layer).std() for layer in layers], dim=1)
    landmarks = torch.linspace(0, len(embeddings_V_H) - 1, min(len(embeddings_V_H), _LANDMARKS)).round().long()
    distances_V_L = torch.cdist(embeddings_V_H.double(), embeddings_V_H[landmarks].double()).square()
    between_L_L = distances_V_L[landmarks]
    width = between_L_L[between_L_L > 0].median() * _WIDTH
    values_L, vectors_L_L = torch.linalg.eigh((-between_L_L / width).exp())
    root_L_L = vectors_L_L / values_L.clamp_min(_SMALLEST_EIGENVALUE).sqrt()
    return torch.from_numpy(_principal_places((-distances_V_L / width).exp() @ root_L_L))


def _principal_places(vectors_V_H: Tensor) -> Array:
    """places_V_E: coordinates of each token on the top principal axes of the vectors; each axis has unit variance.

    The token farthest from the origin of an axis is on its positive side. Rounding would otherwise choose the sign, and
    a run resumed on another machine would see its own features with other signs.
    """
    centred_V_H = (vectors_V_H - vectors_V_H.mean(0)).double()
    _, axes_H_H = torch.linalg.eigh(centred_V_H.T @ centred_V_H)
    places_V_E = centred_V_H @ axes_H_H[:, -_AXES:].flip(1)
    farthest_1_E = places_V_E.abs().argmax(0, keepdim=True)
    return (places_V_E * places_V_E.gather(0, farthest_1_E).sign() / places_V_E.std(0)).float().numpy()


def _hash(values: Array, buckets: int) -> Array:
    return (values.astype(np.uint64) * np.uint64(_MULTIPLIER) % np.uint64(2**32) * np.uint64(buckets)) >> np.uint64(32)
