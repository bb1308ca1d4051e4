"""Prompts: every bad file is refused where it is bad; the order is seeded, complete and resumable."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from sea_agent.config import PromptsConfig
from sea_agent.data.prompts import PromptSource
from sea_agent.errors import UserError
from sea_agent.seeding import id_for
from sea_agent.types import Prompt

WORDS = ("[UNK]", "[EOS]", "red", "green", "blue", "user", "assistant", "system", ":")
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ message.role }} : {{ message.content }} "
    "{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)


def make_tokenizer(template: str | None = TEMPLATE) -> Any:
    """One token for each word; words outside WORDS are [UNK]."""
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[EOS]")
    tokenizer.chat_template = template
    return tokenizer


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(WORDS.index(word) for word in text.split())


def source(
    path: Path | str,
    *,
    seed: int = 0,
    shuffle: bool = True,
    field: str = "prompt",
    subset: str | None = None,
    split: str = "train",
    context: int = 32,
    room: int = 8,
    template: str | None = TEMPLATE,
    key: str = "prompts.path",
) -> PromptSource:
    config = PromptsConfig(path=str(path), field=field, subset=subset, split=split, shuffle=shuffle)
    return PromptSource(
        config, make_tokenizer(template), context_length=context, max_new_tokens=room, seed=seed, key=key
    )


def write_lines(path: Path, values: Sequence[Any], field: str = "prompt") -> Path:
    path.write_text("".join(json.dumps({field: value}) + "\n" for value in values))
    return path


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "colours.jsonl", ["red", "green", "blue", "red green", "red blue"])


@pytest.fixture(scope="module")
def dozen(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Files of 1 to 12 prompts."""
    folder = tmp_path_factory.mktemp("prompts")
    return {
        size: write_lines(folder / f"{size}.jsonl", ["red " * number + "blue" for number in range(size)])
        for size in range(1, 13)
    }


# --- what is read ----------------------------------------------------------------------------------------------------


def test_plain_text_becomes_the_tokens_of_the_tokenizer_and_an_id_of_its_place_and_text(colours: Path) -> None:
    prompts = source(colours).first(5)
    assert [prompt.text for prompt in prompts] == ["red", "green", "blue", "red green", "red blue"]
    assert prompts[3].token_ids == ids_of("red green")
    assert prompts[3].id == id_for("prompt", 3, "red green")
    assert prompts[3].messages is None


def test_equal_texts_in_different_places_are_different_prompts(tmp_path: Path) -> None:
    prompts = source(write_lines(tmp_path / "p.jsonl", ["red", "red"])).first(2)
    assert prompts[0].id != prompts[1].id


def test_a_chat_goes_through_the_template_with_a_generation_prompt(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "blue"}, {"role": "user", "content": "red green"}]
    (prompt,) = source(write_lines(tmp_path / "p.jsonl", [chat])).first(1)
    assert prompt.token_ids == ids_of("system : blue user : red green assistant :")
    assert prompt.text == "system: blue\nuser: red green"
    assert prompt.messages == (("system", "blue"), ("user", "red green"))


def test_a_single_user_message_reads_as_its_content(tmp_path: Path) -> None:
    (prompt,) = source(write_lines(tmp_path / "p.jsonl", [[{"role": "user", "content": "red"}]])).first(1)
    assert prompt.text == "red"
    assert prompt.token_ids == ids_of("user : red assistant :")


def test_plain_texts_and_chats_in_one_file_keep_their_own_tokens(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "blue"}]
    prompts = source(write_lines(tmp_path / "p.jsonl", ["red", chat, "green"])).first(3)
    assert [prompt.token_ids for prompt in prompts] == [
        ids_of("red"),
        ids_of("user : blue assistant :"),
        ids_of("green"),
    ]


def test_the_telling_prompts_are_the_longest_and_one_of_each_order_of_roles(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "blue"}, {"role": "user", "content": "red"}]
    texts = [f"{'red ' * (1 + number % 50)}blue" for number in range(100)]
    prompts = source(write_lines(tmp_path / "p.jsonl", [*texts, chat[1:], chat, "green"]), context=64)
    telling = prompts.telling()
    assert {len(prompt.token_ids) for prompt in telling if prompt.messages is None} >= set(range(36, 52))
    assert (("user", "red"),) in [prompt.messages for prompt in telling]
    assert (("system", "blue"), ("user", "red")) in [prompt.messages for prompt in telling]
    assert len(telling) < 40
    assert all(prompt in prompts.first(50) for prompt in prompts.telling(among=50))
    assert prompts.telling(among=1) == prompts.first(1)


