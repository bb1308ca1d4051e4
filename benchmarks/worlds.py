"""The built-in worlds in figures: how their samples score, and how well features predict their hidden rewards.

    python -m benchmarks.worlds [lexicon|kitchen|reviews]

prints the figures of docs/world.md, docs/kitchen.md and docs/reviews.md.

Dimension letters: P prompts, M candidates, D features, N labelled pairs.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from sea_agent.errors import UserError
from sea_agent.seeding import generator_for
from sea_agent.worlds import lexicon, resolve, scorer, world
from sea_agent.worlds.make import policy_tokenizer
from sea_agent.worlds.train import new_policy, seeded
from sea_agent.worlds.words import write_prompts

Array = NDArray[np.float64]
CANDIDATES = 20
TEMPERATURE = 0.7
LABELS = (50, 100, 200, 400, 800, 5000)
RESPONSE_TOKENS = {"reviews": 20}
"""The longest response in tokens where it is not 14."""
DRAWS = 10
"""Draws of pairs and labels that a pair accuracy is averaged over."""
PRIOR_DEVIATIONS = (0.5, 1.0, 2.0, 4.0, 8.0)


def read_prompts(path: Path) -> list[str]:
    """The prompts of a ``.jsonl`` file of a world."""
    return [json.loads(line)["prompt"] for line in path.read_text().splitlines()]


def sample(
    policy_dir: Path, prompts: Sequence[str], seed: int, candidates: int = CANDIDATES, tokens: int = 14
) -> list[list[str]]:
    """``candidates`` texts for each prompt at temperature 0.7, at most ``tokens`` tokens each."""
    tokenizer = AutoTokenizer.from_pretrained(policy_dir, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(policy_dir, dtype="float32")
    texts: list[list[str]] = []
    with seeded("measure", seed), torch.inference_mode():
        for start in range(0, len(prompts), 64):
            inputs = tokenizer(list(prompts[start : start + 64]), padding=True, return_tensors="pt")
            drawn = policy.generate(
                **inputs,
                do_sample=True,
                temperature=TEMPERATURE,
                top_k=0,
                max_new_tokens=tokens,
                num_return_sequences=candidates,
            )
            flat = tokenizer.batch_decode(drawn[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
            texts += [flat[i : i + candidates] for i in range(0, len(flat), candidates)]
    return texts


def statistics(name: str, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> dict[str, float]:
    """Reward over candidates and its agreement with the judge, both within prompts, and how much texts differ."""
    rewards_P_M, judged_P_M = scores(name, "reward", prompts, texts), scores(name, "judge", prompts, texts)
    return {
        "mean reward": float(rewards_P_M.mean()),
        "reward deviation within a prompt": float(rewards_P_M.std(1).mean()),
        "best of the candidates": float(rewards_P_M.max(1).mean()),
        "correlation with the judge within prompts": correlation_within(rewards_P_M, judged_P_M),
        "distinct texts of a prompt": float(np.mean([len(set(row)) for row in texts])),
        "words of a response": float(np.mean([len(text.split()) for row in texts for text in row])),
    }


def agreement(name: str, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> dict[tuple[str, str], float]:
    """The correlation within prompts of any two scorers of the world; of those that are installed."""
    found: dict[str, Array] = {}
    for kind in world(name).SCORERS:
        try:
            found[kind] = scores(name, kind, prompts, texts)
        except UserError as error:
            print(error, file=sys.stderr)
    return {(one, two): correlation_within(found[one], found[two]) for one, two in combinations(found, 2)}


def scores(name: str, kind: str, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> Array:
    """(P, M) scores of the world's ``reward`` or ``judge``."""
    score = scorer(name, kind)
    return np.array([[score(prompt, text) for text in row] for prompt, row in zip(prompts, texts, strict=True)])


