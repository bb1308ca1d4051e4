"""No text is lost between a file of prompts and the policy's tokens, and no chat template brings a run down."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from sea_agent.config import PromptsConfig
from sea_agent.data import tokens
from sea_agent.data.imported import load_imported
from sea_agent.data.prompts import PromptSource
from sea_agent.errors import UserError

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
PARTS = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]"
    "{% for part in m.content %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endfor %}[assistant]"
)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def bytes_tokenizer(*, affixes: str = "<s> $A", template: str | None = TEMPLATE, **special: str) -> Any:
    """One token for each byte, as of Llama 3 or Qwen; ``affixes`` is what it writes around a plain text."""
    names = SPECIAL | special
    alphabet = [*dict.fromkeys(names.values()), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(BPE({token: index for index, token in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in dict.fromkeys(names.values())]
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(single=affixes, special_tokens=ids)
    tokenizer.chat_template = template
    return tokenizer


def lowercasing_tokenizer() -> Any:
    """Word pieces without case and accents, as of BERT; it ends a text with its end token."""
    pieces = ["[UNK]", "[CLS]", "[SEP]", "re", "##d", "cafe", "'", "s", "!"]
    inner = Tokenizer(WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]")


def pieces_tokenizer() -> Any:
    """Pieces with a mark for each blank and bytes for unknown letters, as of Llama 2 and Gemma."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁red", "▁green", "r", "e", "d"]
    inner = Tokenizer(Unigram([(piece, -float(index)) for index, piece in enumerate(pieces)], 0, byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", **SPECIAL)


def forgetful_tokenizer() -> Any:
    """Without an unknown token and without bytes: letters that it does not know vanish."""
    inner = Tokenizer(BPE({token: index for index, token in enumerate(["</s>", "r", "e", "d", " "])}, []))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


def word_tokenizer(*, unknown: bool) -> Any:
    vocabulary = {"</s>": 0, "red": 1} | ({"<unk>": 2} if unknown else {})
    inner = Tokenizer(WordLevel(vocabulary, **({"unk_token": "<unk>"} if unknown else {})))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"unk_token": "<unk>"} if unknown else {}
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", **names)


Load = Callable[..., PromptSource]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Prompts, or whole rows, written to a file and read for a tokenizer."""

    def read(tokenizer: Any, *prompts: Any, rows: list[dict[str, Any]] | None = None) -> PromptSource:
        path = tmp_path / "p.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows or [{"prompt": one} for one in prompts]))
        return PromptSource(PromptsConfig(path=str(path)), tokenizer, context_length=999, max_new_tokens=9, seed=0)

    return read


@pytest.fixture
def refusal(load: Load) -> Callable[..., str]:
    def read(*arguments: Any, **options: Any) -> str:
        with pytest.raises(UserError) as caught:
            load(*arguments, **options)
        return str(caught.value)

    return read


def chat(*contents: Any, system: str | None = None, **more: Any) -> list[dict[str, Any]]:
    roles = ("user", "assistant") * len(contents)
    first = [{"role": "system", "content": system}] if system else []
    return first + [{"role": role, "content": content} | more for role, content in zip(roles, contents, strict=False)]


def ids(prompts: PromptSource, number: int = 0) -> list[int]:
    return list(prompts.first(number + 1)[number].token_ids)


def raw(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text alone, by the tokenizers library."""
    return tokenizer._tokenizer.encode(text, add_special_tokens=False).ids


# --- made right ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affixes", ["$A", "<s> $A", "<s> $A </s>", "$A </s>", "<s> $A </s> <s>"])
def test_a_prompt_begins_as_the_tokenizer_begins_and_never_ends(affixes: str, load: Load) -> None:
    tokenizer = bytes_tokenizer(affixes=affixes)
    texts = ["red", "grün 🎈", "  a\n b  "]
    prompts = load(tokenizer, *texts)
    for number, text in enumerate(texts):
        begin = [0] if affixes.startswith("<s>") else []
        assert ids(prompts, number) == begin + raw(tokenizer, text)


def test_the_end_that_byt5_appends_is_left_out(load: Load) -> None:
    assert ids(load(ByT5Tokenizer(), "red é")) == [byte + 3 for byte in "red é".encode()]


def test_word_pieces_keep_their_beginning_and_lose_their_end(load: Load) -> None:
    assert ids(load(lowercasing_tokenizer(), "Red café's!")) == [1, 3, 4, 5, 6, 7, 8]


def test_pieces_with_bytes_keep_every_letter(load: Load) -> None:
    tokenizer = pieces_tokenizer()
    assert ids(load(tokenizer, "red green 🎈")) == [1, *raw(tokenizer, "red green 🎈")]


def test_a_chat_that_is_already_rendered_keeps_its_one_beginning(load: Load) -> None:
    tokenizer = bytes_tokenizer()
    rendered = tokenizer.apply_chat_template(chat("red"), tokenize=False, add_generation_prompt=True)
    prompts = load(tokenizer, rendered, chat("red"))
    assert ids(prompts, 0) == ids(prompts, 1) == raw(tokenizer, "<s>[user] red</s>[assistant]")


def test_a_template_that_reads_content_by_parts_gets_parts(load: Load) -> None:
    tokenizer = bytes_tokenizer(template=PARTS)
    prompts = load(tokenizer, chat("red", "green", "red", system="blue"))
    assert ids(prompts) == raw(tokenizer, "<s>[system]blue[user]red[assistant]green[user]red[assistant]")


def test_a_message_of_one_part_of_text_is_that_text(load: Load) -> None:
    part = {"type": "text", "text": "red", "image_url": None}
    for template in (TEMPLATE, PARTS):
        prompts = load(bytes_tokenizer(template=template), chat([part]), chat("red"))
        assert ids(prompts, 0) == ids(prompts, 1)
        assert prompts.first(1)[0].text == "red"


def test_a_template_may_trim_and_begin_each_turn_anew(load: Load) -> None:
    """As Llama 2's does; what a template writes twice on purpose is its own affair."""
    template = "{% for m in messages %}{{ bos_token if m.role == 'user' }}{{ m.content | trim }}|{% endfor %}"
    tokenizer = bytes_tokenizer(template=template)
    assert ids(load(tokenizer, chat(" red ", "green\n", "blue"))) == raw(tokenizer, "<s>red|green|<s>blue|")


def test_keys_without_a_value_are_no_unread_keys(load: Load) -> None:
    row = {"prompt": chat("red", name=None, tool_calls=[]), "tools": None, "images": [], "id": 7, "source": "mine"}
    assert ids(load(bytes_tokenizer(), rows=[row])) == ids(load(bytes_tokenizer(), chat("red")))


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"content": "red", "tool_calls": [{"id": "1"}]}, "tool_calls"),
        ({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls"),
        ({"content": "red", "name": "ann"}, "name"),
        ({"content": "red", "reasoning_content": "hm"}, "reasoning_content"),
        ({"content": None}, "content is null"),
        ({"content": [{"type": "text", "text": "red"}, {"type": "image"}]}, "'image'"),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "'image_url'"),
        ({"content": [{"type": "text", "text": "red", "image": "a.png"}]}, "image would not reach the policy"),
        ({"content": [{"type": "text", "text": "red"}, {"type": "text", "text": "green"}]}, "2 parts"),
        ({"content": [{"type": "text", "text": None}]}, "whose text is null. Give it a text"),
        ({"content": [{"type": "text"}]}, "whose text is null. Give it a text"),
        ({"content": []}, "an empty list. Give the message a text"),
    ],
)
def test_what_is_not_read_is_refused_with_its_line(
    message: dict[str, Any], problem: str, refusal: Callable[..., str]
) -> None:
    said = refusal(bytes_tokenizer(), chat("red"), [{"role": "user", **message}])
    assert "p.jsonl:2: " in said
    assert problem in said
    if not re.search("2 parts|Give", said):
        assert "not supported" in said


