"""The service answers as its OpenAPI document says: Schemathesis finds nothing, and finds a breach."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from live_stub import StubEngine
from service.chat_service import SECRET, StubDecider, settings_of
from service.live_rows import Asked, make_run, write
from service.processes import ALTERED, GIVEN_KEY, SECONDS, Process
from sqlalchemy import create_engine

from sea_agent.service.chat.settings import TOKEN

pytestmark = pytest.mark.dear

PERMITTED_SECONDS = 3000
USERS = 60
PUBLICATIONS = 40
LIVE_LEASES = 20  # of which the examples end some


def schemathesis(service: Process, folder: Path, examples: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Every phase over the service's OpenAPI document, with the same examples every time."""
    command = [
        *(str(Path(sys.executable).with_name("st")), "run", f"{service.url}/v1/openapi.json"),
        *("--header", f"Authorization: Bearer {GIVEN_KEY}"),
        *("--generation-deterministic", "--max-examples", str(examples), "--request-timeout", str(SECONDS)),
        *("--no-color", *options),
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PERMITTED_SECONDS)


def filled(service: Process) -> dict[str, list]:
    """Something in each state, and ids of it: made-up ids alone would only find what is missing."""
    with service.client(GIVEN_KEY) as client:

        def ask(method: str, path: str, /, **body: object) -> httpx.Response:
            answer = client.request(method, f"/v1/{path}", json=body or None)
            assert answer.is_success, answer.text
            return answer

        ask("PUT", "runs/run", repeat_share=0, gold_share=0)
        texts = {"prompt": "p", "first": "a", "second": "b"}
        posted = ask("POST", "runs/run/queries:batch", queries=[{"client_key": f"k{n}", **texts} for n in range(9)])
        queries = [query["id"] for query in posted.json()["queries"]]
        ask("POST", f"queries/{queries[-1]}/cancel")
        ask("PATCH", f"queries/{queries[-2]}", assigned=["somebody"])
        skipped = ask("POST", "runs/run/leases", ttl_s=3600).json()["lease_id"]
        ask("POST", f"leases/{skipped}/skip")
        labelled = ask("POST", "runs/run/leases", ttl_s=3600).json()["lease_id"]
        given = ask("PUT", f"leases/{labelled}/label", outcome="tie").json()["label_id"]
        live = [ask("POST", "runs/run/leases", ttl_s=3600).json()["lease_id"]]
        for number in range(LIVE_LEASES):  # of duels that nothing else ends
            ask("PUT", f"runs/of-{number}", gold_share=0)
            ask("POST", f"runs/of-{number}/queries:batch", queries=[{"client_key": "k", **texts}])
            live.append(ask("POST", f"runs/of-{number}/leases", ttl_s=3600).json()["lease_id"])
        names = [f"person {n}" for n in range(9)]
        answers = [{"client_key": "k0", "outcome": "tie", "annotator": name} for name in names]
        client.post(
            "/v1/runs/run/labels:batch", json={"labels": answers}, headers={"Idempotency-Key": "x"}
        ).raise_for_status()
        (key, *_) = ask("GET", "keys").json()["keys"]
        users = [f"user {number}" for number in range(USERS)]
        answered = go_live(service, key["id"], users)
        versions = []
        for number in range(PUBLICATIONS):  # each goes live, so that there is something to go back to
            offer = {"checksum": f"{number:032x}", "round": number, "labels": 0, "path": f"/w/{number}"}
            versions.append(ask("POST", "live/run/publications", **offer).json()["version"])
            ask("POST", "live/run/promote", version=versions[-1])
    ids = {"run": ["run"], "query_id": queries, "lease_id": [*live, skipped, labelled], "label_id": [given]}
    ids |= {"completion": answered, "user": users, "version": versions, "model": ["live"]}
    return ids | {"annotator": names, "client_key": [f"k{number}" for number in range(9)]}


def go_live(service: Process, key: str, users: list[str]) -> list[str]:
    """Let the run be live, with requests of users, and another with one that nothing erases; the ids of that."""
    duels = [Asked(number, key, run="run", user=user, asked="duel") for number, user in enumerate(users)]
    kept = Asked(USERS, key, run="kept", user="nobody else", asked="duel")
    engine = create_engine(f"sqlite:///{service.errors.parent / 'sea-agent-data' / 'feedback.sqlite'}")
    with engine.begin() as connection:
        for run in ("run", "kept"):
            make_run(connection, run)
        write(connection, [*duels, kept])
    engine.dispose()
    return [kept.id]


def configure(folder: Path, ids: dict[str, list]) -> None:
    """Let Schemathesis take most ids in paths, and those of duels with labels, from those that exist."""
    lines = ['[warnings]\nfail-on = ["missing_auth", "missing_test_data"]\n']
    for name, values in ids.items():
        lines.append(f"[dictionaries.{name}]\nvalues = {json.dumps(values)}\n")
        lines.append(f'[parameters."path.{name}"]\ndictionary = "{name}"\nprobability = 0.9\n')
        lines.append(f'[parameters."body.labels[*].{name}"]\ndictionary = "{name}"\nprobability = 1.0\n')
    lines.append('[parameters."body.model"]\ndictionary = "model"\nprobability = 0.9\n')
    # A schema cannot say what a whole conversation must be, such as that it ends with what is to be answered.
    lines.append('[[operations]]\ninclude-path = "/v1/chat/completions"\n')
    lines.append("checks.positive_data_acceptance.enabled = false\n")
    # A schema cannot say what a whole file must be, such as CSV, or rows whose keys differ.
    lines.append('[[operations]]\ninclude-path = "/v1/runs/{run}/queries:import"\n')
    lines.append("checks.positive_data_acceptance.enabled = false\n")
    # Nor whether a run is there already, which If-None-Match refuses.
    accepted = ["2xx", "404", "409", "412", "429"]
    lines.append('[[operations]]\ninclude-name = "PUT /v1/runs/{run}"\n')
    lines.append(f"checks.positive_data_acceptance.expected-statuses = {json.dumps(accepted)}\n")
    (folder / "schemathesis.toml").write_text("\n".join(lines))


@pytest.mark.parametrize("examples", [10, pytest.param(30, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_nothing_is_found_on_the_whole_contract(serve: Callable[..., Process], tmp_path: Path, examples: int) -> None:
    with StubEngine(SECRET) as engine, StubDecider() as decider:
        live_settings = tmp_path / "live.json"
        live_settings.write_text(settings_of([engine], decider, ask_share=1.0, considered_share=1.0).model_dump_json())
        options = ("--live", live_settings)
        service = serve(*options, key=GIVEN_KEY, program=[*ALTERED, "impatient"], environment={TOKEN: SECRET})
        configure(tmp_path, filled(service))
        done = schemathesis(service, tmp_path, examples)
    assert done.returncode == 0, done.stdout + done.stderr
    assert engine.requests, "no completion was sampled"
    with service.client(GIVEN_KEY) as client:
        operations = sum(len(item) for item in client.get("/v1/openapi.json").json()["paths"].values())
    assert f"Tested: {operations}\n" in done.stdout
    assert "Traceback" not in service.errors.read_text()


def test_an_answer_that_breaks_the_contract_is_found(serve: Callable[..., Process], tmp_path: Path) -> None:
    service = serve(key=GIVEN_KEY, program=[*ALTERED, "broken_contract"])
    done = schemathesis(service, tmp_path, 5, "--include-path", "/broken")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Response violates schema" in done.stdout
