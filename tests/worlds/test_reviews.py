"""The scorers of the world ``reviews``: what they compute, what they refuse, and what they need to be loaded."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sea_agent.errors import UserError
from sea_agent.seeding import generator_for
from sea_agent.worlds import kitchen, lexicon, reviews, scorer
from sea_agent.worlds.train_reviews import train_tokenizer
from sea_agent.worlds.train_scorers import TextNetwork, save_words

SHIPPED_SCORERS = ("reward", "judge", "prior")
TEXTS = ["the acting in this is very good .", "dull", "a film that bores , and bores , and bores us all to sleep !"]
# (prompt, praise, blame)
OPINIONS = [
    ("the acting in this", "is excellent .", "is awful ."),
    ("it is", "one of the best films i have ever seen .", "one of the worst films i have ever seen ."),
    ("the story", "was wonderful and moving .", "was boring and stupid ."),
    ("i", "loved every minute of it .", "hated every minute of it ."),
    ("this is a", "beautiful , funny movie .", "terrible , pointless movie ."),
]


def test_words_are_lower_case_and_marks_stand_alone() -> None:
    assert reviews.words("It ISN'T well-acted... (sadly) & long, is it?") == [
        *("it", "isn't", "well-acted", "...", "sadly", "long", ",", "is", "it", "?")
    ]


@pytest.mark.parametrize("name", SHIPPED_SCORERS)
def test_every_scorer_prefers_praise_to_blame(name: str) -> None:
    score = scorer("reviews", name)
    assert [score(prompt, good) > score(prompt, bad) for prompt, good, bad in OPINIONS] == [True] * len(OPINIONS)


@pytest.mark.parametrize("name", SHIPPED_SCORERS)
def test_a_score_is_of_the_whole_sentence(name: str) -> None:
    score = scorer("reviews", name)
    assert score("the best", "film of the year .") == score("the best film", "of the year .")
    assert score("the best", "film of the year .") > score("the worst", "film of the year .")


@given(st.text(max_size=60))
def test_any_response_has_a_finite_score(text: str) -> None:
    assert all(np.isfinite(scorer("reviews", name)("the film", text)) for name in SHIPPED_SCORERS)


@pytest.mark.parametrize("pairs", [False, True])
def test_hashed_words_add_up_each_word_once_over_the_root_of_their_number(tmp_path: Path, pairs: bool) -> None:
    weights = generator_for("test").normal(size=64)
    save_words(tmp_path / "words.safetensors", weights, pairs)
    loaded = reviews.HashedWords.load(tmp_path / "words.safetensors")
    assert loaded.weights.dtype == np.int8
    for text in TEXTS:
        found = text.split() + ([f"{a} {b}" for a, b in pairwise(text.split())] if pairs else [])
        places = {crc32(part.encode()) % 64 for part in found}
        expected = sum(weights[place] for place in places) / len(places) ** 0.5
        # Eight bits round each weight by at most half a step.
        assert loaded.score(text) == pytest.approx(expected, abs=len(places) ** 0.5 * abs(weights).max() / 250)
        assert loaded.score(f"{text} {text}") == pytest.approx(loaded.score(text), abs=0.5 if pairs else 1e-9)


def test_the_network_reads_as_the_one_that_was_trained_and_padding_counts_for_nothing(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS * 3)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    network = TextNetwork(torch.randn(len(tokenizer), 8).numpy()).eval()
    torch.nn.init.normal_(network.last.weight)
    network.half().float()  # the weights as they are written
    network.save(tmp_path / "network.safetensors", scale=2.0)
    loaded = reviews.Network.load(tmp_path / "network.safetensors", tmp_path / "tokenizer.json")
    with torch.inference_mode():
        expected = 2 * network(tokenizer(TEXTS).input_ids)
    assert [loaded.score(text) for text in TEXTS] == pytest.approx(expected.tolist(), rel=1e-4)
    assert np.ptp(expected.numpy()) > 0.1


@pytest.mark.parametrize("name", reviews.SCORERS)
@pytest.mark.parametrize("foreign", ["", "The Film", lexicon.make_prompts(1, 0)[0], kitchen.make_prompts(1, 0)[0]])
def test_a_prompt_of_another_world_is_refused_with_an_example(name: str, foreign: str) -> None:
    with pytest.raises(UserError, match=r"not a prompt of the world reviews.*'the acting in this'"):
        scorer("reviews", name)(foreign, "is good .")


def test_vader_is_refused_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    reviews._vader.cache_clear()
    with pytest.raises(UserError, match="pip install vaderSentiment"):
        scorer("reviews", "vader")("the film", "is good .")


def test_vader_reads_the_whole_sentence_in_people_s_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Analyzer:
        def polarity_scores(self, text: str) -> dict[str, float]:
            return {"compound": 0.5 if text == "the film is good ." else 0.0}

    stand_in = ModuleType("vaderSentiment.vaderSentiment")
    stand_in.SentimentIntensityAnalyzer = Analyzer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vaderSentiment", ModuleType("vaderSentiment"))
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    reviews._vader.cache_clear()
    try:
        assert scorer("reviews", "vader")("the film", "is good .") == 2.0
    finally:
        reviews._vader.cache_clear()


@pytest.mark.parametrize(("world", "has"), [("lexicon", "reward, judge"), ("reviews", "reward, judge, prior, vader")])
def test_a_scorer_that_a_world_has_not_is_refused(world: str, has: str) -> None:
    with pytest.raises(UserError, match=f"taste: the world {world} has no such scorer; there is {has}"):
        scorer(world, "taste")


def test_the_worlds_load_no_torch_and_their_scorers_need_none() -> None:
    code = (
        "import sys; from sea_agent.worlds import scorer; early = {'safetensors', 'tokenizers'} & set(sys.modules);"
        "[scorer('reviews', name)('the film', 'is good .') for name in ('reward', 'judge', 'prior')];"
        "print(early, 'torch' in sys.modules, 'tokenizers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "False", "True"]