def test_more_prompts_than_a_tokenizer_batch_keep_their_own_tokens(tmp_path: Path) -> None:
    texts = ["red " * (1 + number % 7) + "blue" for number in range(2500)]
    prompts = source(write_lines(tmp_path / "p.jsonl", texts)).first(2500)
    assert [prompt.token_ids for prompt in prompts] == [ids_of(text) for text in texts]


def test_another_field_can_hold_the_prompt(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", ["red"], field="question")
    assert source(path, field="question").first(1)[0].text == "red"


def test_line_separators_inside_a_text_do_not_end_its_line(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "red\u2028green"}, ensure_ascii=False) + "\r\n")
    assert source(path).first(1)[0].text == "red\u2028green"


def test_blank_lines_at_the_end_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "red"}\n\n  \n')
    assert len(source(path)) == 1


def test_parquet_holds_the_same_prompts_as_jsonl(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "red"}]
    pyarrow.parquet.write_table(pyarrow.table({"n": [1, 2], "prompt": ["red", "green"]}), tmp_path / "text.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"prompt": [chat]}), tmp_path / "chat.parquet")
    texts = write_lines(tmp_path / "text.jsonl", ["red", "green"])
    chats = write_lines(tmp_path / "chat.jsonl", [chat])
    assert source(tmp_path / "text.parquet").first(2) == source(texts).first(2)
    assert source(tmp_path / "chat.parquet").first(1) == source(chats).first(1)


def test_a_dataset_is_read_by_name_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "colours"
    folder.mkdir()
    write_lines(folder / "train.jsonl", [[{"role": "user", "content": word}] for word in ("red", "green")])
    write_lines(folder / "test.jsonl", [[{"role": "user", "content": "blue"}]])
    assert [prompt.text for prompt in source(folder).first(2)] == ["red", "green"]
    assert source(folder, split="test").first(1)[0].messages == (("user", "blue"),)
    with pytest.raises(UserError, match=r"evaluation\.path=.*evaluation\.split=dev"):
        source(folder, split="dev", key="evaluation.path")
    with pytest.raises(UserError, match=r"colours \(train\): no field 'question'; the fields are: prompt\."):
        source(folder, field="question")


def test_a_dataset_with_subsets_is_read_by_subset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "colours"
    folder.mkdir()
    parts = [{"config_name": name, "data_files": f"{name}.jsonl"} for name in ("warm", "cold")]
    (folder / "README.md").write_text(f"---\n{json.dumps({'configs': parts})}\n---\n")
    write_lines(folder / "warm.jsonl", ["red"])
    write_lines(folder / "cold.jsonl", ["blue", 7])
    assert source(folder, subset="warm").first(1)[0].text == "red"
    with pytest.raises(UserError, match=r"colours \(cold, train\), row 2: the prompt is a number"):
        source(folder, subset="cold")
    for wrong in (None, "tepid"):
        with pytest.raises(UserError, match=r"set evaluation\.subset to one of 'warm', 'cold'"):
            source(folder, subset=wrong, key="evaluation.prompts_path")
    with pytest.raises(UserError, match=r"prompts\.subset=warm: .*is a file"):
        source(folder / "warm.jsonl", subset="warm")


def test_a_dataset_whose_splits_disagree_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "colours"
    folder.mkdir()
    write_lines(folder / "train.jsonl", ["red"])
    write_lines(folder / "test.jsonl", [[{"role": "user", "content": "blue"}]])
    with pytest.raises(UserError, match=r"no dataset could be loaded.*cast"):
        source(folder)


def test_a_dataset_that_does_not_exist_is_refused_with_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"evaluation\.prompts_path=no-such/dataset: no dataset could be loaded"):
        source("no-such/dataset", key="evaluation.prompts_path")


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second_line", "problem"),
    [
        ('{"prompt": "red"', "not JSON"),
        ("", "the line is blank"),
        ('["red"]', "expected a JSON object, found a list"),
        ("7", "expected a JSON object, found a number"),
        ('{"question": "red", "id": 1}', "no field 'prompt'; the fields are: question, id. Set prompts.field"),
        ("{}", "no field 'prompt'; the fields are: none"),
        ('{"prompt": 7}', "the prompt is a number (7)"),
        ('{"prompt": null}', "the prompt is null"),
        ('{"prompt": true}', "the prompt is a boolean"),
        ('{"prompt": {"text": "red"}}', "the prompt is an object"),
        ('{"prompt": ""}', "the prompt is empty"),
        ('{"prompt": " \\n"}', "the prompt is empty"),
        ('{"prompt": []}', "the prompt is empty"),
        ('{"prompt": ["red"]}', "a chat message must be an object"),
        ('{"prompt": [{"role": "user"}]}', "a chat message must be an object"),
        ('{"prompt": [{"role": "user", "content": " "}]}', "a chat message is empty"),
        ('{"prompt": [{"role": "user", "content": ["red"]}]}', "a chat message must be an object"),
        ('{"prompt": [{"role": "assistant", "content": "red"}]}', "the last message is the assistant's"),
        (
            '{"prompt": [{"role": "tool", "content": "red"}]}',
            "the chat template of the policy fails on the prompt (TemplateError: no tools here)",
        ),
    ],
)
def test_a_bad_line_is_refused_with_file_and_line(tmp_path: Path, second_line: str, problem: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"prompt": "green"}}\n{second_line}\n{{"prompt": "blue"}}\n')
    with pytest.raises(UserError) as refusal:
        source(path)
    assert str(refusal.value).startswith(f"{path}:2: {problem}")


