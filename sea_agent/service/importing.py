"""Files of duels: JSON Lines, a JSON list, or CSV. A file is read and checked as a whole; nothing here stores it."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from sea_agent.data.prompt_rows import check_prompt, check_response
from sea_agent.data.rows import Record, json_type
from sea_agent.errors import UserError
from sea_agent.service.limits import TEXT_CHARACTERS
from sea_agent.service.schemas.duels import QueryIn
from sea_agent.service.schemas.files import KEYS, METADATA, MOST_ROWS, SETTINGS, SIDES, TEXTS
from sea_agent.service.store.queries import digest_of

MOST_FAULTS = 20
"""Faults told at once."""

T = TypeVar("T")

_NUMBERS = ("votes_needed", "priority", "policy_version", "score")
_COLUMNS = (*TEXTS, *KEYS, *SETTINGS)
_KNOWN = {*_COLUMNS, *METADATA}

Fault = tuple[str, str]
"""Where in the file something is wrong, and what."""


class Refused(Exception):
    """A file that cannot be taken, with its faults in the order of the file."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{where}: {what}" for where, what in faults))
        self.faults = [(_shown(where), _shown(what)) for where, what in faults]


@dataclass(frozen=True, slots=True)
class DuelFile:
    """The duels of a file as they are posted, where each ``client_key`` first stands, and the columns not read."""

    duels: list[dict[str, Any]]
    places: dict[str, str]
    ignored: list[str]


def read_duels(content: bytes, media_type: str, *, gold: bool = False) -> DuelFile:
    """The duels of a file in one of ``FORMATS``. With ``gold``, the chosen response is the right answer to each.

    Raises:
        Refused: naming row and column of what is wrong, and what to do.
    """
    duels: list[dict[str, Any]] = []
    seen: dict[str, tuple[str, dict[str, Any]]] = {}
    ignored: dict[str, None] = {}
    faults: list[Fault] = []
    rows = islice(FORMATS[media_type](_decoded(content)), MOST_ROWS + 1)
    while len(faults) < MOST_FAULTS:
        try:
            where, record = next(rows)
        except StopIteration:
            break
        except Refused as refused:  # what comes after it cannot be read
            faults += refused.faults
            break
        if len(duels) == MOST_ROWS:
            faults.append(("file", f"more than {MOST_ROWS:,} rows. Split the file."))
            break
        try:
            duel = _duel(record, where, gold)
            first, same_key = seen.setdefault(duel["client_key"], (where, duel))
            if same_key != duel:
                _refuse(f"{where}, {_key_column(record)}", _clash(record, first))
        except Refused as refused:
            faults += refused.faults
            continue
        duels.append(duel)
        ignored |= dict.fromkeys(name for name in record if name in METADATA)
    if faults:
        raise Refused(faults)
    if not duels:
        _refuse("file", "there are no duels in it. Give at least one row.")
    return DuelFile(duels, {key: where for key, (where, _) in seen.items()}, sorted(ignored))


# --- formats ---------------------------------------------------------------------------------------------------------


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        _refuse("file", f"line {line} is not UTF-8. Save the file as UTF-8.")


def _json_lines(text: str) -> Iterator[tuple[str, Record]]:
    lines = text.rstrip().split("\n")  # other line breaks may stand inside a text
    for number, line in enumerate(lines if lines != [""] else [], start=1):
        where = f"line {number}"
        if not line.strip():
            _refuse(where, "the line is blank. Remove it, or put one JSON object on it.")
        yield where, _object(_parsed(line, where), where)


def _json_list(text: str) -> Iterator[tuple[str, Record]]:
    if not text.strip():
        return
    rows = _parsed(text, "file")
    if not isinstance(rows, list):
        _refuse("file", f"expected a JSON list of objects, found {json_type(rows)}. Put the rows into [ and ].")
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", _object(row, f"row {number}")


