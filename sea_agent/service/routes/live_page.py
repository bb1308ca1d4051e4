"""The page of who runs live mode. The shell is made here; what it shows and does goes through the REST routes."""

from functools import partial

from fastapi import APIRouter, Request, Response

from sea_agent.service.auth import READS, PageCaller
from sea_agent.service.pages import page, to_sign_in
from sea_agent.service.state import Service
from sea_agent.service.store import live_listing

router = APIRouter(include_in_schema=False)

_OTHER_KEY = "Your key does not let you look at this. Ask for a key with the scope read, and sign in with that."


@router.get("/live")
@router.get("/live/{run}")
async def live_page(request: Request, service: Service, caller: PageCaller, run: str | None = None) -> Response:
    """A run of live mode: how its users are answered, and what goes live. Without a name, the newest."""
    if caller is None:
        return to_sign_in(request)
    if not caller.may(*READS):
        values = {"title": "Another key is needed", "detail": _OTHER_KEY, "links": [], "looks_again": False}
        return page(request, "message.html", 403, caller=caller, **values)
    found = await service.database.read(partial(live_listing.everything, reach=caller.runs))
    shown = next((one for one in found if run in (None, one.id)), None)
    if run is not None and shown is None:
        detail = "There is no such run of live mode, or your key is not for it."
        values = {"title": "No such run", "detail": detail, "links": [("/live", "Live mode")], "looks_again": False}
        return page(request, "message.html", 404, caller=caller, **values)
    has_dashboard = service.settings.runs is not None
    return page(request, "live.html", caller=caller, run=shown, runs=found, has_dashboard=has_dashboard)
