"""Erasing on a service by its address and an admin's key, from anywhere."""

import json
import os
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from sea_agent.errors import RunFailure, UserError

KEY = "SEA_AGENT_KEY"
SECONDS = 900.0
"""The files of a large database are written anew before the service answers."""

OUT_OF_REACH = (
    "What the service cannot reach: back-ups, exported files, logs of proxies and of PostgreSQL, ledgers in run "
    "directories, and what policies and posteriors learnt from the labels."
)

PLACES = {"person": "people", "query": "queries", "run": "runs"}


def erase(service: str, kind: str, name: str) -> str:
    """Erase a person, or the texts of a query or of a run; what the service did, in words.

    Raises:
        UserError: without a key, or where no service is.
        RunFailure: when the service refuses.
    """
    answer = _post(f"{service.rstrip('/')}/v1/{PLACES[kind]}/{quote(name, safe='')}/erase")
    if kind == "person":
        done = f"{name} is {answer['pseudonym']} now, on {answer['labels']} labels; their comments are gone."
    else:
        done = f"The texts of {answer['duels']} duels are erased; their labels stay."
    left = answer["left"] or ["Nothing of it is left in the files of the database."]
    return "\n".join([done, *left, OUT_OF_REACH])


def _post(url: str) -> Any:
    if urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"--service {url}: give the address of a feedback service, such as http://127.0.0.1:8400")
    key = os.environ.get(KEY, "")
    if not key:
        raise UserError(f"{KEY} is not set. Put a key with the scope admin into the environment.")
    request = Request(url, method="POST", headers={"Authorization": f"Bearer {key}"})
    try:
        with urlopen(request, timeout=SECONDS) as response:
            return json.load(response)
    except HTTPError as error:
        raise RunFailure(f"the service refused to erase: {_detail(error)}") from None
    except (URLError, OSError, ValueError) as error:
        raise UserError(f"{url}: no feedback service answers there ({error})") from None


def _detail(error: HTTPError) -> str:
    """The detail of a problem document, or the status."""
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"status {error.code}"
