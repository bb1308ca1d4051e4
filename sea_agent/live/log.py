"""What the agent reads from the gateway, and tells it: duels, conversations, erasures and publications."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from oracle.service_client import Refused, ServiceClient, Unavailable
from sea_agent.errors import RunFailure

_PAGE = 200  # of rows with texts
_PUBLICATIONS = 100
_REASON = 2000
MOST_ROWS = 500
"""Conversations that the gateway gives at a time."""


@dataclass(frozen=True, slots=True)
class Publication:
    """Weights that were published; ``path`` is empty once they are gone from the disk. ``decided_at`` is in seconds
    since the epoch."""

    version: int
    checksum: str
    round: int
    path: str
    state: str
    decided_at: float | None


@dataclass(frozen=True, slots=True)
class Serving:
    """Which versions serve; None stands for the initial policy."""

    live: int | None
    canary: int | None
    frozen: bool
    erasures: int


class LiveLog:
    """The routes of the gateway that are the agent's.

    Raises:
        RunFailure: from every method, when the gateway refuses, or does not answer for longer than it is retried.
    """

    def __init__(self, service: ServiceClient, run: str) -> None:
        self._service, self._path = service, f"/v1/live/{run}"
        self._rounds = {0: 0}  # after which each version was published; that never changes

    def duels(self, after: int) -> Iterator[dict[str, Any]]:
        """The duels that were asked, from the one after number ``after`` on, with their texts."""
        while rows := (page := self._get("duels", after=after, limit=_PAGE))["duels"]:
            yield from rows
            after = page["next_after"]

    def duel(self, number: int) -> dict[str, Any] | None:
        """The duel with this number; None when its texts were erased."""
        rows = self._get("duels", after=number - 1, limit=1)["duels"]
        return rows[0] if rows and rows[0]["number"] == number else None

    def prompts(self, *, heldout: bool, limit: int) -> list[dict[str, Any]]:
        """The newest conversations of one kind, by number; ``heldout`` ones are for comparing weights."""
        rows: list[dict[str, Any]] = self._get("prompts", heldout=str(heldout).lower(), limit=limit)["prompts"]
        return rows

    def erased(self, after: int) -> tuple[list[str], int]:
        """Completions whose texts were erased since erasure ``after``, and where to ask on."""
        found: list[str] = []
        while True:
            page = self._get("erased", after=after)
            found += page["completions"]
            stays, after = page["next_after"] == after, page["next_after"]
            if stays or after >= page["erasures"]:
                return found, after

    def serving(self) -> Serving:
        """Which versions serve now."""
        row = self._get("")
        return Serving(row["live"], row["canary"], row["frozen"], row["erasures"])

    def publications(self) -> Iterator[Publication]:
        """Everything that was published, the newest first; read as far as the caller goes."""
        before: dict[str, int] = {}
        while rows := self._get("publications", limit=_PUBLICATIONS, **before)["publications"]:
            for row in rows:
                self._rounds[row["version"]] = row["round"]
                yield _publication(row)
            before = {"before": rows[-1]["version"]}

    def publication(self, version: int) -> Publication | None:
        """One publication."""
        return next((one for one in self.publications() if one.version <= version), None)

    def round_of(self, version: int) -> int:
        """The round after which a version was published; 0 for the initial policy, and what nobody knows."""
        if version not in self._rounds:
            self.publication(version)
        return self._rounds.setdefault(version, 0)

    def publish(self, checksum: str, number: int, labels: int, path: str) -> Publication:
        """Offer the weights after round ``number``; the same ones again are the same publication."""
        body = {"checksum": checksum, "round": number, "labels": labels, "path": path}
        return _publication(self._call("POST", "/publications", json=body))

    def decide(self, version: int, state: str, reason: str, report: dict[str, Any] | None = None) -> bool:
        """Say what becomes of a version; whether that still could be, or an operator was faster."""
        body = {"state": state, "reason": reason[:_REASON]} | ({} if report is None else {"report": report})
        try:
            self._call("PATCH", f"/publications/{version}", json=body)
        except Refused as refused:
            if refused.status != 409:
                raise
            return False
        return True

    def tell_deleted(self, version: int) -> None:
        """Say that the weights of a version are gone from the disk."""
        self._call("PATCH", f"/publications/{version}", json={"deleted": True})

    def _get(self, part: str, **parameters: Any) -> Any:
        return self._call("GET", f"/{part}" if part else "", params=parameters)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            return self._service.call(method, self._path + path, **options)
        except Unavailable as error:
            raise RunFailure(
                f"{self._service.name}: the gateway at {self._service.url} does not answer ({error}). Nothing is lost: "
                "start it again, then the agent."
            ) from None


def _publication(row: dict[str, Any]) -> Publication:
    at = None if row["decided_at"] is None else datetime.fromisoformat(row["decided_at"]).timestamp()
    return Publication(row["version"], row["checksum"], row["round"], row["path"], row["state"], at)
