"""Reading rows of a user's ``.jsonl`` or ``.parquet`` file, each with its location for error messages.

A row is located by ``file:line`` (JSONL) or by its row number (Parquet), both counted from 1.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sea_agent.errors import UserError, first_line

ENDINGS = (".jsonl", ".parquet")

Record = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """The required ``fields`` of every row and the ``optional`` ones; others are not read.

    Error messages quote ``example``, a valid row, and give ``remedy`` for a missing field.
    """

    fields: tuple[str, ...]
    example: Mapping[str, Any]
    remedy: str
    optional: tuple[str, ...] = ()


def read_rows(path: str, name: str, layout: Layout, key: str) -> Iterator[tuple[str, Record]]:
    """(where, row) of every row of a file, which the configuration key ``key`` calls ``name``.

    Raises:
        UserError: naming the first row that is not an object with the fields of ``layout``.
    """
    if not os.path.isfile(path):
        raise UserError(f"{key}={name}: no such file. Paths are relative to {os.getcwd()}.")
    read = _read_jsonl if path.endswith(".jsonl") else _read_parquet
    return read(path, name, layout)


def numbered(name: str, rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """(where, row) of rows located by number."""
    for number, row in enumerate(rows, start=1):
        yield f"{name}, row {number}", row


def missing_field(where: str, field: str, fields: Iterable[str], remedy: str) -> UserError:
    """The error for a row or table that lacks a required field."""
    return UserError(f"{where}: no field {field!r}; the fields are: {', '.join(fields) or 'none'}. {remedy}")


def json_type(value: Any) -> str:
    """The type of a JSON value in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), f"a number ({value})" if isinstance(value, int | float) else type(value).__name__)


def whole_text(text: str, where: str) -> str:
    """The text itself if it can be encoded as UTF-8.

    Raises:
        UserError: naming the position of a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: a lone surrogate (half a character) at position {error.start}. Repair it.") from None
    return text


def _read_jsonl(path: str, name: str, layout: Layout) -> Iterator[tuple[str, Record]]:
    example = json.dumps(layout.example)
    lines = Path(path).read_bytes().rstrip().split(b"\n")
    for number, line in enumerate(lines if lines != [b""] else [], start=1):
        where = f"{name}:{number}"
        if not line.strip():
            raise UserError(f"{where}: the line is blank. Remove it, or put one JSON object on it, such as {example}.")
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where}: not JSON ({error}). Each line holds one JSON object, such as {example}."
            ) from None
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected a JSON object, found {json_type(record)}. Write the line as {example}.")
        for field in layout.fields:
            if field not in record:
                raise missing_field(where, field, record, layout.remedy)
        yield where, record


def _read_parquet(path: str, name: str, layout: Layout) -> Iterator[tuple[str, Record]]:
    # Imported here so that reading JSONL, the common case, stays light.
    import pyarrow
    import pyarrow.parquet

    try:
        present = pyarrow.parquet.read_schema(path).names
        for field in layout.fields:
            if field not in present:
                raise missing_field(name, field, present, layout.remedy)
        columns = [field for field in (*layout.fields, *layout.optional) if field in present]
        rows = pyarrow.parquet.read_table(path, columns=columns).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{name}: not a readable Parquet file ({first_line(error)}). Write it again, or give a .jsonl file."
        ) from None
    return numbered(name, rows)
