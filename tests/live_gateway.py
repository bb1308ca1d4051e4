"""A gateway for tests of the agent's side: the routes that it uses, on loopback, with everything in memory.

It keeps what it was told across the lives of an agent, so that nothing lost or doubled goes unseen.
"""

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "a key of the experiment"
RUN = "live"
_NEXT = {"offered": ("canary", "live", "rejected"), "canary": ("live", "rejected"), "live": ("withdrawn",)}


class Gateway:
    """Duels, choices, conversations, erasures and publications of one run. Close it when done."""

    def __init__(self) -> None:
        self.duels: list[dict[str, Any]] = []
        self.labels: list[dict[str, Any]] = []
        self.conversations: list[dict[str, Any]] = []
        self.publications: list[dict[str, Any]] = []
        self.erasures: list[list[str]] = []
        self.erased_duels: set[str] = set()
        self.frozen = False
        self.requests: list[tuple[str, str]] = []
        """Method and path of what was asked."""
        self._requests = 0
        self._changed = threading.Condition()
        handler = type("Handler", (_Handler,), {"gateway": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    # --- what users and operators do

    def ask(
        self,
        prompt: Mapping[str, Any],
        first: Mapping[str, Any],
        second: Mapping[str, Any],
        *,
        user: str = "ann",
        audit: bool = False,
        heldout: bool = False,
        by_chance: bool = True,
    ) -> str:
        """Show a user a duel; the id of the completion. Of an audit, the first response is the live one."""
        with self._changed:
            self._requests += 1
            completion, number = f"completion-{self._requests:x}", len(self.duels) + 7
            row = {
                "number": number,
                "completion": completion,
                "query_id": f"query-{number}",
                "user": user,
                "audit": audit,
                "heldout": heldout,
                "by_chance": by_chance,
                "prompt": dict(prompt),
                "first": {"id": f"{completion}-first", **first},
                "second": {"id": f"{completion}-second", **second},
                "information": None,
                "policy_version": first["policy_version"],
                "at": _now(),
            }
            self.duels.append(row)
            self._converse(completion, row["prompt"], user, heldout)
            return completion

    def tell(self, prompt: Mapping[str, Any], *, user: str = "ann", heldout: bool = False) -> None:
        """A conversation without a duel."""
        with self._changed:
            self._requests += 1
            self._converse(f"completion-{self._requests:x}", prompt, user, heldout)

    def _converse(self, completion: str, prompt: Mapping[str, Any], user: str, heldout: bool) -> None:
        told = {"number": self._requests, "completion": completion, "user": user, "heldout": heldout, "at": _now()}
        self.conversations.append({**told, **prompt})

    def choose(self, completion: str, outcome: str, *, revises: str | None = None) -> str:
        """A user answers; the label's id."""
        with self._changed:
            asked = next(row for row in self.duels if row["completion"] == completion)
            seq = len(self.labels) + 1
            self.labels.append(
                {
                    "seq": seq,
                    "label_id": f"label-{seq}",
                    "query_id": asked["query_id"],
                    "client_key": completion,
                    "outcome": outcome,
                    "annotator": asked["user"],
                    "kind": "vote",
                    "revises": revises,
                    "at": _now(),
                }
            )
            self._changed.notify_all()
            return f"label-{seq}"

    def erase(self, user: str) -> list[str]:
        """Erase a user; the completions whose texts are gone."""
        with self._changed:
            gone = [row["completion"] for row in self.conversations if row["user"] == user]
            self.conversations = [row for row in self.conversations if row["user"] != user]
            self.erased_duels |= {row["completion"] for row in self.duels if row["user"] == user}
            for label in self.labels:
                if label["annotator"] == user:
                    label["annotator"] = "erased"
            self.erasures.append(gone)
            self._changed.notify_all()
            return gone

    def promote(self, version: int) -> None:
        """An operator lets a version go live, whatever the gate says."""
        with self._changed:
            self._go_live(version)

    def state_of(self, version: int) -> str:
        return str(self.publications[version - 1]["state"])

    @property
    def live(self) -> int | None:
        return next((row["version"] for row in self.publications if row["state"] == "live"), None)

    # --- what the agent asks

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        self.requests.append((method, path))
        parts = path.strip("/").split("/")
        match method, parts:
            case "GET", ["v1", "runs"]:
                return 200, {"runs": []}
            case "GET", ["v1", "runs", run, "labels"] if run == RUN:
                return 200, self._log(int(query["after_seq"]), int(query["limit"]), int(query["wait_s"]))
            case "GET", ["v1", "live", run] if run == RUN:
                canary = next((row["version"] for row in self.publications if row["state"] == "canary"), None)
                return 200, {
                    **{"run": run, "live": self.live, "canary": canary, "frozen": self.frozen, "forced": None},
                    "erasures": len(self.erasures),
                }
            case "GET", ["v1", "live", run, "duels"] if run == RUN:
                return 200, self._duels(int(query["after"]), int(query["limit"]))
            case "GET", ["v1", "live", run, "prompts"] if run == RUN:
                wanted = query["heldout"] == "true"
                with self._changed:
                    rows = [row for row in self.conversations if row["heldout"] is wanted][-int(query["limit"]) :]
                return 200, {"prompts": rows, "next_after": rows[-1]["number"] if rows else 0}
            case "GET", ["v1", "live", run, "erased"] if run == RUN:
                after = int(query["after"])
                gone = [id_ for part in self.erasures[after:] for id_ in part]
                return 200, {"completions": gone, "next_after": len(self.erasures), "erasures": len(self.erasures)}
            case "GET", ["v1", "live", run, "publications"] if run == RUN:
                before, limit = int(query.get("before", len(self.publications) + 1)), int(query["limit"])
                return 200, {"publications": self.publications[: before - 1][::-1][:limit]}
            case "POST", ["v1", "live", run, "publications"] if run == RUN:
                return 201, self._publish(body)
            case "PATCH", ["v1", "live", run, "publications", version] if run == RUN:
                return self._change(int(version), body)
        return 404, {"detail": f"there is no {method} {path}"}

    def _log(self, after: int, limit: int, wait_s: int) -> dict[str, Any]:
        with self._changed:
            if len(self.labels) <= after and wait_s:
                self._changed.wait(min(wait_s, 1))
            rows = self.labels[after : after + limit]
        return {"labels": rows, "next_seq": rows[-1]["seq"] if rows else after}

    def _duels(self, after: int, limit: int) -> dict[str, Any]:
        with self._changed:
            there = (row for row in self.duels if row["completion"] not in self.erased_duels)
            rows = [row for row in there if row["number"] > after][:limit]
        return {"duels": rows, "next_after": rows[-1]["number"] if rows else after}

    def _publish(self, body: Mapping[str, Any]) -> dict[str, Any]:
        with self._changed:
            for row in self.publications:
                if (row["checksum"], row["round"]) == (body["checksum"], body["round"]):
                    return row
            row = {
                "version": len(self.publications) + 1,
                **body,
                **{"state": "offered", "reason": "", "report": {}, "created_at": _now(), "decided_at": None},
            }
            self.publications.append(row)
            return row

    def _change(self, version: int, body: Mapping[str, Any]) -> tuple[int, Any]:
        with self._changed:
            row = self.publications[version - 1]
            state = body.get("state", row["state"])
            if state != row["state"]:
                allowed = _NEXT.get(row["state"], ())
                if state not in allowed or (self.frozen and state in ("live", "canary")):
                    return 409, {"detail": f"version {version} is {row['state']} and cannot be {state} next"}
                good = [one for one in self.publications if one["state"] == "retired" and one["path"]]
                if state == "withdrawn" and not good:
                    return 409, {"detail": "nothing was live before"}
                if state == "live":
                    self._go_live(version)
                row["state"], row["decided_at"] = state, _now()
                if state == "withdrawn":
                    self._go_live(max(good, key=lambda one: (one["decided_at"], one["version"]))["version"])
            if body.get("deleted"):
                if row["state"] in ("offered", "canary", "live"):
                    return 409, {"detail": "it needs its weights"}
                row["path"] = ""
            row |= {key: body[key] for key in ("reason", "report") if body.get(key) is not None}
            return 200, row

    def _go_live(self, version: int) -> None:
        for row in self.publications:
            if row["state"] == "live":
                row["state"], row["decided_at"] = "retired", _now()
        self.publications[version - 1] |= {"state": "live", "decided_at": _now()}


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """An agent that was killed cannot be answered."""


class _Handler(BaseHTTPRequestHandler):
    gateway: Gateway
    protocol_version = "HTTP/1.1"

    def _reply(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            status, answer = 401, {"detail": "not this key"}
        else:
            status, answer = self.gateway.answer(self.command, parts.path, query, body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = _reply

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _now() -> str:
    return datetime.now(UTC).isoformat()