@pytest.mark.parametrize("key", ["tools", "documents", "images", "image", "chat_template_kwargs"])
@pytest.mark.parametrize("ending", [".jsonl", ".parquet", "dataset"])
def test_a_column_that_changes_the_prompt_is_refused(
    key: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"prompt": "red", key: None, "id": 1}, {"prompt": "red", key: ["x"], "id": 2}]
    path = tmp_path / ("folder" if ending == "dataset" else f"p{ending}")
    if ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        file = path
        if ending == "dataset":
            path.mkdir()
            file = path / "train.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=rf"(:2|row 2): {key} .*not supported"):
        PromptSource(PromptsConfig(path=str(path)), bytes_tokenizer(), context_length=99, max_new_tokens=9, seed=0)


@pytest.mark.parametrize("kind", ["Audio", "Image"])
def test_sounds_and_pictures_are_refused_without_being_opened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening them would need libraries, and here they are broken."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    column = kind.lower()
    features = {"prompt": {"dtype": "string", "_type": "Value"}, column: {"_type": kind}}
    table = pyarrow.table({"prompt": ["red"], column: [{"bytes": b"broken", "path": "a"}]})
    (tmp_path / "folder").mkdir()
    pyarrow.parquet.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}),
        tmp_path / "folder" / "train.parquet",
    )
    with pytest.raises(UserError, match=rf"row 1: {column} .*not supported"):
        PromptSource(
            PromptsConfig(path=str(tmp_path / "folder")), bytes_tokenizer(), context_length=99, max_new_tokens=9, seed=0
        )


