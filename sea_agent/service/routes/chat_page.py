"""The page on which people talk to the live policy. What they do there goes through the REST routes."""

from fastapi import APIRouter, Request, Response

from sea_agent.service.auth import PageCaller
from sea_agent.service.pages import page, to_sign_in
from sea_agent.service.state import Service

router = APIRouter(include_in_schema=False)

_NOT_HERE = (
    "Nothing answers here: this service was not started by sea-agent live. Ask who gave you the link to this page."
)
_OTHER_KEY = "Your key does not let you talk to the model. Ask for a key with the scope chat, and sign in with that."


@router.get("/chat")
async def chat_page(request: Request, service: Service, caller: PageCaller) -> Response:
    """A conversation with the live policy."""
    if caller is None:
        return to_sign_in(request)
    if not caller.may("chat"):
        values = {"title": "A key for the chat is needed", "detail": _OTHER_KEY, "links": [], "looks_again": False}
        return page(request, "message.html", 403, caller=caller, **values)
    gateway = service.gateway
    if gateway is None or not caller.sees(gateway.run):  # the database may hold runs that other services answer
        values = {"title": "There is no chat here yet", "detail": _NOT_HERE, "links": [], "looks_again": True}
        return page(request, "message.html", 404, caller=caller, **values)
    return page(request, "chat.html", caller=caller, model=gateway.run)