def policy_features(policy_dir: Path, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> Array:
    """(P, M, D) last hidden states of the policy, averaged over the response's tokens and its end token."""
    tokenizer = AutoTokenizer.from_pretrained(policy_dir)
    policy = AutoModel.from_pretrained(policy_dir, dtype="float32")

    def row(prompt: str, answers: Sequence[str]) -> torch.Tensor:
        start = len(tokenizer(prompt).input_ids)
        whole = [f"{prompt} {answer} {tokenizer.eos_token}" for answer in answers]
        inputs = tokenizer(whole, padding=True, padding_side="right", return_tensors="pt")
        hidden = policy(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).last_hidden_state
        return _mean(hidden[:, start:], inputs.attention_mask[:, start:])

    return _rows(row, prompts, texts)


def encoder_features(encoder_dir: Path, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> Array:
    """(P, M, D) last hidden states of the encoder, averaged over all attended tokens of the pair."""
    tokenizer = AutoTokenizer.from_pretrained(encoder_dir)
    encoder = AutoModel.from_pretrained(encoder_dir)

    def row(prompt: str, answers: Sequence[str]) -> torch.Tensor:
        inputs = tokenizer([prompt] * len(answers), list(answers), padding=True, return_tensors="pt")
        return _mean(encoder(**inputs).last_hidden_state, inputs.attention_mask)

    return _rows(row, prompts, texts)


def word_presence(name: str, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> Array:
    """(P, M, D): which words of the world a text has, copied from its prompt or not, and how many: all that adds up."""
    words = world(name).WORDS

    def row(prompt: str, text: str) -> list[float]:
        given, present = set(prompt.split()), set(text.split())
        copied, own = present & given, present - given
        return [*(word in copied for word in words), *(word in own for word in words), len(text.split())]

    return np.array([[row(prompt, text) for text in rows] for prompt, rows in zip(prompts, texts, strict=True)], float)


def bigram_counts(texts: Sequence[Sequence[str]]) -> Array:
    """(P, M, D): how often two words are neighbours in a text, for the pairs that one text in a thousand has."""
    counted = [[Counter(pairwise(text.split())) for text in row] for row in texts]
    having = Counter(bigram for row in counted for count in row for bigram in count)
    bigrams = sorted(bigram for bigram, number in having.items() if 1000 * number >= sum(map(len, texts)))
    return np.array([[[count[bigram] for bigram in bigrams] for count in row] for row in counted], float)


def true_terms(name: str, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> Array:
    """(P, M, T) terms of the hidden reward before they are weighted; they know the world's hidden classes."""
    terms = world(name).terms
    return np.array([[terms(prompt, text) for text in row] for prompt, row in zip(prompts, texts, strict=True)])


def pair_accuracy(features_P_M_D: Array, rewards_P_M: Array, labels: int, seed: int) -> float:
    """Share of within-prompt pairs of unseen prompts ordered as the reward does, after ``labels`` Bernoulli labels.

    Bradley-Terry logistic regression on standardised features; the width of the Gaussian prior is chosen by a
    fifth of the labels.
    """
    rng = generator_for("pair accuracy", seed)
    prompts, half = rng.permutation(len(rewards_P_M)), len(rewards_P_M) // 2
    standard = (features_P_M_D - features_P_M_D.mean((0, 1))) / (features_P_M_D.std((0, 1)) + 1e-9)
    train_x, train_gap = _pairs(standard, rewards_P_M, prompts[:half], labels, rng)
    test_x, test_gap = _pairs(standard, rewards_P_M, prompts[half:], 4000, rng)
    wins = (rng.random(labels) < 1 / (1 + np.exp(-train_gap))).astype(np.float64)

    kept = labels - labels // 5

    def held_out(deviation: float) -> float:
        margins = train_x[kept:] @ _logistic(train_x[:kept], wins[:kept], deviation)
        return float(np.logaddexp(0, np.where(wins[kept:] > 0, -margins, margins)).mean())

    weights = _logistic(train_x, wins, min(PRIOR_DEVIATIONS, key=held_out))
    return float(np.mean((test_x @ weights > 0) == (test_gap > 0)))


def _pairs(
    features_P_M_D: Array, rewards_P_M: Array, prompts: NDArray[np.int64], count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Feature differences (N, D) and reward differences (N,) of random unequal pairs, prompts taken in turn."""
    rows = np.resize(prompts, count)
    first = rng.integers(rewards_P_M.shape[1], size=count)
    second = (first + rng.integers(1, rewards_P_M.shape[1], size=count)) % rewards_P_M.shape[1]
    return (
        features_P_M_D[rows, first] - features_P_M_D[rows, second],
        rewards_P_M[rows, first] - rewards_P_M[rows, second],
    )


def _logistic(x_N_D: Array, wins_N: Array, deviation: float) -> Array:
    """The mode of Bayesian logistic regression by Newton's method; ``deviation`` is the prior's of a reward."""
    labels, width = x_N_D.shape
    if labels < width:
        # The mode lies in the span of the data.
        basis_D_N, reduced_N_N = np.linalg.qr(x_N_D.T)
        return basis_D_N @ _logistic(reduced_N_N.T, wins_N, deviation * np.sqrt(labels / width))
    precision = width / deviation**2
    weights = np.zeros(width)
    for _ in range(25):
        chance_N = 1 / (1 + np.exp(-np.clip(x_N_D @ weights, -30, 30)))
        gradient = x_N_D.T @ (chance_N - wins_N) + precision * weights
        curvature = (x_N_D * (chance_N * (1 - chance_N))[:, None]).T @ x_N_D + precision * np.eye(width)
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return weights


def correlation_within(first_P_M: Array, second_P_M: Array) -> float:
    centred = [values - values.mean(1, keepdims=True) for values in (first_P_M, second_P_M)]
    return float(np.corrcoef(centred[0].ravel(), centred[1].ravel())[0, 1])


def _mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)


def _rows(
    row: Callable[[str, Sequence[str]], torch.Tensor], prompts: Sequence[str], texts: Sequence[Sequence[str]]
) -> Array:
    with torch.inference_mode():
        stacked = torch.stack([row(prompt, answers) for prompt, answers in zip(prompts, texts, strict=True)])
    return stacked.double().numpy()


def make_speed_setting(out_dir: Path, seed: int = 0) -> None:
    """Write a larger setting for measuring speed: a random policy of about 3 M parameters and prompts of 40 words.

    The policy is untrained; its responses are random words, 80 on average before one is the end token.
    """
    tokenizer = policy_tokenizer(lexicon.WORDS)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_prompts(out_dir / "prompts.jsonl", lexicon.make_prompts(512, seed, nouns=36))
    tokenizer.save_pretrained(out_dir / "policy")
    with seeded("speed setting", seed):
        policy = new_policy(
            tokenizer,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
        )
    policy.save_pretrained(out_dir / "policy")


def main(name: str = "lexicon") -> None:
    """Print every figure that the documentation of a world states."""
    torch.set_num_threads(1)
    policy_dir = Path(resolve(f"world://{name}/policy"))
    prompts = read_prompts(Path(resolve(f"world://{name}/heldout.jsonl")))[:384]
    texts = sample(policy_dir, prompts, seed=0, tokens=RESPONSE_TOKENS.get(name, 14))
    for label, value in statistics(name, prompts, texts).items():
        print(f"{label}: {value:.3f}")
    for pair, value in agreement(name, prompts, texts).items():
        print(f"correlation within prompts of {' and '.join(pair)}: {value:.3f}")
    rewards_P_M = scores(name, "reward", prompts, texts)
    sources = {"policy": policy_features(policy_dir, prompts, texts), "bigram counts": bigram_counts(texts)}
    if hasattr(world(name), "WORDS"):
        sources["word presence"] = word_presence(name, prompts, texts)
    if hasattr(world(name), "attributes"):
        sources["encoder"] = encoder_features(Path(resolve(f"world://{name}/encoder")), prompts, texts)
    if hasattr(world(name), "terms"):
        sources["true terms"] = true_terms(name, prompts, texts)
    for source, features in sources.items():
        curve = [np.mean([pair_accuracy(features, rewards_P_M, n, seed) for seed in range(DRAWS)]) for n in LABELS]
        print(f"{source}: pair accuracy after {LABELS} labels:", *(f"{value:.2f}" for value in curve))


if __name__ == "__main__":
    main(*sys.argv[1:])
