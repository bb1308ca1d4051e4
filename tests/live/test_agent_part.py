"""The agent of live mode: a whole run of it against a gateway."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from live.live_world import Users, live_config
from live_gateway import Gateway

from sea_agent.live.agent_part import run_part
from sea_agent.persistence.ledger import Ledger


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    opened = Gateway()
    yield opened
    opened.close()


def test_every_answer_is_learnt_from_once(gateway: Gateway, tmp_path: Path) -> None:
    users = Users(gateway)
    answered = users.duels(12)
    users.duels(3, answered=False)
    users.conversations(4, heldout=True)
    run_part(live_config(gateway), tmp_path)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        rows = ledger.rows()
    assert sorted(duel.id for duel, _ in rows) == sorted(answered)
    said = {label["client_key"]: label["outcome"] for label in gateway.labels}
    assert {duel.id: verdict.outcome.value for duel, verdict in rows if verdict} == said
    assert [row["version"] for row in gateway.publications] == list(range(1, len(gateway.publications) + 1))
    assert gateway.publications
    print([(row["state"], row["reason"], row["report"]) for row in gateway.publications])