def _csv(text: str) -> Iterator[tuple[str, Record]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    line, number = 1, 0
    try:
        for cells in reader:
            began, line = line, reader.line_num + 1
            if not cells:
                continue  # a blank line
            if header is None:
                header = cells
                _sides(header, f"line {began}")
                if twice := [name for name, count in Counter(header).items() if count > 1]:
                    _refuse(f"line {began}, {twice[0]}", "the column is there twice. Keep one.")
                continue
            number += 1
            where = f"row {number} (line {began})"
            if len(cells) != len(header):
                _refuse(
                    where,
                    f"{len(cells)} cells under {len(header)} columns. Separate cells by commas, and put a text with "
                    "commas, quotes or line breaks into quotes.",
                )
            yield where, {name: _cell(name, cell) for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        long = f"a cell is too long; a text has at most {TEXT_CHARACTERS:,} characters. Shorten it."
        quotes = f"not CSV ({error}). Close every quote, and write a quote inside a text twice."
        _refuse(f"line {line}", long if "field limit" in str(error) else quotes)


FORMATS: dict[str, Callable[[str], Iterator[tuple[str, Record]]]] = {
    "application/jsonl": _json_lines,
    "application/x-ndjson": _json_lines,
    "application/json": _json_list,
    "text/csv": _csv,
}
"""Readers of the rows of a file with their places in it, by the file's media type."""


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        _refuse(where, f"not JSON: {error}. Write one object with the names of columns and their values for each row.")
    except (ValueError, RecursionError) as error:
        _refuse(where, f"not JSON: {error}. Correct it.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _object(row: Any, where: str) -> Record:
    if not isinstance(row, dict):
        _refuse(where, f"expected a JSON object, found {json_type(row)}. Give the names of the columns too.")
    return row


def _cell(name: str, cell: str) -> str | int | float | None:
    """The value of a cell. Empty responses are texts, all else that is empty is not given."""
    if cell == "" and name not in TEXTS:
        return None
    if name in _NUMBERS:
        for kind in (int, float):
            try:
                return kind(cell)
            except ValueError:
                continue
    return cell


# --- rows ------------------------------------------------------------------------------------------------------------


def _sides(columns: Collection[str], where: str) -> tuple[str, str]:
    """The pair of columns that hold the responses, once every column was found to be known."""
    if unknown := [name for name in columns if name not in _KNOWN]:
        remedy = f"Remove it, or rename it to one of {', '.join(_COLUMNS)}."
        raise Refused([(f"{where}, {name}", f"no column of a duel. {remedy}") for name in unknown[:MOST_FAULTS]])
    if all(name in columns for name in KEYS):
        _refuse(f"{where}, id", "there is a client_key too. Keep one of them.")
    pairs = [pair for pair in SIDES if any(name in columns for name in pair)]
    if len(pairs) != 1:
        found = " and ".join(name for pair in pairs for name in pair if name in columns) or "none"
        one = ", ".join(" and ".join(pair) for pair in SIDES)
        _refuse(where, f"the columns of the responses are {found}. Give one of these pairs: {one}.")
    if missing := [name for name in ("prompt", *pairs[0]) if name not in columns]:
        raise Refused([(f"{where}, {name}", f"missing. The columns are {', '.join(columns)}.") for name in missing])
    return pairs[0]


def _duel(record: Record, where: str, gold: bool) -> dict[str, Any]:
    """A row as a duel that can be posted."""
    sides = _sides(record, where)
    prompt = _checked(check_prompt, record["prompt"], f"{where}, prompt").text
    first, second = (_checked(partial(check_response, field=name), record[name], f"{where}, {name}") for name in sides)
    _bounded({"prompt": prompt, sides[0]: first, sides[1]: second}, where)
    settings = {name: record[name] for name in SETTINGS if record.get(name) is not None}
    settings |= _gold(record, sides, where, gold)
    if "gold" in settings and first == second:
        _refuse(f"{where}, {sides[1]}", f"the same text as {sides[0]}, so neither is right. Leave out the row.")
    client_key = _client_key(record, where) or digest_of([prompt, first, second])
    try:
        duel = QueryIn(client_key=client_key, prompt=prompt, first=first, second=second, **settings)
    except ValidationError as error:
        raise Refused(
            [(f"{where}, {_column(fault['loc'], record)}", f"{fault['msg']}. Correct it.") for fault in error.errors()]
        ) from None
    return duel.model_dump()


def _checked(check: Callable[..., T], value: Any, where: str) -> T:
    """What a check of ``sea_agent.data`` returns, and its refusals as ours."""
    try:
        return check(value, where=where)
    except UserError as error:
        _refuse(where, str(error).removeprefix(f"{where}: "))


def _bounded(texts: Mapping[str, str], where: str) -> None:
    for name, text in texts.items():
        place = f"{where}, {name}"
        if len(text) > TEXT_CHARACTERS:
            most = f"{len(text):,} characters, and a text has at most {TEXT_CHARACTERS:,}"
            _refuse(place, f"{most}. Shorten it, or leave out the row.")
        if (position := text.find("\x00")) >= 0:
            _refuse(place, f"a NUL character at position {position}. Remove it.")


def _gold(record: Record, sides: tuple[str, str], where: str, chosen: bool) -> dict[str, Any]:
    """The right answer: what the row says, or that it is the chosen response."""
    given = record.get("gold")
    if not chosen:
        names = {name: side for side, name in zip(("first", "second"), sides, strict=True)}
        return {} if given is None else {"gold": names.get(given, given) if isinstance(given, str) else given}
    if given is not None:
        _refuse(f"{where}, gold", "the file says itself what is right. Leave out ?gold=chosen, or the column.")
    if sides != ("chosen", "rejected"):
        _refuse(where, "?gold=chosen is for the columns chosen and rejected. Leave it out, or rename the columns.")
    return {"gold": "first"}


def _key_column(record: Record) -> str:
    return "id" if "id" in record else "client_key"


def _client_key(record: Record, where: str) -> str | None:
    """The experiment's own id of a row, if there is one. It may be a whole number."""
    name = _key_column(record)
    value = record.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        _refuse(f"{where}, {name}", f"{json_type(value)}. Give a text or a whole number, or leave it out.")
    return value


def _clash(record: Record, first: str) -> str:
    if record.get(_key_column(record)) is None:
        return f"the texts of {first} with other settings. Remove one of the rows, or give each a client_key."
    return f"that of {first}, which is another duel. Give each row its own, or remove one of them."


def _column(loc: Sequence[Any], record: Record) -> str:
    return _key_column(record) if loc[0] == "client_key" else str(loc[0])


def _refuse(where: str, what: str) -> NoReturn:
    raise Refused([(where, what)]) from None


def _shown(text: str) -> str:
    """A message that can be encoded, and is not as long as the file it quotes."""
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= 500 else f"{text[:500]}…"
