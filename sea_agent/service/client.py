"""The commands that talk to a running service: ``sea-agent duels`` and ``sea-agent erase``."""

import json
import os
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from sea_agent.errors import UserError

KEY = "SEA_AGENT_KEY"
TYPES = {
    ".jsonl": "application/jsonl",
    ".ndjson": "application/x-ndjson",
    ".json": "application/json",
    ".csv": "text/csv",
}
PLACES = {"person": "people", "query": "queries", "run": "runs"}
OUT_OF_REACH = (
    "What the service cannot reach: back-ups, exported files, logs of proxies and of PostgreSQL, ledgers in run "
    "directories, and what policies and posteriors learnt from the labels."
)
_SECONDS = 120.0
_ERASING_SECONDS = 900.0
"""The files of a large database are written anew before the service answers."""


def import_duels(file: Path, run: str, service: str, *, make: bool = False, gold: bool = False) -> str:
    """Post the duels of a file to a run, and say what became of them.

    ``make``: the run is made when it is missing. ``gold``: the chosen response is the right answer to each duel.

    Raises:
        UserError: the file cannot be read, or the service cannot be reached or refuses it.
    """
    if file.suffix not in TYPES:
        raise UserError(f"{file}: not a file of duels. Give one that ends in {', '.join(TYPES)}.")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    path = f"/v1/runs/{quote(run, safe='')}"
    if make:
        ask(service, "PUT", path, b"{}")
    done = ask(service, "POST", f"{path}/queries:import{'?gold=chosen' * gold}", content, TYPES[file.suffix])
    ignored = f" Ignored columns: {', '.join(done['ignored'])}." if done["ignored"] else ""
    return f"{file}: {done['created']} new duels in run {run}, {done['known']} known ones.{ignored}"


def erase(service: str, kind: str, name: str) -> str:
    """Erase a person, or the texts of a query or of a run; what the service did, in words.

    Raises:
        UserError: there is no key, or the service cannot be reached or refuses.
    """
    answer = ask(service, "POST", f"/v1/{PLACES[kind]}/{quote(name, safe='')}/erase", seconds=_ERASING_SECONDS)
    if kind == "person":
        done = f"{name} is {answer['pseudonym']} now, on {answer['labels']} labels; their comments are gone."
    else:
        done = f"The texts of {answer['duels']} duels are erased; their labels stay."
    left = answer["left"] or ["Nothing of it is left in the files of the database."]
    return "\n".join([done, *left, OUT_OF_REACH])


def ask(
    service: str,
    method: str,
    path: str,
    content: bytes | None = None,
    media_type: str = "application/json",
    seconds: float = _SECONDS,
) -> Any:
    """The JSON answer of a service to one request, made with the key in the environment.

    Raises:
        UserError: there is no key, or the service cannot be reached or refuses the request.
    """
    if urlsplit(service).scheme not in ("http", "https"):
        raise UserError(f"--service {service}: give the address of a feedback service, such as http://127.0.0.1:8400")
    if not (key := os.environ.get(KEY, "")):
        raise UserError(f"{KEY} is not set. Put a key of the service at {service} into the environment.")
    headers = {"Authorization": f"Bearer {key}", "Content-Type": media_type}
    try:
        request = Request(service.rstrip("/") + path, content, headers, method=method)
        with urlopen(request, timeout=seconds) as answer:
            return json.load(answer)
    except HTTPError as error:
        raise UserError(f"{service}: refused with {error.code}. {_detail(error)}") from None
    except (OSError, URLError, HTTPException, ValueError) as error:
        raise UserError(
            f"--service {service}: no feedback service answers there ({error}). Correct the address."
        ) from None


def _detail(error: HTTPError) -> str:
    """What a problem document says, with every fault that it lists."""
    try:
        problem = json.load(error)
        lines = [problem["detail"], *(f"  {fault['where']}: {fault['what']}" for fault in problem.get("errors", ()))]
    except (OSError, ValueError, KeyError, TypeError):
        return "Is this a feedback service?"
    return "\n".join(lines if len(lines) > 2 else lines[:1])  # one fault stands in the detail already
