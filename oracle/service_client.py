"""What every client of the feedback service needs: its key, retries with a deadline, and errors that say what to do."""

import os
from typing import Any
from urllib.parse import urlsplit

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from sea_agent.errors import RunFailure, UserError
from sea_agent.web.addresses import is_loopback

KEY = "SEA_AGENT_KEY"
POLL_SECONDS = 20
"""The longest that a request waits for news in the service."""
RETRY_SECONDS = 45


class Unavailable(Exception):
    """The service does not answer or is temporarily unable to."""


class Refused(RunFailure):
    """The service rejects a request, with a status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ServiceClient:
    """JSON over HTTP with retries.

    ``name`` begins messages about refusals; ``conflict`` says what a conflict (409) means and what to do about it.
    ``is_here``: the service is on this machine, whatever its address.
    """

    def __init__(
        self,
        url: str,
        key: str,
        name: str,
        *,
        conflict: str = "",
        retry_seconds: float = RETRY_SECONDS,
        is_here: bool = False,
    ) -> None:
        self.url, self.name, self._conflict = url, name, conflict
        self._retrying = Retrying(
            retry=retry_if_exception_type(Unavailable),
            wait=wait_exponential_jitter(multiplier=0.2, max=5.0),
            stop=stop_after_delay(retry_seconds),
            reraise=True,
        )
        self._client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(10.0, read=POLL_SECONDS + 10.0),
            # No proxy reaches a service on this machine, or may have its keys.
            trust_env=not (is_here or is_loopback(urlsplit(url).hostname or "")),
        )

    def check(self) -> None:
        """Ask once.

        Raises:
            UserError: the service rejects the key, or is none.
            Unavailable: it does not answer now, in words for the user.
        """
        try:
            response = self._client.get("/v1/runs")
        except httpx.HTTPError as error:
            raise Unavailable(
                f"oracle.url={self.url}: no feedback service answers there ({error}). Start one with "
                "`sea-agent serve`, or correct the address."
            ) from None
        if _is_temporary(response):
            raise Unavailable(f"oracle.url={self.url}: answered {response.status_code}; it cannot answer now.")
        if response.status_code in (401, 403):
            raise UserError(
                f"{KEY}: the feedback service refuses this key ({_detail(response)}). Give one with the scope "
                "experiment."
            )
        if response.status_code != 200:
            raise UserError(f"oracle.url={self.url}: answered {response.status_code}; is this a feedback service?")

    def call(self, method: str, path: str, **options: Any) -> Any:
        """The JSON response to a request, with retries.

        Raises:
            Unavailable: the service stays unavailable.
            Refused: it rejects the request.
        """
        return self._retrying(self._once, method, path, **options)

    def _once(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._client.request(method, path, **options)
        except httpx.TransportError as error:
            raise Unavailable(str(error)) from None
        if _is_temporary(response):
            raise Unavailable(_detail(response))
        if response.status_code == 409 and self._conflict:
            raise Refused(409, f"{self.name}: {self._conflict.format(detail=_detail(response))}")
        if response.status_code >= 400:
            refusal = f"{self.name}: refused {method} {path} with {response.status_code}: {_detail(response)}"
            raise Refused(response.status_code, refusal)
        return response.json()


def service_key(kind: str, url: str) -> str:
    """The key in the environment. Raises: UserError when there is none."""
    key = os.environ.get(KEY, "")
    if not key:
        raise UserError(
            f"oracle.kind={kind}: {KEY} is not set. Put a key with the scope experiment of the service at {url} into "
            "the environment."
        )
    return key


def _is_temporary(response: httpx.Response) -> bool:
    return response.status_code == 429 or response.status_code >= 500


def _detail(response: httpx.Response) -> str:
    """The detail of a problem document, or the status."""
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"
