"""People, and what became of those who were erased."""

from typing import Annotated

from fastapi import Path
from pydantic import Field

from sea_agent.service.limits import Name, ShortText
from sea_agent.service.schemas.base import In, Out, RunIds, TimeIn, TimeOut
from sea_agent.service.schemas.keys import KeyOut, NewKeyOut
from sea_agent.types import LONGEST_RUN_ID, RUN_ID

NameInPath = Annotated[ShortText, Path(description="Name of the annotator.")]


class PersonIn(In):
    """Somebody who is to answer, in some runs or in all. Their link leads straight to ``run`` if there is one."""

    annotator: Name
    runs: RunIds | None = None
    expires_at: TimeIn | None = None
    run: Annotated[str, Field(pattern=RUN_ID, max_length=LONGEST_RUN_ID)] | None = None


class InvitedOut(NewKeyOut):
    """A new key and the link that signs in with it, also as a QR code (SVG). All are shown this once."""

    link: str
    qr: str


class PersonOut(Out):
    """Everything that is known of an annotator. They were last seen when they answered, took a duel or signed in;
    ``active`` people have a valid key to answer with."""

    annotator: str
    keys: list[KeyOut]
    active: bool
    last_seen: TimeOut | None
    answers: int
    answers_last_hour: int
    runs: list[str]
    erased: bool


class PeopleOut(Out):
    """Everybody who has, or had, a key or answered, by name."""

    people: list[PersonOut]


class PersonErasedOut(Out):
    """What stands in the place of a name, on how many labels; ``left`` says what is still in files, and why."""

    pseudonym: str
    labels: int
    left: list[str]


class TextsErasedOut(Out):
    """Of how many duels texts were erased; ``left`` says what is still in files, and why."""

    duels: int
    left: list[str]