def test_text_in_another_encoding_is_refused_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"prompt": "green"}\n{"prompt": "gr\xfcn"}\n')
    with pytest.raises(UserError, match=r"p\.jsonl:2: not JSON"):
        source(path)


def test_a_chat_needs_a_chat_template(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", ["red", [{"role": "user", "content": "red"}]])
    with pytest.raises(UserError, match=r"p\.jsonl:2: .*no chat template"):
        source(path, template=None)


def test_plain_text_needs_no_chat_template(colours: Path) -> None:
    assert len(source(colours, template=None)) == 5


def test_a_prompt_longer_than_the_context_is_refused_with_its_length_and_the_limit(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", ["red", "red " * 25, "red " * 30])
    with pytest.raises(UserError) as refusal:
        source(path, context=32, room=8)
    message = str(refusal.value)
    assert message.startswith(f"{path}:2: the prompt has 25 tokens (and 1 more prompts)")
    assert "at most 24 fit into the policy's context of 32" in message
    assert "sampler.max_new_tokens" in message


def test_a_prompt_that_just_fits_is_accepted(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", ["red " * 24])
    assert len(source(path, context=32, room=8).first(1)[0].token_ids) == 24


def test_the_template_counts_towards_the_length(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", [[{"role": "user", "content": "red " * 24}]])
    with pytest.raises(UserError, match="the prompt has 28 tokens"):
        source(path, context=32, room=8)


def test_responses_as_long_as_the_context_are_refused(colours: Path) -> None:
    with pytest.raises(UserError, match=r"sampler\.max_new_tokens=32 leaves no room"):
        source(colours, context=32, room=32)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=r"evaluation\.prompts_path=.*p\.jsonl: there are no prompts in it"):
        source(path, key="evaluation.prompts_path")


@pytest.mark.parametrize("name", ["none.jsonl", "none.parquet"])
def test_a_missing_file_is_refused_with_the_key(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"prompts\.path=.*{name}: no such file"):
        source(tmp_path / name)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("prompt\nred\n")
    with pytest.raises(UserError, match=r"not a prompt file\. Give a \.jsonl file"):
        source(path)


def test_a_file_of_a_world_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"world://nowhere/prompts\.jsonl: no such file"):
        source("world://nowhere/prompts.jsonl")


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"p\.parquet: not a readable Parquet file"):
        source(path)


def test_parquet_problems_name_the_row_and_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["red", None], "id": [1, 2]}), path)
    with pytest.raises(UserError, match=r"p\.parquet, row 2: the prompt is null"):
        source(path)
    with pytest.raises(UserError, match=r"p\.parquet: no field 'question'; the fields are: prompt, id\."):
        source(path, field="question")


# --- the order -------------------------------------------------------------------------------------------------------


def take(prompts: PromptSource, counts: Sequence[int]) -> list[Prompt]:
    """What successive calls of ``next`` give, in one list."""
    return [prompt for count in counts for prompt in prompts.next(count)]


