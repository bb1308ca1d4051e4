"""Files of duels: what is written by Python's own writers is read again; what is wrong is named by row and column."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_agent.data import export as run_export
from sea_agent.service import export, importing
from sea_agent.service.importing import MOST_FAULTS, MOST_ROWS, SIDES, DuelFile, Refused, read_duels
from sea_agent.service.limits import TEXT_CHARACTERS
from sea_agent.service.schemas.files import METADATA

Rows = list[dict[str, Any]]
JSONL, JSON, CSV = "application/jsonl", "application/json", "text/csv"

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
pieces = st.sampled_from(["\r\n", "\r", "\n", '"', ",", ";", "\ufeff", "\u2028", "\x85", " "]) | characters
texts = st.lists(pieces, max_size=12).map("".join)
prompts = texts.filter(lambda text: text.strip())


def as_jsonl(rows: Rows, ascii_only: bool = False) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()


def as_json(rows: Rows) -> bytes:
    return json.dumps(rows, indent=1).encode()


def as_csv(rows: Rows, **dialect: Any) -> bytes:
    target = io.StringIO(newline="")
    writer = csv.DictWriter(target, list(rows[0]), **dialect)
    writer.writeheader()
    writer.writerows(rows)
    return target.getvalue().encode()


WRITERS: list[tuple[str, Callable[..., bytes]]] = [
    (JSONL, as_jsonl),
    (JSONL, lambda rows: as_jsonl(rows, ascii_only=True).replace(b"\n", b"\r\n")),
    (JSON, as_json),
    (CSV, as_csv),
    (CSV, lambda rows: as_csv(rows, quoting=csv.QUOTE_ALL)),
]


def row(number: int = 0, **more: Any) -> dict[str, Any]:
    return {"prompt": f"p{number}", "first": f"a{number}", "second": f"b{number}", **more}


def faults(content: bytes, media_type: str = JSONL, **how: Any) -> list[tuple[str, str]]:
    with pytest.raises(Refused) as refused:
        read_duels(content, media_type, **how)
    return refused.value.faults


def fault(content: bytes | Rows, media_type: str = JSONL, **how: Any) -> tuple[str, str]:
    """The only fault of a file."""
    (one,) = faults(as_jsonl(content) if isinstance(content, list) else content, media_type, **how)
    return one


# --- what is written is read -----------------------------------------------------------------------------------------


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "prompt": prompts,
                "first": texts,
                "second": texts,
                "priority": st.integers(-100, 100),
                "votes_needed": st.integers(1, 100),
                "score": st.floats(allow_nan=False, allow_infinity=False),
                "rule": texts.filter(bool),
            }
        ),
        min_size=1,
        max_size=5,
    ),
    sides=st.sampled_from(SIDES),
    writer=st.sampled_from(WRITERS),
    bom=st.booleans(),
)
def test_what_is_written_is_read_as_it_was(rows: Rows, sides: tuple[str, str], writer: Any, bom: bool) -> None:
    media_type, write = writer
    keyed = [{"client_key": f"k{number}", **each} for number, each in enumerate(rows)]
    names = dict(zip(("first", "second"), sides, strict=True))
    written = [{names.get(name, name): value for name, value in each.items()} for each in keyed]
    read = read_duels(b"\xef\xbb\xbf" * bom + write(written), media_type)
    assert [{name: duel[name] for name in keyed[0]} for duel in read.duels] == keyed


def test_a_reader_of_lines_would_not_give_back_what_was_written() -> None:
    """The control: these texts are among those above."""
    content = as_csv([row(prompt="a\nb")])
    assert len(content.decode().splitlines()) == 3
    assert read_duels(content, CSV).duels[0]["prompt"] == "a\nb"


@pytest.mark.parametrize(("media_type", "write"), WRITERS)
def test_a_row_has_the_same_key_in_every_format_and_another_for_other_texts(media_type: str, write: Any) -> None:
    def keys(rows: Rows) -> list[str]:
        return [duel["client_key"] for duel in read_duels(write(rows), media_type).duels]

    one, other = keys([row(1), row(2)])
    assert [one, other] == [duel["client_key"] for duel in read_duels(as_json([row(1), row(2)]), JSON).duels]
    swapped = {"prompt": "p1", "first": "b1", "second": "a1"}
    assert len({one, other, *keys([swapped])}) == 3


def test_an_id_is_a_client_key_and_may_be_a_number() -> None:
    given_ids = [row(0, id=7), row(1, id="x"), row(2, id=None)]
    seven, x, digest = (duel["client_key"] for duel in read_duels(as_jsonl(given_ids), JSONL).duels)
    assert (seven, x, len(digest)) == ("7", "x", 64)


def test_empty_cells_are_not_given_and_empty_responses_are_texts() -> None:
    content = b"prompt,chosen,rejected,priority,gold,id\nq,,b,,,\n\nr,a,,3,rejected,k\n\n"
    first, second = read_duels(content, CSV).duels
    assert (first["first"], first["priority"], first["gold"], len(first["client_key"])) == ("", 0, None, 64)
    assert (second["second"], second["priority"], second["gold"], second["client_key"]) == ("", 3, "second", "k")


def test_a_chat_is_written_out_as_text() -> None:
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "say it"}]
    answer = [{"role": "assistant", "content": "it"}]
    rows = [
        {"prompt": chat, "chosen": answer, "rejected": "no"},
        {"prompt": chat[1:], "chosen": answer, "rejected": "no"},
    ]
    first, second = read_duels(as_jsonl(rows), JSONL).duels
    assert first["prompt"] == "system: be brief\nuser: say it"
    assert (second["prompt"], second["first"]) == ("say it", "it")


def test_gold_is_the_name_of_a_column_or_of_a_side() -> None:
    def gold(side: str, names: tuple[str, str]) -> str:
        rows = [{"prompt": "p", names[0]: "a", names[1]: "b", "gold": side}]
        return read_duels(as_jsonl(rows), JSONL).duels[0]["gold"]

    for names in SIDES:
        assert [gold(side, names) for side in (*names, "first", "second")] == ["first", "second"] * 2
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    assert read_duels(as_jsonl(rows), JSONL).duels[0]["gold"] is None, "chosen alone makes nothing gold"
    assert read_duels(as_jsonl(rows), JSONL, gold=True).duels[0]["gold"] == "first"


def test_every_column_of_an_export_is_known_and_those_ignored_are_named() -> None:
    columns = {*export.COLUMNS, *run_export.COLUMNS, "weight"}
    assert columns - {"client_key", "rule", "policy_version", "score"} == set(METADATA)
    read = read_duels(as_jsonl([row(0, outcome="first"), row(1, votes={"first": 2})]), JSONL)
    assert read.ignored == ["outcome", "votes"]


def test_the_same_row_twice_is_one_duel() -> None:
    read = read_duels(as_jsonl([row(), row()]), JSONL)
    assert read.duels[0] == read.duels[1]
    assert read == DuelFile(read.duels, {read.duels[0]["client_key"]: "line 1"}, [])


# --- what is wrong is named ------------------------------------------------------------------------------------------

GOOD = as_jsonl([row()])


@pytest.mark.parametrize(
    ("content", "media_type", "where", "what"),
    [
        (b"", JSONL, "file", "no duels in it. Give at least one row"),
        (b" \n", JSON, "file", "no duels in it"),
        (b"[]", JSON, "file", "no duels in it"),
        (b"\xef\xbb\xbf", CSV, "file", "no duels in it"),
        (b"prompt,first,second\r\n", CSV, "file", "no duels in it"),
        (GOOD + b"\n" + GOOD, JSONL, "line 2", "blank. Remove it"),
        (GOOD + b'{"prompt": \n', JSONL, "line 2", "not JSON"),
        (GOOD + b"[1]\n", JSONL, "line 2", "expected a JSON object, found a list"),
        (GOOD + b"[" * 100_000, JSONL, "line 2", "not JSON"),
        (GOOD + b'{"prompt": ' + b"9" * 5000 + b"}", JSONL, "line 2", "not JSON"),
        (GOOD + b'{"prompt": "a", "prompt": "b"}', JSONL, "line 2", "the key 'prompt' is there twice"),
        (GOOD + b'{"score": NaN}', JSONL, "line 2", "NaN is no number in JSON"),
        (b'{"prompt": "p"}', JSON, "file", "expected a JSON list of objects, found an object"),
        (b'[{"prompt": "p"},\n,]', JSON, "file", "not JSON: Expecting value: line 2 column 1"),
        (b"[" + GOOD + b", 7]", JSON, "row 2", "expected a JSON object, found a number"),
        (GOOD + b'{"prompt": "\xff"}', JSONL, "file", "line 2 is not UTF-8. Save the file as UTF-8"),
        ("prompt,first,second\np,a,b".encode("utf-16"), CSV, "file", "line 1 is not UTF-8"),
        (b"prompt;first;second\np;a;b", CSV, "line 1, prompt;first;second", "no column of a duel"),
        (b"prompt,first,second,prompt\np,a,b,p", CSV, "line 1, prompt", "there twice. Keep one"),
        (b'prompt,first,second\n"a\nb",a,b\np,a\n', CSV, "row 2 (line 4)", "2 cells under 3 columns"),
        (b'prompt,first,second\np,a,b\np,"a,b\n', CSV, "line 3", "Close every quote"),
        (b'prompt,first,second\np,"a"x,b\n', CSV, "line 2", "not CSV"),
        (b"prompt,first,second\np,a," + b"x" * 200_000, CSV, "line 2", "a text has at most 100,000 characters"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_where_it_breaks(
    content: bytes, media_type: str, where: str, what: str
) -> None:
    found, said = fault(content, media_type)
    assert found == where
    assert what in said


@pytest.mark.parametrize(
    ("wrong", "column", "what"),
    [
        ({"prompt": ""}, "prompt", "the prompt is empty"),
        ({"prompt": None}, "prompt", "the prompt is null"),
        ({"prompt": []}, "prompt", "Give it at least one message"),
        ({"prompt": [{"role": "user"}]}, "prompt", "a chat message must be an object with the texts role and content"),
        ({"prompt": [{"role": "user", "content": "a", "\ud800": 1}]}, "prompt", r"\ud800 would not reach the policy"),
        ({"prompt": "a\x00b"}, "prompt", "a NUL character at position 1. Remove it"),
        ({"first": "a\ud800"}, "first", "a lone surrogate (half a character) at position 1. Repair it"),
        ({"second": None}, "second", "null. Leave out duels that nobody won"),
        ({"second": 1}, "second", "a number (1). Give a text"),
        ({"second": "x" * (TEXT_CHARACTERS + 1)}, "second", "100,001 characters, and a text has at most 100,000"),
        ({"prompt": [{"role": "user", "content": "x" * TEXT_CHARACTERS}] * 2}, "prompt", "at most 100,000"),
        ({"client_key": "x" * 201}, "client_key", "at most 200 characters"),
        ({"id": "a\x00"}, "id", "Correct it"),
        ({"client_key": "\ud800"}, "client_key", "Correct it"),
        ({"client_key": 1.5}, "client_key", "Give a text or a whole number"),
        ({"client_key": True}, "client_key", "Give a text or a whole number"),
        ({"votes_needed": 0}, "votes_needed", "greater than or equal to 1"),
        ({"priority": "high"}, "priority", "valid integer"),
        ({"gold": "tie"}, "gold", "'first' or 'second'"),
        ({"gold": ["first"]}, "gold", "'first' or 'second'"),
        ({"gold": "first", "second": "a0"}, "second", "the same text as first"),
        ({"expires_at": "tomorrow"}, "expires_at", "not an ISO 8601 time"),
        ({"mood": 1}, "mood", "no column of a duel. Remove it, or rename it to one of prompt, first, second, chosen"),
        ({"\ud800": 1}, r"\ud800", "no column of a duel"),
        ({"x" * 5000: 1}, "x" * 100, "no column of a duel"),
        ({"client_key": "k", "id": "k"}, "id", "there is a client_key too. Keep one"),
    ],
)
def test_a_wrong_row_is_named_with_its_column(wrong: dict[str, Any], column: str, what: str) -> None:
    content = as_jsonl([row(1), row(0, **wrong)], ascii_only=True)
    found, said = fault(content)
    assert found.startswith(f"line 2, {column}")
    assert len(found) < 600
    assert what in said
    found.encode()
    said.encode()


def test_numbers_in_cells_are_numbers_or_refused() -> None:
    header = b"prompt,first,second,votes_needed\n"
    assert read_duels(header + b"p,a,b,2", CSV).duels[0]["votes_needed"] == 2
    for cell in (b"two", b"1.5", b"nan", b"0", b"9" * 5000):
        assert fault(header + b"p,a,b," + cell, CSV)[0] == "row 1 (line 2), votes_needed", cell


def test_responses_need_one_pair_of_columns() -> None:
    assert "are none. Give one of these pairs: first and second, chosen and" in fault([{"prompt": "p"}])[1]
    both = fault([row(chosen="a")])
    assert both == ("line 1", both[1])
    assert "are first and second and chosen" in both[1]
    assert fault([{"prompt": "p", "chosen": "a"}])[0] == "line 1, rejected"
    assert fault([{"first": "a", "second": "b"}]) == ("line 1, prompt", "missing. The columns are first, second.")


def test_gold_chosen_is_refused_where_it_says_nothing_or_contradicts() -> None:
    assert "for the columns chosen and rejected" in fault([row()], gold=True)[1]
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "gold": "rejected"}]
    assert fault(rows, gold=True)[0] == "line 1, gold"


def test_two_rows_of_one_key_are_refused_with_both_places() -> None:
    keyed = fault([row(0, id="k"), row(1, id="k")])
    assert keyed == (
        "line 2, id",
        "that of line 1, which is another duel. Give each row its own, or remove one of them.",
    )
    unkeyed = fault([row(0), row(1), row(0, priority=1)])
    assert unkeyed[0] == "line 3, client_key"
    assert "the texts of line 1 with other settings" in unkeyed[1]


def test_faults_are_told_together_up_to_a_number() -> None:
    rows = [row(0, mood=1), row(1), row(2, priority="x", votes_needed=0)]
    assert [where for where, _ in faults(as_jsonl(rows))] == [
        "line 1, mood",
        "line 3, votes_needed",
        "line 3, priority",
    ]
    assert len(faults(as_jsonl([row(0, mood=1)] * 100))) == MOST_FAULTS
    assert len(faults(as_jsonl([row(0) | dict.fromkeys(map(str, range(100)))]))) == MOST_FAULTS


def test_too_many_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_ROWS == 10_000
    monkeypatch.setattr(importing, "MOST_ROWS", 3)
    assert len(read_duels(as_jsonl([row(n) for n in range(3)]), JSONL).duels) == 3
    assert fault([row(n) for n in range(4)]) == ("file", "more than 3 rows. Split the file.")
