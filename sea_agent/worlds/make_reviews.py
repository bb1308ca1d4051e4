"""Makes every file of the world ``reviews`` from two packages that the user fetched: policy, prompts and scorers.

What is written holds weights and the first words of sentences; the texts stay in their packages. Data files are
byte-identical on every machine, weights on one.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from sea_agent.seeding import generator_for
from sea_agent.worlds.review_texts import Marked, Texts, plain_sentences, read_texts
from sea_agent.worlds.reviews import MAX_RESPONSE_TOKENS, Network
from sea_agent.worlds.train_reviews import train_policy, train_tokenizer
from sea_agent.worlds.train_scorers import logits_of_a_mark, save_words, train_network, train_words
from sea_agent.worlds.words import write_prompts

TRAINING_PROMPTS = 4000
HELD_OUT_PROMPTS = 256
POLICY_STEPS = 1250
NETWORK_EPOCHS = (2, 6)
"""Passes over the stars and over people's marks."""
JUDGE_BUCKETS, PRIOR_BUCKETS = 2**17, 2**15


def make_reviews(out_dir: Path, packages: Path, seed: int = 0) -> None:
    """Write the world to ``out_dir``; takes about six minutes on one core.

    ``packages`` is the directory with the two files that ``review_texts`` names. ``seed`` determines prompts and the
    policy; tokenizer and scorers do not depend on it, and a run's scorers are always those of the package.

    Raises:
        UserError: a file is not there, or is not the pinned one.
    """
    texts = read_texts(packages)
    sentences = plain_sentences([*texts.for_reward, *texts.for_judge, *texts.for_prior])
    tokenizer = train_tokenizer(sentences)
    (out_dir / "scorers").mkdir(parents=True, exist_ok=True)
    write_tokenizer(tokenizer, out_dir / "policy")
    prompts = make_prompts(plain_sentences(texts.held_out), TRAINING_PROMPTS + HELD_OUT_PROMPTS, seed)
    write_prompts(out_dir / "prompts.jsonl", prompts[:TRAINING_PROMPTS])
    write_prompts(out_dir / "heldout.jsonl", prompts[TRAINING_PROMPTS:])
    make_scorers(texts, tokenizer, out_dir)
    short = [text for text, ids in zip(sentences, tokenizer(sentences).input_ids, strict=True) if fits(ids)]
    train_policy(tokenizer, short, seed, POLICY_STEPS).half().save_pretrained(out_dir / "policy")


def fits(ids: Sequence[int]) -> bool:
    """Whether a sentence, with the token that opens it, is as short as a response may be."""
    return len(ids) <= MAX_RESPONSE_TOKENS + 1


def make_prompts(sentences: Sequence[str], count: int, seed: int) -> list[str]:
    """The first 2 to 5 words of ``count`` sentences, all different; a longer list starts with the shorter one."""
    rng = generator_for("reviews", "prompts", seed)
    prompts: dict[str, None] = {}
    for index in rng.permutation(len(sentences)):
        words = sentences[index].split()
        begun = words[: int(rng.integers(2, 6))]
        # At least two words are left to say, beside the mark that ends the sentence.
        if len(words) >= len(begun) + 3 and all(word[0].isalnum() for word in begun):
            prompts[" ".join(begun)] = None
        if len(prompts) == count:
            break
    return list(prompts)


def make_scorers(texts: Texts, tokenizer: PreTrainedTokenizerFast, out_dir: Path) -> None:
    """Train and write the network of the reward, and the hashed words of the judge and the prior."""
    for name, reviews, count, pairs in (
        ("judge", texts.for_judge, JUDGE_BUCKETS, True),
        ("prior", texts.for_prior, PRIOR_BUCKETS, False),
    ):
        save_words(out_dir / "scorers" / f"{name}.safetensors", train_words(reviews, count, pairs), pairs)
    network = train_network(tokenizer, texts.for_reward, texts.marked, NETWORK_EPOCHS)
    path = out_dir / "scorers" / "reward.safetensors"
    network.save(path, scale=1.0)
    marks, people = _read(Network.load(path, out_dir / "policy" / "tokenizer.json"), texts.marked_test)
    # As far apart as people's mean marks are: a network that cannot know everything is more moderate than they.
    network.save(path, scale=logits_of_a_mark(texts.marked) * people.std() / marks.std())


def _read(network: Network, snippets: Sequence[Marked]) -> tuple[np.ndarray, np.ndarray]:
    """The network's marks and people's mean marks of snippets."""
    marks = [network.score(" ".join(snippet.words)) for snippet in snippets]
    return np.array(marks), np.array([snippet.marks.mean() for snippet in snippets])


def write_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Save a tokenizer, its 4,096 pieces on one line."""
    tokenizer.save_pretrained(directory)
    path = directory / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), separators=(",", ":")))
