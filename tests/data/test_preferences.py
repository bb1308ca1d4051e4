"""Preference files: what is written is read again, here and by datasets; what is wrong is named where it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_agent.data.encoders import ENCODERS, Columns, JsonLines, sides, write_preferences
from sea_agent.data.preferences import read_preferences
from sea_agent.data.rows import ENDINGS
from sea_agent.errors import UserError
from sea_agent.service import export as service_export
from sea_agent.types import Prompt

KEY = "posterior.preferences_path"
FORMATS = pytest.mark.parametrize("ending", ENDINGS)
COLUMNS: Columns = {"annotator": "text", "n": "integer", "score": "number", "who": "texts", "votes": "counts"}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
prompts = texts.filter(lambda text: text.strip())


def provenance(number: int) -> dict[str, Any]:
    votes = {"first": number, "second": 0, "tie": 0, "both_bad": 1}
    return {"annotator": f"ann {number}", "n": number, "score": number / 3, "who": ["a", "b"][:number], "votes": votes}


def rows_of(count: int, chat: bool = False) -> list[dict[str, Any]]:
    messages = (("system", "be brief"), ("user", "say it")) if chat else None
    return [
        sides(Prompt("p", f"say {number}", (), messages), f" good {number}", f" bad {number}") | provenance(number)
        for number in range(count)
    ]


# --- writing and reading ---------------------------------------------------------------------------------------------


@FORMATS
@pytest.mark.parametrize("chat", [False, True])
def test_what_is_written_can_be_imported(ending: str, chat: bool, tmp_path: Path) -> None:
    path = tmp_path / f"rows{ending}"
    assert write_preferences(path, rows_of(600, chat), COLUMNS, chat=chat) == 600
    read = read_preferences(str(path), KEY)
    assert [(row.chosen, row.rejected) for row in read] == [(f" good {n}", f" bad {n}") for n in range(600)]
    assert {(row.weight, row.annotator) for row in read[:2]} == {(1.0, "ann 0"), (1.0, "ann 1")}
    if chat:
        assert read[0].prompt.messages == (("system", "be brief"), ("user", "say it"))
    else:
        assert read[599].prompt.text == "say 599"
    assert list(tmp_path.iterdir()) == [path]


@given(st.lists(st.tuples(prompts, texts, texts), max_size=6))
def test_any_text_survives_both_forms(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    written = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows]
    for ending in ENDINGS:
        write_preferences(folder / f"rows{ending}", iter(written), {}, chat=False)
        if not rows:
            with pytest.raises(UserError, match="there are no preferences in it"):
                read_preferences(str(folder / f"rows{ending}"), KEY)
            continue
        read = read_preferences(str(folder / f"rows{ending}"), KEY)
        assert [(row.prompt.text, row.chosen, row.rejected) for row in read] == rows


@FORMATS
@pytest.mark.parametrize("chat", [False, True])
def test_datasets_loads_what_is_written(ending: str, chat: bool, tmp_path: Path) -> None:
    import datasets

    path = tmp_path / f"rows{ending}"
    rows = rows_of(3, chat)
    write_preferences(path, rows, COLUMNS, chat=chat)
    kind = {".jsonl": "json", ".parquet": "parquet"}[ending]
    table = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert table.to_list() == rows


@FORMATS
def test_datasets_loads_an_export_of_the_service_whose_columns_are_empty_at_first(ending: str, tmp_path: Path) -> None:
    """A column may be null in every row; the types of Parquet do not hang on it."""
    import datasets

    row = dict.fromkeys(("prompt", "chosen", "rejected", *service_export.COLUMNS))
    row |= {"prompt": "p", "chosen": "a", "rejected": "b", "votes": provenance(0)["votes"], "annotators": ["ann"]}
    path = tmp_path / f"rows{ending}"
    write_preferences(path, [row, row | {"rule": "sea_ee", "score": 0.5}], service_export.COLUMNS, chat=False)
    kind = {".jsonl": "json", ".parquet": "parquet"}[ending]
    table = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert table["rule"][:] == [None, "sea_ee"]
    assert table["annotators"][:] == [["ann"], ["ann"]]


@FORMATS
def test_the_pieces_of_an_encoder_are_one_file(ending: str) -> None:
    """However the rows are cut, and with pieces that hold none."""
    rows = rows_of(5)
    results = []
    for cut in ([rows], [rows[:2], [], rows[2:]], [[row] for row in rows]):
        encoder = ENCODERS[ending](COLUMNS)
        content = b"".join([*(encoder.encode(piece) for piece in cut), encoder.close()])
        if ending == ".parquet":
            content = pyarrow.parquet.read_table(pyarrow.BufferReader(content)).to_pylist()
        results.append(content)
    assert results[0] == results[1] == results[2]


def test_a_file_that_could_not_be_finished_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("precious\n")

    def broken() -> Any:
        yield from rows_of(300)
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        write_preferences(path, broken(), COLUMNS, chat=False)
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]
    assert path.read_text() == "precious\n"


@pytest.mark.parametrize(
    ("name", "words"), [("rows.csv", r"ends in \.jsonl or \.parquet"), ("no/rows.jsonl", "written")]
)
def test_a_file_that_cannot_be_written_is_named(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{name}.*{words}"):
        write_preferences(tmp_path / name, rows_of(1), COLUMNS, chat=False)
    assert list(tmp_path.iterdir()) == []


def test_what_json_cannot_say_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        JsonLines({}).encode([{"score": float("nan")}])


# --- what is refused -------------------------------------------------------------------------------------------------

GOOD = {"prompt": "say it", "chosen": "a", "rejected": "b"}


@pytest.fixture
def second_row(write_jsonl: Callable[..., Path]) -> Callable[..., str]:
    """The complaint about a file whose second row has these values."""

    def complain(**values: Any) -> str:
        row = {name: value for name, value in (GOOD | values).items() if value != "absent"}
        path = write_jsonl([GOOD, row], "mine.jsonl")
        with pytest.raises(UserError) as caught:
            read_preferences(str(path), KEY)
        return str(caught.value)

    return complain


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"chosen": "absent"}, ["no field 'chosen'", "prompt, rejected", "Name the columns"]),
        ({"chosen": None}, ["chosen is null", "nobody won"]),
        ({"rejected": 3}, ["rejected is a number (3)", "Give a text"]),
        ({"chosen": []}, ["chosen is a list", "one message of the assistant"]),
        ({"chosen": [{"role": "user", "content": "a"}]}, ["chosen is a list"]),
        ({"chosen": [{"role": "assistant", "content": "a"}] * 2}, ["chosen is a list"]),
        ({"chosen": [{"role": "assistant", "content": 1}]}, ["a chat message must be an object"]),
        ({"prompt": " "}, ["the prompt is empty"]),
        ({"prompt": [{"role": "user"}]}, ["a chat message must be an object"]),
        ({"prompt": [{"role": "assistant", "content": "a"}]}, ["the last message is the assistant's"]),
        ({"rejected": "\ud800"}, ["half a character"]),
        ({"weight": 0}, ["weight is a number (0)", "above 0"]),
        ({"weight": -1.5}, ["weight is a number (-1.5)"]),
        ({"weight": float("nan")}, ["weight is a number (nan)"]),
        ({"weight": float("inf")}, ["weight is a number (inf)"]),
        ({"weight": True}, ["weight is a boolean"]),
        ({"weight": "1"}, ["weight is a text"]),
        ({"annotator": 7}, ["annotator is a number (7)", "Give a name"]),
    ],
    ids=str,
)
def test_a_bad_row_is_named_with_its_line(
    values: dict[str, Any], words: list[str], second_row: Callable[..., str]
) -> None:
    message = second_row(**values)
    for word in ["mine.jsonl:2: ", *words]:
        assert word in message, message


def test_a_good_second_row_is_read(write_jsonl: Callable[..., Path]) -> None:
    """The control: nothing above fails for a reason of its own."""
    rows = [
        GOOD,
        GOOD | {"weight": 0.5, "annotator": "ann", "anything": {"else": 1}},
        {
            "prompt": [{"role": "user", "content": "say it"}],
            "chosen": [{"role": "assistant", "content": ""}],
            "rejected": [{"role": "assistant", "content": "b"}],
            "weight": None,
        },
    ]
    read = read_preferences(str(write_jsonl(rows)), KEY)
    assert [(row.chosen, row.weight, row.annotator) for row in read] == [
        ("a", 1, None),
        ("a", 0.5, "ann"),
        ("", 1, None),
    ]
    assert read[2].prompt.text == "say it"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "there are no preferences in it"),
        (json.dumps(GOOD) + "\n\n" + json.dumps(GOOD), "mine.jsonl:2: the line is blank"),
        (json.dumps(GOOD) + "\n{", "mine.jsonl:2: not JSON"),
        ("[" * 100_000, "mine.jsonl:1: not JSON"),
        ("[1]", "mine.jsonl:1: expected a JSON object"),
    ],
    ids=["empty", "blank", "broken", "deep", "list"],
)
def test_a_broken_file_is_named_with_its_line(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(content)
    with pytest.raises(UserError, match=words):
        read_preferences(str(tmp_path / "mine.jsonl"), KEY)


def test_a_file_that_is_missing_or_of_another_kind_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{KEY}=.*gone\.jsonl: no such file"):
        read_preferences(str(tmp_path / "gone.jsonl"), KEY)
    with pytest.raises(UserError, match=rf"{KEY}=.*gone\.csv: not a file of preferences"):
        read_preferences(str(tmp_path / "gone.csv"), KEY)


def test_a_row_of_parquet_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    pyarrow.parquet.write_table(pyarrow.table({name: [value, value] for name, value in GOOD.items()}), path)
    assert len(read_preferences(str(path), KEY)) == 2
    pyarrow.parquet.write_table(
        pyarrow.table({"prompt": ["p", "p"], "chosen": ["a", None], "rejected": ["b", "b"]}), path
    )
    with pytest.raises(UserError, match=r"mine\.parquet, row 2: chosen is null"):
        read_preferences(str(path), KEY)
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["p"], "chosen": ["a"]}), path)
    with pytest.raises(UserError, match=r"mine\.parquet: no field 'rejected'"):
        read_preferences(str(path), KEY)
