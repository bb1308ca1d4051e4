"""Files of duels that come in, and of preference data that go out."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sea_agent.service.limits import ShortText
from sea_agent.service.schemas.base import MOST_IN_URL, Count, Out, Outcome, Share, TimeIn
from sea_agent.service.schemas.duels import QueryIn

MOST_ROWS = 10_000
SIDES = (("first", "second"), ("chosen", "rejected"), ("response_a", "response_b"))
"""Names of the columns of the two responses; a file has one pair of them."""
TEXTS = ("prompt", *(name for pair in SIDES for name in pair))
KEYS = ("client_key", "id")
_POSTED = QueryIn.model_json_schema()["properties"]
SETTINGS = tuple(name for name in _POSTED if name not in ("client_key", "prompt", "first", "second"))
METADATA = (
    "agreement",
    "annotator",
    "annotators",
    "answered_at",
    "belief",
    "chosen_id",
    "chosen_policy_version",
    "disagreement",
    "duel_id",
    "label_ids",
    "n_votes",
    "outcome",
    "posted_at",
    "posterior_version",
    "probability",
    "prompt_id",
    "query_id",
    "rejected_id",
    "rejected_policy_version",
    "round",
    "run",
    "source",
    "votes",
    "weight",
)
"""Columns of exports, and of preferences for a run, that are no part of a duel to be answered. They are ignored."""

_TEXT = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}, "minItems": 1}],
    "description": "A text, or the messages of a chat.",
}
_ROW = {
    "type": "object",
    "properties": {
        **dict.fromkeys(TEXTS, _TEXT),
        **{name: {"type": ["string", "integer", "null"]} for name in KEYS},
        **{name: _POSTED[name] for name in SETTINGS},
        "gold": {"type": ["string", "null"], "description": "The column of the right answer, or first or second."},
        **{name: {"description": "Ignored."} for name in METADATA},
    },
    "required": ["prompt"],
    "additionalProperties": False,
}
DUELS: dict[str, Any] = {
    "required": True,
    "content": {
        "application/jsonl": {"schema": {"type": "string"}},
        "application/x-ndjson": {"schema": {"type": "string"}},
        "application/json": {"schema": {"type": "array", "items": _ROW, "minItems": 1, "maxItems": MOST_ROWS}},
        "text/csv": {"schema": {"type": "string"}},
    },
}
"""What OpenAPI says about a file of duels."""


class FileOut(Out):
    """What became of the ``rows`` of a file: ``created`` are new duels, ``known`` were there already or stand earlier
    in the file. ``ignored`` names the columns that are no part of a duel."""

    rows: int
    created: int
    known: int
    ignored: list[str]


class ExportIn(BaseModel):
    """Which duels are exported. Those without a winner, ties among them, have null for both responses.

    Only votes by ``annotator`` (everybody's, when there is none) from ``since`` until before ``until`` count: as if
    there were no others. With an ``outcome``, the duels that have it are exported, whatever ``ties`` says.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    min_agreement: Share = 0.0
    min_votes: Count = 1
    ties: Literal["drop", "keep"] = "drop"
    annotator: Annotated[list[ShortText], Field(max_length=MOST_IN_URL)] = []
    since: TimeIn | None = None
    until: TimeIn | None = None
    outcome: Outcome | None = None
