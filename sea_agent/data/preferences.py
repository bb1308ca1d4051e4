"""Reading preference data from files, in the form that ``sea_agent.data.encoders`` writes."""

import math
from dataclasses import dataclass
from typing import Any

from sea_agent.data.prompt_rows import MEANINGFUL, PromptRow, check_prompt, check_response, refuse_unread
from sea_agent.data.rows import ENDINGS, Layout, Record, json_type, read_rows
from sea_agent.errors import UserError
from sea_agent.worlds import resolve

_LAYOUT = Layout(
    fields=("prompt", "chosen", "rejected"),
    optional=("weight", "annotator", *MEANINGFUL),
    example={"prompt": "Write a haiku.", "chosen": "Old pond", "rejected": "No"},
    remedy="Name the columns prompt, chosen and rejected.",
)


@dataclass(frozen=True, slots=True)
class PreferenceRow:
    """A checked preference before tokenisation; ``weight`` is relative to one answer of the oracle."""

    prompt: PromptRow
    chosen: str
    rejected: str
    weight: float
    annotator: str | None


def read_preferences(path: str, key: str) -> list[PreferenceRow]:
    """Every row of a preference file; ``key`` is the configuration key that names it.

    Raises:
        UserError: naming the invalid row, the problem and the remedy.
    """
    resolved = resolve(path)
    if not resolved.endswith(ENDINGS):
        raise UserError(
            f"{key}={path}: not a file of preferences. Give a {' or '.join(ENDINGS)} file. Of a Hugging Face dataset, "
            "write one: datasets.load_dataset(NAME, SUBSET, split=SPLIT).to_parquet('preferences.parquet')."
        )
    rows = [_checked(row, where) for where, row in read_rows(resolved, path, _LAYOUT, key)]
    if not rows:
        raise UserError(f"{key}={path}: there are no preferences in it. Give at least one.")
    return rows


def _checked(row: Record, where: str) -> PreferenceRow:
    refuse_unread({key: row.get(key) for key in MEANINGFUL}, where)
    return PreferenceRow(
        prompt=check_prompt(row["prompt"], where),
        chosen=check_response(row["chosen"], "chosen", where),
        rejected=check_response(row["rejected"], "rejected", where),
        weight=_weight(row.get("weight"), where),
        annotator=_annotator(row.get("annotator"), where),
    )


def _weight(value: Any, where: str) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < math.inf:
        raise UserError(f"{where}: weight is {json_type(value)}. Give a number above 0, or leave it out for 1.")
    return float(value)


def _annotator(value: Any, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: annotator is {json_type(value)}. Give a name, or leave it out.")
    return value
