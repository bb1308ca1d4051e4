"""Keys, made and ended by admins."""

from typing import Any

from fastapi import APIRouter

from sea_agent.service.auth import Governor
from sea_agent.service.schemas.base import ObjectId
from sea_agent.service.schemas.keys import KeyIn, KeyOut, KeysOut, NewKeyOut
from sea_agent.service.state import Service
from sea_agent.service.store.keys import Key
from sea_agent.web.problems import documented

router = APIRouter(tags=["keys"])


@router.get("/keys")
async def list_keys(service: Service, caller: Governor) -> KeysOut:
    """Every key, without its secret."""
    return KeysOut(keys=[KeyOut(**public(key)) for key in service.keyring.keys])


@router.post("/keys", status_code=201, responses=documented(409))
async def make_key(body: KeyIn, service: Service, caller: Governor) -> NewKeyOut:
    """Make a key. It is shown this once: the service keeps only its digest."""
    key, secret = await service.keyring.make(
        body.name,
        frozenset(body.scopes),
        body.annotator,
        None if body.runs is None else frozenset(body.runs),
        body.expires_at,
    )
    return NewKeyOut(**public(key), key=secret)


@router.delete("/keys/{key_id}", status_code=204, responses=documented(404, 409))
async def end_key(key_id: ObjectId, service: Service, caller: Governor) -> None:
    """End a key and its page sessions, and give back the duels that only it let its annotator answer."""
    await service.keyring.revoke(key_id)


def public(key: Key) -> dict[str, Any]:
    """What is told of a key: all but its secret."""
    shown = {field: getattr(key, field) for field in KeyOut.model_fields}
    return shown | {"scopes": sorted(key.scopes), "runs": None if key.runs is None else sorted(key.runs)}
