"""Who calls, and what they may do.

A caller shows a key (``Authorization: Bearer KEY``) or the cookie of a page session. Scopes: ``admin`` may do
everything, ``experiment`` posts duels and reads answers, ``annotate`` answers, ``read`` looks.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from sea_agent.service.problems import Problem
from sea_agent.service.state import Service, state_of
from sea_agent.service.store.keys import Key
from sea_agent.service.store.leases import Author

COOKIE = "sea_session"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

_bearer = HTTPBearer(auto_error=False, description="A key of this service.")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request; ``annotator`` is their name in the label log, ``runs`` all they may touch (None: any)."""

    key_id: str
    name: str
    annotator: str
    scopes: frozenset[str]
    runs: frozenset[str] | None = None

    @property
    def author(self) -> Author:
        """Whose leases and labels the caller's are."""
        return Author(self.annotator, self.name, self.runs, self.may("admin"))

    def may(self, *scopes: str) -> bool:
        """Whether the caller has one of the scopes; an admin has all."""
        return "admin" in self.scopes or not self.scopes.isdisjoint(scopes)

    def sees(self, run: str) -> bool:
        """Whether the caller's key reaches a run."""
        return self.runs is None or run in self.runs

    def require_run(self, run: str) -> None:
        """Raises: Problem 403 when the key does not reach the run."""
        if not self.sees(run):
            raise Problem(403, f"This key is not for run {run}.")


async def identify(
    request: Request,
    service: Service,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    """The caller of a request, by key or by cookie.

    Raises:
        Problem: 401 without a valid key or session, 403 for a cookie from a foreign page, 429 above the rate.
    """
    if "authorization" in request.headers:
        key = None if credentials is None else service.keyring.find(credentials.credentials)
    else:
        key = _session(request)
        if key is not None and request.method not in SAFE_METHODS:
            check_origin(request)
    if key is None:
        detail = "A valid key is needed: send the header Authorization: Bearer KEY."
        raise Problem(401, detail, headers={"WWW-Authenticate": "Bearer"})
    service.rate.take(key.parent or key.id)
    return _caller(key)


def requires(*scopes: str) -> Any:
    """A dependency: the caller, who has one of the scopes and whose key reaches the run in the path, if any."""

    async def check(request: Request, caller: Annotated[Caller, Depends(identify)]) -> Caller:
        if not caller.may(*scopes):
            raise Problem(403, f"This key needs the scope {' or '.join(scopes)}; it has {_listed(caller.scopes)}.")
        if (run := request.path_params.get("run")) is not None:
            caller.require_run(run)
        return caller

    return Depends(check)


Admin = Annotated[Caller, requires("admin")]
Experiment = Annotated[Caller, requires("experiment")]
Annotator = Annotated[Caller, requires("annotate")]
Reader = Annotated[Caller, requires("read", "experiment")]
Anyone = Annotated[Caller, requires("read", "experiment", "annotate")]


def check_origin(request: Request) -> None:
    """Raises: Problem 403 when a browser's request does not come from a page of this service."""
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    if request.headers.get("origin") != own:
        raise Problem(403, f"Requests with a cookie must come from a page of {own}.")


async def sign_in(request: Request, key: str) -> str:
    """Start a page session; the token for the cookie. Raises: Problem 401 for a key that is not valid."""
    return await state_of(request).keyring.sign_in(key)


async def sign_out(request: Request) -> None:
    """End the page session of a request, if it has one."""
    token = request.cookies.get(COOKIE)
    if token is not None:
        await state_of(request).keyring.sign_out(token)


async def page_caller(request: Request) -> Caller | None:
    """Who is signed in on a page; None when nobody is."""
    key = _session(request)
    return None if key is None else _caller(key)


PageCaller = Annotated[Caller | None, Depends(page_caller)]


def _session(request: Request) -> Key | None:
    token = request.cookies.get(COOKIE)
    return None if token is None else state_of(request).keyring.find_session(token)


def _caller(key: Key) -> Caller:
    return Caller(key.id, key.name, key.annotator, key.scopes, key.runs)


def _listed(scopes: frozenset[str]) -> str:
    return ", ".join(sorted(scopes))
