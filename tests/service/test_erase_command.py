"""`sea-agent erase` does on a service what its routes do, and says what it cannot reach."""

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest
from service.processes import GIVEN_KEY, Process

from sea_agent.service.client import OUT_OF_REACH

Command = Callable[..., Any]


@pytest.fixture
def service(serve: Callable[..., Process], monkeypatch: pytest.MonkeyPatch) -> Process:
    """A service with a run that somebody with a difficult name has answered; its key is in the environment."""
    process = serve(key=GIVEN_KEY)
    monkeypatch.setenv("SEA_AGENT_KEY", GIVEN_KEY)
    with process.client(GIVEN_KEY) as admin:
        admin.put("/v1/runs/run", json={"instructions": "Be kind."}).raise_for_status()
        queries = [{"client_key": f"k{n}", "prompt": f"p{n}", "first": "a", "second": "b"} for n in range(3)]
        admin.post("/v1/runs/run/queries:batch", json={"queries": queries}).raise_for_status()
        labels = [{"client_key": "k0", "outcome": "tie", "annotator": "Zoë / ann"}]
        batch = admin.post("/v1/runs/run/labels:batch", json={"labels": labels}, headers={"Idempotency-Key": "x"})
        batch.raise_for_status()
    return process


def test_it_erases_a_person_a_duel_and_a_run(service: Process, sea_agent: Command) -> None:
    with service.client(GIVEN_KEY) as admin:
        (label,) = admin.get("/v1/runs/run/labels").json()["labels"]
        for kind, name, told in (
            ("person", "Zoë / ann", "Zoë / ann is erased-"),
            ("query", label["query_id"], "The texts of 1 duels are erased"),
            ("run", "run", "The texts of 2 duels are erased"),
        ):
            done = sea_agent("erase", kind, name, "--service", f"{service.url}/", "--yes")
            assert done.code == 0, done.err
            assert done.out.startswith(told)
            assert "Nothing of it is left in the files of the database." in done.out
            assert OUT_OF_REACH in done.out
        (after,) = admin.get("/v1/runs/run/labels").json()["labels"]
        assert after["annotator"].startswith("erased-")
        assert admin.get("/v1/runs/run").json()["instructions"] == ""


def test_it_asks_first(service: Process, sea_agent: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, code, instructions in (("", 1, "Be kind."), ("n\n", 1, "Be kind."), ("y\n", 0, "")):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        done = sea_agent("erase", "run", "run", "--service", service.url)
        assert (done.code, "It cannot be undone." in done.out) == (code, True)
        with service.client(GIVEN_KEY) as admin:
            assert admin.get("/v1/runs/run").json()["instructions"] == instructions


def test_a_refusal_is_told(service: Process, sea_agent: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    done = sea_agent("erase", "person", "nobody", "--service", service.url, "--yes")
    assert (done.code, "There is nobody called 'nobody'." in done.err) == (2, True)
    monkeypatch.setenv("SEA_AGENT_KEY", "sea_wrong")
    done = sea_agent("erase", "run", "run", "--service", service.url, "--yes")
    assert (done.code, "A valid key is needed" in done.err) == (2, True)


def test_what_is_missing_is_named(sea_agent: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEA_AGENT_KEY", raising=False)
    done = sea_agent("erase", "run", "run", "--yes")
    assert (done.code, "SEA_AGENT_KEY is not set" in done.err) == (2, True)
    monkeypatch.setenv("SEA_AGENT_KEY", "x")
    done = sea_agent("erase", "run", "run", "--yes", "--service", "http://127.0.0.1:1")
    assert (done.code, "no feedback service answers there" in done.err) == (2, True)
    done = sea_agent("erase", "run", "run", "--yes", "--service", "file:///etc/passwd")
    assert (done.code, "give the address of a feedback service" in done.err) == (2, True)