def test_a_template_without_a_system_role_is_refused_by_the_first_system_message(refusal: Callable[..., str]) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}[user] {{ m.content }}{% endif %}{% endfor %}[assistant]"
    )
    said = refusal(bytes_tokenizer(template=template), chat("red"), chat("red", system="Be brief."))
    assert "p.jsonl:2: the chat template" in said
    assert "the system message 'Be brief.'" in said


def test_a_text_that_stands_twice_must_be_written_twice(refusal: Callable[..., str]) -> None:
    template = "{{ messages[-1].content }}|{% for m in messages %}{{ m.role }}{% endfor %}"
    assert "the user message 'yes'" in refusal(bytes_tokenizer(template=template), chat("yes", "oh", "yes"))


def test_a_short_text_is_not_found_in_what_the_template_writes_itself(refusal: Callable[..., str]) -> None:
    template = "{{ bos_token }}[user] {{ messages[-1].content }}[assistant]"
    said = refusal(bytes_tokenizer(template=template), chat("red"), chat("red", system="S"))
    assert "p.jsonl:2: the chat template" in said
    assert "leaves out the system message 'S'" in said
    assert "leaves out the user message 'user'" in refusal(bytes_tokenizer(template=template), chat("user", "a", "red"))


def test_turns_in_another_order_are_refused_but_a_system_message_may_move(
    load: Load, refusal: Callable[..., str]
) -> None:
    template = "{% for m in messages | reverse %}[{{ m.role }}] {{ m.content }}{% endfor %}[assistant]"
    assert "renders the messages in another order" in refusal(bytes_tokenizer(template=template), chat("a", "b", "c"))
    moves = (
        "{% for m in messages[1:] %}{% if loop.last %}{{ messages[0].content }} {% endif %}"
        "[{{ m.role }}] {{ m.content }}{% endfor %}[assistant]"
    )
    assert len(load(bytes_tokenizer(template=moves), chat("red", "green", "blue", system="Be brief."))) == 1


def test_a_template_may_look_into_a_text(load: Load) -> None:
    template = "{% for m in messages %}{{ m.content if '|' in m.content }}{% endfor %}[assistant]"
    assert len(load(bytes_tokenizer(template=template), chat("red|green"))) == 1


def test_a_template_that_ends_with_the_end_token_is_refused(refusal: Callable[..., str]) -> None:
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    said = refusal(bytes_tokenizer(template=template), chat("red"))
    assert "p.jsonl:1: the prompt ends with the end token </s>" in said
    assert "add_generation_prompt" in said


@pytest.mark.parametrize("tokenizer", [bytes_tokenizer(), ByT5Tokenizer()], ids=["bytes", "byt5"])
def test_a_text_that_ends_with_the_end_token_is_refused(tokenizer: Any, refusal: Callable[..., str]) -> None:
    assert "p.jsonl:2: the prompt ends with the end token </s>" in refusal(tokenizer, "red", "red</s>")


@pytest.mark.parametrize("prompt", ["red <s> green", " <s> red", "<s><s>red", chat("<s>red"), chat("a", "<s>b", "c")])
def test_a_second_beginning_is_refused(prompt: Any, refusal: Callable[..., str]) -> None:
    said = refusal(bytes_tokenizer(), "red", prompt)
    assert "p.jsonl:2: " in said
    assert "<s>" in said
    assert "messages" in said, "the remedy"


def test_a_template_that_begins_twice_is_refused(refusal: Callable[..., str]) -> None:
    template = "{{ bos_token }}{{ bos_token }}{{ messages[0].content }}"
    assert "p.jsonl:1: the prompt has the beginning token <s> twice" in refusal(
        bytes_tokenizer(template=template), chat("red")
    )


