"""Keys."""

from typing import Annotated

from pydantic import Field

from sea_agent.service.limits import Name
from sea_agent.service.schemas.base import In, Out, RunIds, Scope, TimeIn, TimeOut


class KeyIn(In):
    """A key to be made. ``annotator`` is its name in the label log; ``runs`` restricts it to some runs."""

    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=5)]
    annotator: Name | None = None
    runs: RunIds | None = None
    expires_at: TimeIn | None = None


class KeyOut(Out):
    """A key without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    annotator: str
    runs: list[str] | None
    created_at: TimeOut
    expires_at: TimeOut | None
    revoked_at: TimeOut | None


class NewKeyOut(KeyOut):
    """A new key, shown this once."""

    key: str


class KeysOut(Out):
    """Every key."""

    keys: list[KeyOut]
