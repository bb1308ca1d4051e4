"""Who calls, and what they may do.

A caller shows a key (``Authorization: Bearer KEY``) or the cookie of a page session. Scopes: ``admin`` may do
everything, ``experiment`` posts duels and reads answers, ``annotate`` answers, ``read`` looks, ``chat`` asks the live
policy.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from fastapi.security.utils import get_authorization_scheme_param

from sea_agent.service.state import state_of
from sea_agent.service.store.keys import Key
from sea_agent.service.store.leases import Author
from sea_agent.web.problems import Problem

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
READS = ("read", "experiment")
"""Scopes that may read."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request; ``annotator`` is their name in the label log, ``runs`` all they may touch (None: any).

    ``owner`` is the key itself, also of a page session: what is the session's is still the key's when it has ended.
    """

    key_id: str
    name: str
    annotator: str
    scopes: frozenset[str]
    runs: frozenset[str] | None
    owner: str

    @property
    def author(self) -> Author:
        """Whose leases and labels the caller's are."""
        return Author(self.annotator, self.name, self.runs, self.may("admin"))

    def may(self, *scopes: str) -> bool:
        """Whether the caller has one of the scopes; an admin has all."""
        return "admin" in self.scopes or not self.scopes.isdisjoint(scopes)

    @property
    def only_annotates(self) -> bool:
        """Whether the caller may not look at what is known of a run: they are told what ``store.own`` says."""
        return not self.may("read", "experiment")

    def sees(self, run: str) -> bool:
        """Whether the caller's key reaches a run."""
        return self.runs is None or run in self.runs

    @property
    def may_govern(self) -> bool:
        """Whether the caller has power over people and keys, which are the same in every run."""
        return self.may("admin") and self.runs is None

    def require_run(self, run: str) -> None:
        """Raises: Problem 403 when the key does not reach the run."""
        if not self.sees(run):
            raise Problem(403, f"This key is not for run {run}.")


def identify(request: Request) -> Caller:
    """The caller of a request, by key or by cookie.

    Raises:
        Problem: 401 without a valid key or session, 403 for a cookie from a foreign page, 429 above the rate.
    """
    service = state_of(request)
    authorization = request.headers.get("authorization")
    if authorization is not None:
        scheme, secret = get_authorization_scheme_param(authorization)
        key = service.keyring.find(secret) if scheme.lower() == "bearer" else None
    else:
        key = _session(request)
        if key is not None and request.method not in SAFE_METHODS:
            check_origin(request)
    if key is None:
        detail = "A valid key is needed: send the header Authorization: Bearer KEY."
        raise Problem(401, detail, headers={"WWW-Authenticate": "Bearer"})
    service.rate.take(key.parent or key.id)
    return _caller(key)


class Requires(SecurityBase):
    """A dependency: the caller, who has one of the scopes and whose key reaches the run in the path, if any, or with
    ``every_run`` all of them.

    One object, not a scheme and functions that depend on each other: to resolve those took a tenth of a label's time.
    """

    def __init__(self, *scopes: str, every_run: bool = False) -> None:
        self.model = HTTPBearer(description="A key of this service.")
        self.scheme_name = "HTTPBearer"
        self._scopes = scopes
        self._every_run = every_run

    async def __call__(self, request: Request) -> Caller:
        """The caller. Raises: Problem."""
        caller = identify(request)
        if not caller.may(*self._scopes):
            needed, given = " or ".join(self._scopes), ", ".join(sorted(caller.scopes))
            raise Problem(403, f"This key needs the scope {needed}; it has {given}.")
        if self._every_run and caller.runs is not None:
            raise Problem(403, f"{request.url.path} concerns every run; this key is for some.")
        if (run := request.path_params.get("run")) is not None:
            caller.require_run(run)
        return caller


Admin = Annotated[Caller, Depends(Requires("admin"))]
Governor = Annotated[Caller, Depends(Requires("admin", every_run=True))]
Experiment = Annotated[Caller, Depends(Requires("experiment"))]
Annotator = Annotated[Caller, Depends(Requires("annotate"))]
Reader = Annotated[Caller, Depends(Requires(*READS))]
ReaderOfAll = Annotated[Caller, Depends(Requires(*READS, every_run=True))]
Chat = Annotated[Caller, Depends(Requires("chat"))]
Anyone = Annotated[Caller, Depends(Requires(*READS, "annotate"))]


def check_origin(request: Request) -> None:
    """Raises: Problem 403 when a browser's request does not come from a page of this service."""
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    origin = request.headers.get("origin")
    if origin != own:
        raise Problem(403, f"Requests with a cookie must come from a page of {own}.{_remedy(request, origin, own)}")


def _remedy(request: Request, origin: str | None, own: str) -> str:
    """What a proxy in between is to be told, if the page was this service's own."""
    if origin is None or origin == "null":
        return ""
    scheme, _, host = origin.partition("://")
    other_scheme, named = scheme != request.url.scheme, request.headers.get("x-forwarded-proto")
    proxy = request.client.host if other_scheme and named == scheme and request.client else None
    headers = [
        *(["Host"] if host != request.headers.get("host") else []),
        *(["X-Forwarded-Proto"] if other_scheme and not proxy else []),
    ]
    remedies = []
    if headers:
        remedies.append(f"let the proxy pass on the header{'s' * (len(headers) > 1)} {' and '.join(headers)}")
    if proxy:
        remedies.append(
            f"X-Forwarded-Proto is not believed of {proxy}; if that is your proxy, "
            f"start the service with --proxy {proxy}"
        )
    return f" The page came from {origin}, but this service was reached as {own}: {'; '.join(remedies)}."


async def sign_in(request: Request, key: str) -> str:
    """Start a page session; the token for the cookie. Raises: Problem 401 for a key that is not valid."""
    return await state_of(request).keyring.sign_in(key)


def holder(request: Request, token: str) -> Caller | None:
    """Whose session it is; None when it has ended."""
    key = state_of(request).keyring.find_session(token)
    return None if key is None else _caller(key)


async def sign_out(request: Request) -> None:
    """End the page session of a request, if it has one."""
    token = request.cookies.get(state_of(request).cookie)
    if token is not None:
        await state_of(request).keyring.sign_out(token)


async def page_caller(request: Request) -> Caller | None:
    """Who is signed in on a page; None when nobody is."""
    token = request.cookies.get(state_of(request).cookie)
    return None if token is None else holder(request, token)


PageCaller = Annotated[Caller | None, Depends(page_caller)]


def _session(request: Request) -> Key | None:
    token = request.cookies.get(state_of(request).cookie)
    return None if token is None else state_of(request).keyring.find_session(token)


def _caller(key: Key) -> Caller:
    return Caller(key.id, key.name, key.annotator, key.scopes, key.runs, key.parent or key.id)
