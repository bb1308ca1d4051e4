"""Rows of live mode as its gateway writes them, for tests that need no gateway."""

import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx
from service.conftest import START, Running
from sqlalchemy import Connection, delete, insert

from sea_agent.seeding import id_for
from sea_agent.service.store import runs
from sea_agent.service.store.live_tables import completions, live_runs, live_users
from sea_agent.service.store.tables import assignments, queries

RUN = "live"
SECRET = "5ec2e7" * 8


def user_hash(user: str, secret: str = SECRET) -> str:
    """What stands for a user in the rows of a run."""
    return hmac.new(secret.encode(), user.encode(), hashlib.sha256).hexdigest()


def make_run(connection: Connection, run: str = RUN, **values: Any) -> None:
    """A live run, in the place of one that a gateway has made."""
    runs.put(connection, run, {"repeat_share": 0.0, "gold_share": 0.0}, now=START)
    connection.execute(delete(live_runs).where(live_runs.c.run == run))
    connection.execute(insert(live_runs), {"run": run, "secret": SECRET} | values)


@dataclass(frozen=True)
class Asked:
    """A request to be written. ``swapped``: the duel's second response was shown first."""

    number: int
    key_id: str
    run: str = RUN
    user: str | None = "u1"
    asked: str | None = None
    swapped: bool = False
    heldout: bool = False
    stored: bool = True
    eligible: bool = True
    state: str = "done"
    conversation: str | None = None
    regret: float | None = None
    version: int = 0
    """Of the policy, where there are two responses."""
    created_at: float = START
    first_token_seconds: float | None = 0.5
    patience: float = 86_400.0
    said: str = ""
    """Stands in every text."""

    @property
    def id(self) -> str:
        return id_for("chatcmpl", self.run, self.number)

    @property
    def query_id(self) -> str:
        return id_for("query", self.run, self.id)

    @property
    def texts(self) -> list[str]:
        """The responses, in the duel's own order."""
        return [f"first {self.number}{self.said}", f"second {self.number}{self.said}"]


def write(connection: Connection, all_asked: Iterable[Asked]) -> None:
    """Write requests with their duels, in order."""
    rows = list(all_asked)
    duels = [asked for asked in rows if asked.asked is not None]
    if duels:
        connection.execute(insert(queries), [query_row(asked) for asked in duels])
        named = [{"query_id": asked.query_id, "annotator": _hash(asked) or "anonymous"} for asked in duels]
        connection.execute(insert(assignments), named)
    connection.execute(insert(completions), [completion_row(asked) for asked in rows])


def know(connection: Connection, user: str, run: str = RUN, **values: Any) -> None:
    """A user who was considered before."""
    row = {"run": run, "user_hash": user_hash(user), "asks": True, "tokens": 1.0, "since": START}
    connection.execute(insert(live_users), row | values)


async def begin(service: Running, *all_asked: Asked) -> None:
    """Make the live run of a service, with requests."""

    def write_all(connection: Connection) -> None:
        make_run(connection)
        if all_asked:
            write(connection, all_asked)

    await service.state.database.write(write_all)


async def add(service: Running, *all_asked: Asked) -> None:
    """Write more requests."""
    await service.state.database.write(lambda connection: write(connection, all_asked))


async def chat_key(service: Running, name: str = "app", **restrictions: Any) -> tuple[str, httpx.AsyncClient]:
    """A key of an app: its id, and a client with it."""
    made = await service.admin.post("/v1/keys", json={"name": name, "scopes": ["chat"], **restrictions})
    assert made.status_code == 201, made.text
    return made.json()["id"], await service._connect(made.json()["key"])


def _hash(asked: Asked) -> str | None:
    return None if asked.user is None else user_hash(asked.user)


def query_row(asked: Asked) -> dict[str, Any]:
    """The duel of a request."""
    first, second = asked.texts
    return {
        "id": asked.query_id,
        "run": asked.run,
        "client_key": asked.id,
        "body_digest": "of the duel",
        "policy_version": 1,
        "rule": "sea_ee",
        "votes_needed": 1,
        "priority": 0,
        "expires_at": asked.created_at + asked.patience,
        "state": "open",
        "votes": 0,
        "places": 1,
        "created_at": asked.created_at,
        "assigned": True,
        "prompt": f"prompt {asked.number}{asked.said}",
        "first": first,
        "second": second,
    }


def completion_row(asked: Asked) -> dict[str, Any]:
    """The row of a request."""
    own = [
        {"id": f"response-{asked.number}-{place}", "text": text, "token_ids": [place], "logprobs": [-0.5]}
        | {"policy_version": 1 - place}
        for place, text in enumerate(asked.texts)
    ]
    shown = own[::-1] if asked.swapped else own
    is_duel = asked.asked is not None
    kept: dict[str, Any] = {
        "messages": json.dumps([{"role": "user", "content": f"prompt {asked.number}{asked.said}"}]),
        "prompt": json.dumps({"text": f"prompt {asked.number}{asked.said}", "token_ids": [7, asked.number]}),
        "responses": json.dumps(shown if is_duel else shown[:1]),
        "answer": json.dumps({"id": asked.id, "said": asked.texts}),
    }
    if not asked.stored:
        kept = {"messages": "[]", "prompt": "{}", "responses": "[]", "answer": ""}
    return kept | {
        "id": asked.id,
        "run": asked.run,
        "user_hash": _hash(asked),
        "conversation": asked.conversation or f"conversation {asked.number}{asked.said}"[:60],
        "key_id": asked.key_id,
        "idempotency_key": f"once {asked.number}{asked.said}"[:100],
        "body_digest": f"digest {asked.number}",
        "state": asked.state,
        "stored": asked.stored,
        "heldout": asked.heldout,
        "eligible": asked.eligible,
        "asked": asked.asked,
        "query_id": asked.query_id if is_duel else None,
        "information": 0.25 if is_duel else None,
        "regret": asked.regret,
        "policy_version": asked.version if is_duel else 1,
        "prompt_tokens": 10 + asked.number % 3,
        "completion_tokens": 20 + asked.number % 5,
        "created_at": asked.created_at,
        "first_token_at": None if asked.first_token_seconds is None else asked.created_at + asked.first_token_seconds,
        "done_at": asked.created_at + 2.0 if asked.state == "done" else None,
    }
