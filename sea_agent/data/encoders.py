"""Encodes rows of preferences as JSON Lines, Parquet or CSV, in the format that TRL and ``datasets`` read.

A row holds ``prompt``, ``chosen`` and ``rejected``: texts, or for a chat prompt its messages and one assistant message
each. Columns of provenance follow, which readers of preferences ignore.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from sea_agent.data.rows import ENDINGS, Record
from sea_agent.data.spreadsheets import csv_lines
from sea_agent.errors import UserError
from sea_agent.persistence.files import whole_file
from sea_agent.types import Outcome, Prompt

Kind = Literal["text", "texts", "integer", "number", "counts"]
Columns = Mapping[str, Kind]

_ROWS_AT_ONCE = 256
_SIDES = ("prompt", "chosen", "rejected")


class Encoder:
    """Turns rows into the bytes of a file, piece by piece. ``columns`` are those of provenance."""

    media_type: str

    def __init__(self, columns: Columns, *, chat: bool = False) -> None: ...

    def encode(self, rows: Sequence[Record]) -> bytes:
        """The next bytes of the file."""
        raise NotImplementedError

    def close(self) -> bytes:
        """The last bytes of the file."""
        return b""


class JsonLines(Encoder):
    """One JSON object per line, in ASCII, so that no character of a text can be read as a line break."""

    media_type = "application/x-ndjson"

    def encode(self, rows: Sequence[Record]) -> bytes:
        return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()


class Parquet(Encoder):
    """A Parquet file with a fixed schema, whatever values the rows hold."""

    media_type = "application/vnd.apache.parquet"

    def __init__(self, columns: Columns, *, chat: bool = False) -> None:
        import pyarrow.parquet  # slow to import, and not needed for JSON Lines

        self._arrow = pyarrow
        self._schema = _schema(columns, chat)
        self._written = _Written()
        self._writer = pyarrow.parquet.ParquetWriter(self._written, self._schema)

    def encode(self, rows: Sequence[Record]) -> bytes:
        if rows:
            self._writer.write_table(self._arrow.Table.from_pylist(list(rows), schema=self._schema))
        return self._written.take()

    def close(self) -> bytes:
        self._writer.close()
        return self._written.take()


class Csv(Encoder):
    """Comma-separated values for spreadsheets, with a line of headings. Lists and counts are written as JSON."""

    media_type = "text/csv"

    def __init__(self, columns: Columns, *, chat: bool = False) -> None:
        self._names = [*_SIDES, *columns]
        self._headings = True

    def encode(self, rows: Sequence[Record]) -> bytes:
        headings, self._headings = self._headings, False
        cells = ({name: _cell(value) for name, value in row.items()} for row in rows)
        return csv_lines(self._names, cells, headings=headings)

    def close(self) -> bytes:
        return self.encode([]) if self._headings else b""


ENCODERS: dict[str, type[Encoder]] = dict(zip(ENDINGS, (JsonLines, Parquet), strict=True))


def write_preferences(path: Path, rows: Iterable[Record], columns: Columns, *, chat: bool) -> int:
    """Write rows to a ``.jsonl`` or ``.parquet`` file, which appears once it is complete; returns their number.

    Raises:
        UserError: the file has another ending or cannot be written.
    """
    if path.suffix not in ENCODERS:
        raise UserError(f"{path}: give a file that ends in {' or '.join(ENCODERS)}")
    left, count = iter(rows), 0
    try:
        with whole_file(path) as file:
            encoder = ENCODERS[path.suffix](columns, chat=chat)
            while batch := list(islice(left, _ROWS_AT_ONCE)):
                file.write(encoder.encode(batch))
                count += len(batch)
            file.write(encoder.close())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    return count


def sides(prompt: Prompt, chosen: str, rejected: str) -> Record:
    """``prompt``, ``chosen`` and ``rejected`` of a row."""
    if prompt.messages is None:
        return {"prompt": prompt.text, "chosen": chosen, "rejected": rejected}
    return {
        "prompt": [{"role": role, "content": content} for role, content in prompt.messages],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def _schema(columns: Columns, chat: bool) -> Any:
    import pyarrow

    text = pyarrow.string()
    kinds = {
        "text": text,
        "texts": pyarrow.list_(text),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "counts": pyarrow.struct([(one.value, pyarrow.int64()) for one in Outcome if one is not Outcome.SKIP]),
    }
    side = pyarrow.list_(pyarrow.struct([("role", text), ("content", text)])) if chat else text
    own = [(name, side) for name in _SIDES]
    return pyarrow.schema(own + [(name, kinds[kind]) for name, kind in columns.items()])


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


class _Written(io.BytesIO):
    """A file object that keeps what was written since the last ``take``."""

    def take(self) -> bytes:
        taken = self.getvalue()
        self.seek(0)
        self.truncate()
        return taken