def test_one_token_for_beginning_and_end_may_separate_texts_but_not_begin_twice(
    load: Load, refusal: Callable[..., str]
) -> None:
    tokenizer = bytes_tokenizer(affixes="</s> $A", bos_token="</s>")
    assert ids(load(tokenizer, "red</s>green")) == [0, *raw(tokenizer, "red</s>green")]
    assert "twice" in refusal(tokenizer, "</s></s>red")


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [
        (forgetful_tokenizer(), "red reed drum"),
        (word_tokenizer(unknown=True), "red mauve"),
        (lowercasing_tokenizer(), "red 🎈"),
    ],
    ids=["vanishes", "unknown word", "unknown letter"],
)
def test_text_that_the_tokenizer_does_not_know_is_refused(
    tokenizer: Any, text: str, refusal: Callable[..., str], load: Load
) -> None:
    assert len(load(tokenizer, "red")) == 1
    said = refusal(tokenizer, "red", text)
    assert f"p.jsonl:2: the policy's tokenizer does not keep the text {text!r}" in said


def test_a_tokenizer_that_fails_on_a_text_is_refused_with_its_line(refusal: Callable[..., str]) -> None:
    said = refusal(word_tokenizer(unknown=False), "red", "red mauve")
    assert "p.jsonl:2: the policy's tokenizer fails on the prompt" in said
    assert "Missing [UNK] token" in said


def test_preferences_are_held_to_the_same(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"

    def imported(tokenizer: Any, prompt: Any, chosen: Any, **more: Any) -> tuple[int, ...]:
        path.write_text(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": "blue"} | more) + "\n")
        return load_imported(str(path), tokenizer, 999, [1]).duels[0].prompt.token_ids

    tokenizer = bytes_tokenizer(affixes="<s> $A </s>")
    assert list(imported(tokenizer, "red", "green")) == [0, *raw(tokenizer, "red")]
    answer = {"role": "assistant", "content": "green"}
    assert imported(tokenizer, "red", [answer | {"content": [{"type": "text", "text": "green"}]}])
    for chosen in (
        [answer | {"tool_calls": [1]}],
        [answer | {"content": None}],
        [answer | {"content": [{"type": "image"}]}],
    ):
        with pytest.raises(UserError, match=r"mine\.jsonl:1: .*not supported"):
            imported(tokenizer, "red", chosen)
    assert imported(word_tokenizer(unknown=True), "red", "", rejected="red red")
    with pytest.raises(UserError, match=r"mine\.jsonl:1: the policy's tokenizer does not keep the text 'mauve'"):
        imported(word_tokenizer(unknown=True), "red", "mauve", rejected="red")
    with pytest.raises(UserError, match=r"mine\.jsonl:1: tools .*not supported"):
        imported(tokenizer, "red", "green", tools=[{"name": "x"}])
    with pytest.raises(UserError, match=r"mine\.jsonl:1: the prompt ends with the end token"):
        imported(tokenizer, "red</s>", "green")


def test_without_the_check_lost_text_would_pass(
    load: Load, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "[user] {{ messages[-1].content }}[assistant]"
    arguments = bytes_tokenizer(template=template), chat("red", system="Be brief.")
    assert "Be brief." in refusal(*arguments)
    monkeypatch.setattr(tokens, "_lost", lambda texts, decoded: None)
    assert "Be brief." in refusal(*arguments)
    monkeypatch.setattr(tokens, "_left_out", lambda messages, tokenizer, template: None)
    assert len(load(*arguments)) == 1


# --- templates that fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for m in messages %}", "TemplateSyntaxError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ messages[0].nothing.more }}", "UndefinedError"),
        ("{{ messages[0]['content'].missing() }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages | dictsort }}", "AttributeError"),
        ({"rag": "x", "tool_use": "y"}, "['rag', 'tool_use']"),
    ],
)
def test_whatever_a_template_raises_is_refused_with_template_and_line(
    template: Any, words: str, refusal: Callable[..., str]
) -> None:
    tokenizer = bytes_tokenizer(template=template)
    tokenizer.name_or_path = "models/mine"
    said = refusal(tokenizer, "red", chat("red"))
    assert "p.jsonl:2: the chat template" in said
    assert "models/mine" in said
    assert words in said


def test_of_several_templates_the_default_is_used(load: Load) -> None:
    tokenizer = bytes_tokenizer(template={"rag": "no", "default": TEMPLATE})
    assert ids(load(tokenizer, chat("red"))) == ids(load(bytes_tokenizer(), chat("red")))
