"""CSV for spreadsheets, in which no text is a formula."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def csv_lines(names: Sequence[str], rows: Iterable[Mapping[str, Any]], *, headings: bool = True) -> bytes:
    """Rows as lines below a line with the ``names`` of the columns; what a row does not have is an empty cell.

    Texts that a spreadsheet would take for a formula get an apostrophe.
    """
    target = io.StringIO()
    writer = csv.DictWriter(target, names)
    if headings:
        writer.writeheader()
    writer.writerows({name: _no_formula(value) for name, value in row.items()} for row in rows)
    return target.getvalue().encode()


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value
