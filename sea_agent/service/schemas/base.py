"""Request and response bodies. Field names are the contract; times are ISO 8601 UTC in JSON, seconds inside."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from sea_agent.types import LONGEST_RUN_ID, RUN_ID

Outcome = Literal["first", "second", "tie", "both_bad"]
Kind = Literal["vote", "repeat", "gold"]
Scope = Literal["admin", "experiment", "annotate", "read", "chat"]
QueryState = Literal["open", "answered", "cancelled", "expired"]
LeaseState = Literal["live", "labelled", "skipped", "released", "expired"]
RunState = Literal["open", "paused", "closed", "archived"]

MOST_IN_URL = 20
"""Names that a URL holds."""
LARGEST_INTEGER = 2**53 - 1  # what JSON readers hold exactly

RunId = Annotated[str, Path(pattern=RUN_ID, max_length=LONGEST_RUN_ID, description="Id of the run.")]
RunIds = Annotated[
    list[Annotated[str, Field(pattern=RUN_ID, max_length=LONGEST_RUN_ID)]], Field(min_length=1, max_length=1000)
]
ObjectId = Annotated[str, Path(max_length=40, pattern=r"^[a-z]+-[0-9a-f]+$")]


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 1.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)  # stands last: bounds after it would not be in the schema
Count = Annotated[int, Field(ge=1, le=100), WHOLE]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _seconds(value: Any) -> float:
    if not isinstance(value, str):
        raise ValueError("a time is text, such as 2026-01-31T12:00:00Z")
    try:
        moment = datetime.fromisoformat(value.upper())
    except ValueError:
        raise ValueError("not an ISO 8601 time, such as 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("a time needs its offset, such as Z or +02:00")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()


def iso(seconds: float) -> str:
    """ISO 8601 UTC in milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_DATE_TIME = WithJsonSchema({"type": "string", "format": "date-time"})
TimeIn = Annotated[float, BeforeValidator(_seconds), _DATE_TIME]
TimeOut = Annotated[float, PlainSerializer(iso, return_type=str), _DATE_TIME]


class In(BaseModel):
    """Base of what comes in: no unknown fields, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class Out(BaseModel):
    """Base of what goes out."""

    model_config = ConfigDict(protected_namespaces=())


class HealthOut(Out):
    """How the service is."""

    status: Literal["ok", "ready"]
