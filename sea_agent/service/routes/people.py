"""People: who answers, links that let them in, and the end of that."""

import io

import segno
from fastapi import APIRouter, Request

from sea_agent.service import erasing
from sea_agent.service.auth import Governor
from sea_agent.service.routes.keys import public
from sea_agent.service.schemas.keys import KeyOut
from sea_agent.service.schemas.people import InvitedOut, NameInPath, PeopleOut, PersonIn, PersonOut
from sea_agent.service.state import Service
from sea_agent.service.store import roster
from sea_agent.service.store.erasure import is_erased
from sea_agent.web.problems import documented

router = APIRouter(tags=["people"])


@router.get("/people")
async def list_people(service: Service, caller: Governor) -> PeopleOut:
    """Everybody who has, or had, a key or answered: their keys, and how much they did."""
    now = service.now()
    works = await service.database.read(lambda connection: roster.everybody(connection, now))
    keys = service.keyring.keys
    people = []
    for annotator, work in works.items():
        own = [key for key in keys if key.annotator == annotator]
        person = PersonOut(
            annotator=annotator,
            keys=[KeyOut(**public(key)) for key in own],
            active=any(key.valid(now) and key.answers for key in own),
            last_seen=work.last_seen,
            answers=work.answers,
            answers_last_hour=work.answers_last_hour,
            runs=work.runs,
            erased=is_erased(annotator),
        )
        people.append(person)
    return PeopleOut(people=people)


@router.post("/people", status_code=201, responses=documented(409))
async def invite(body: PersonIn, service: Service, caller: Governor, request: Request) -> InvitedOut:
    """Make a key to answer with, and a link that signs in with it. The link is worth as much as the key."""
    key, secret = await service.keyring.make(
        body.annotator,
        frozenset({"annotate"}),
        runs=None if body.runs is None else frozenset(body.runs),
        expires_at=body.expires_at,
    )
    place = "" if body.run is None else f"?next={service.settings.root_path}/label/{body.run}"
    link = f"{str(request.base_url).rstrip('/')}/sign-in{place}#key={secret}"  # its base ends in the root path
    return InvitedOut(**public(key), key=secret, link=link, qr=_qr(link))


@router.post("/people/{annotator:path}/end", status_code=204, responses=documented(404, 409))
async def end(annotator: NameInPath, service: Service, caller: Governor) -> None:
    """End every key, session and lease of somebody, and what was handed out to them. What they answered stays."""
    await erasing.end(service, annotator)


def _qr(link: str) -> str:
    """The code as an SVG document."""
    file = io.BytesIO()
    segno.make_qr(link).save(file, kind="svg", xmldecl=False, light="#fff", scale=4)
    return file.getvalue().decode()