@st.composite
def file_and_calls(draw: st.DrawFn) -> tuple[int, list[int]]:
    """The size of a file, and counts that can be taken from it."""
    size = draw(st.integers(1, 12))
    return size, draw(st.lists(st.integers(0, size), max_size=30))


def test_without_shuffling_the_order_is_the_files_and_starts_again(colours: Path) -> None:
    taken = take(source(colours, shuffle=False), [3, 4])
    assert [prompt.text for prompt in taken] == ["red", "green", "blue", "red green", "red blue", "red", "green"]


def test_the_order_depends_on_the_seed_and_changes_with_each_epoch(dozen: dict[int, Path]) -> None:
    path = dozen[12]
    order = take(source(path, seed=1), [12, 12])
    assert order == take(source(path, seed=1), [12, 12])
    assert order[:12] != order[12:]
    assert order != take(source(path, seed=2), [12, 12])


def test_the_size_of_the_calls_changes_no_order_within_an_epoch(dozen: dict[int, Path]) -> None:
    assert take(source(dozen[12]), [5, 5, 2]) == take(source(dozen[12]), [12])


def test_more_different_prompts_than_there_are_cannot_be_taken(colours: Path) -> None:
    with pytest.raises(UserError, match=r"batch_size=6 needs as many different prompts, and there are 5\."):
        source(colours).next(6)


def test_the_first_prompts_are_the_files_first_and_taking_them_moves_nothing(colours: Path) -> None:
    prompts = source(colours)
    before = prompts.state()
    assert [prompt.text for prompt in prompts.first(2)] == ["red", "green"]
    assert len(prompts.first(100)) == 5
    assert prompts.state() == before


@given(case=file_and_calls(), seed=st.integers(0, 2**32))
def test_every_prompt_comes_once_an_epoch_however_it_is_taken(
    dozen: dict[int, Path], case: tuple[int, list[int]], seed: int
) -> None:
    size, counts = case
    prompts = source(dozen[size], seed=seed)
    taken = [prompt.id for prompt in take(prompts, counts)]
    everyone = Counter(prompt.id for prompt in prompts.first(size))
    for start in range(0, len(taken) - size + 1, size):
        assert Counter(taken[start : start + size]) == everyone
    assert len(taken) == sum(counts)


@given(case=file_and_calls(), seed=st.integers(0, 2**32))
def test_no_prompt_comes_twice_in_one_call(dozen: dict[int, Path], case: tuple[int, list[int]], seed: int) -> None:
    size, counts = case
    prompts = source(dozen[size], seed=seed)
    for count in counts:
        assert len({prompt.id for prompt in prompts.next(count)}) == count


def test_two_calls_over_the_same_border_may_give_a_prompt_twice(dozen: dict[int, Path]) -> None:
    """Without the rule for one call, permutations that follow each other do repeat a prompt within few places."""
    repeats = 0
    for seed in range(20):
        prompts = source(dozen[12], seed=seed)
        taken = take(prompts, [6, 6, 6])[6:]
        repeats += len({prompt.id for prompt in taken}) < 12
    assert repeats > 0


@given(case=file_and_calls(), seed=st.integers(0, 2**32), data=st.data())
def test_a_source_resumed_at_any_point_continues_the_same(
    dozen: dict[int, Path], case: tuple[int, list[int]], seed: int, data: st.DataObject
) -> None:
    size, counts = case
    stop = data.draw(st.integers(0, len(counts)))
    whole, resumed = source(dozen[size], seed=seed), source(dozen[size], seed=seed)
    take(whole, counts[:stop])
    resumed.load_state(json.loads(json.dumps(whole.state())))
    assert take(resumed, counts[stop:]) == take(whole, counts[stop:])
    assert resumed.state() == whole.state()


def test_a_fresh_source_would_not_continue_the_same(dozen: dict[int, Path]) -> None:
    whole = source(dozen[12], seed=3)
    whole.next(5)
    assert source(dozen[12], seed=3).next(12) != whole.next(12)


@pytest.mark.parametrize("change", ["file", "seed", "order"])
def test_a_state_of_other_prompts_or_another_order_is_refused(
    colours: Path, dozen: dict[int, Path], change: str
) -> None:
    state = source(colours).state()
    other = {
        "file": lambda: source(dozen[5]),
        "seed": lambda: source(colours, seed=1),
        "order": lambda: source(colours, shuffle=False),
    }[change]()
    with pytest.raises(UserError, match="changed since the checkpoint"):
        other.load_state(state)
