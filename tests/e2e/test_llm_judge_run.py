"""A run whose oracle is a language model: it counts what it asks, and outlives an endpoint that fails for a while."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import Judge, JudgeServer

from oracle import llm_endpoint
from sea_agent.persistence.ledger import Ledger
from sea_agent.types import Outcome
from sea_agent.worlds import scorer

BUDGET = 12
Command = Callable[..., Any]
REWARD = scorer("lexicon", "reward")


def prefer(prompt: str, a: str, b: str) -> str:
    """The world's hidden reward."""
    better = REWARD(prompt, a) - REWARD(prompt, b)
    return "tie" if better == 0.0 else "A" if better > 0.0 else "B"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, and two attempts of a request in one call."""
    monkeypatch.delenv(llm_endpoint.KEY, raising=False)
    monkeypatch.setattr(llm_endpoint, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(llm_endpoint, "_is_late", lambda end, state: state.attempt_number == 2)


def settings(server: JudgeServer, **more: Any) -> list[str]:
    """``sea-agent run`` options: the demo's world and method, a tiny budget, and the server as the judge."""
    tiny = {
        "batch_size": 4,
        "budget.oracle_queries": BUDGET,
        "imagination.start": 8,
        "imagination.rounds": 2,
        "evaluation.prompts": 4,
        "evaluation.every": BUDGET,
    }
    judge = {"oracle.kind": "llm_judge", "oracle.url": server.url, "oracle.model": "m"}
    return [part for key, value in (tiny | judge | more).items() for part in ("--set", f"{key}={value}")]


def summary_of(out: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def pairs_asked(judge: Judge) -> list[tuple[str, str, str]]:
    return [(one.prompt, one.a, one.b) for one in judge.questions]


def pairs_in(out: Path) -> list[tuple[str, str, str]]:
    """Both orders of each duel in the ledger."""
    with Ledger(out / "ledger.sqlite") as ledger:
        duels = [duel for duel, _ in ledger.rows()]
    return [
        (duel.prompt.text, *sides)
        for duel in duels
        for sides in ((duel.first.text, duel.second.text), (duel.second.text, duel.first.text))
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Judge]:
    """A run, and its judge, that nothing happened to."""
    from sea_agent.config.files import load_config
    from sea_agent.run.lifecycle import run

    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with JudgeServer(Judge(prefer=prefer)) as server:
        run(load_config("sea", settings(server)[1::2]), out)
        return out, server.judge


def test_ledger_summary_and_judge_count_the_same_duels(undisturbed: tuple[Path, Judge]) -> None:
    out, judge = undisturbed
    summary = summary_of(out)
    assert summary["oracle_queries"] == BUDGET
    assert sorted(pairs_asked(judge)) == sorted(pairs_in(out))
    assert len(judge.questions) == 2 * BUDGET
    assert (summary["oracle_judged"], summary["oracle_flips"]) == (BUDGET, 0)
    assert summary["oracle_requests"] >= 2 * BUDGET
    with Ledger(out / "ledger.sqlite") as ledger:
        for duel, verdict in ledger.rows():
            assert verdict is not None
            expected = {"A": Outcome.FIRST, "B": Outcome.SECOND, "tie": Outcome.TIE}
            assert verdict.outcome == expected[prefer(duel.prompt.text, duel.first.text, duel.second.text)]


def test_a_judge_that_costs_money_does_not_evaluate_and_the_worlds_own_does(undisturbed: tuple[Path, Judge]) -> None:
    summary = summary_of(undisturbed[0])
    assert summary["win_rate"] is None
    assert 0.0 <= summary["judge_win_rate"] <= 1.0
    assert summary["evaluation_queries"] > 0


def test_a_judge_that_is_asked_to_evaluate_does(sea_agent: Command, tmp_path: Path) -> None:
    with JudgeServer(Judge(prefer=prefer)) as server:
        options = settings(server, **{"oracle.evaluates": True, "evaluation.judge": "null"})
        assert sea_agent("run", "sea", "--out", "out", *options).code == 0
        summary = summary_of(tmp_path / "out")
        assert summary["oracle_queries"] == BUDGET
        assert 0.0 <= summary["win_rate"] <= 1.0
        # What was asked before is remembered, so that no more requests are made than there are answers.
        assert 2 * BUDGET < len(server.judge.questions) <= 2 * (BUDGET + summary["evaluation_queries"])


def test_an_endpoint_that_is_gone_for_a_while_changes_nothing(
    sea_agent: Command, undisturbed: tuple[Path, Judge], tmp_path: Path
) -> None:
    """It goes while a round is asked, between the two orders of a duel, and comes back when that was noticed twice."""
    judge = Judge()

    def until_it_goes(prompt: str, a: str, b: str) -> str:
        if len(judge.questions) == 11:
            judge.down.set()
        return prefer(prompt, a, b)

    judge.prefer = until_it_goes
    noticed = Noticing(lambda times: judge.down.clear() if times == 2 else None)
    logging.getLogger("oracle.llm_judge").addHandler(noticed)
    try:
        with JudgeServer(judge) as server:
            done = sea_agent("run", "sea", "--out", "out", *settings(server, **{"oracle.concurrency": 1}))
    finally:
        logging.getLogger("oracle.llm_judge").removeHandler(noticed)
    assert (done.code, noticed.times) == (0, 2), done.err
    expected, summary = summary_of(undisturbed[0]), summary_of(tmp_path / "out")
    assert summary["ledger_digest"] == expected["ledger_digest"]
    assert summary["policy_checksum"] == expected["policy_checksum"]
    assert sorted(pairs_asked(judge)) == sorted(pairs_in(tmp_path / "out")), "an answered order was asked again"
    assert judge.requests > len(judge.asked), "the control: requests were lost"


class Noticing(logging.Handler):
    """Calls ``react`` with the number of records so far."""

    def __init__(self, react: Callable[[int], None]) -> None:
        super().__init__()
        self.react, self.times = react, 0

    def emit(self, record: logging.LogRecord) -> None:
        self.times += 1
        self.react(self.times)


def test_a_run_that_has_spent_its_money_goes_on_with_more(
    sea_agent: Command, undisturbed: tuple[Path, Judge], tmp_path: Path
) -> None:
    prices = {"oracle.price_per_million_input": 5.0, "oracle.price_per_million_output": 50.0}  # .001 for a request
    limit = {"oracle.spend_limit": 0.0135, "oracle.concurrency": 1}
    with JudgeServer(Judge(prefer=prefer)) as server:
        stopped = sea_agent("run", "sea", "--out", "out", *settings(server, **prices, **limit))
        assert stopped.code == 1
        assert "oracle.spend_limit=0.0135: the judge has cost 0.014 since the start" in stopped.err
        assert not (tmp_path / "out" / "summary.json").exists()
        more = sea_agent("resume", "out", "--set", "oracle.spend_limit=1.0")
        assert more.code == 0, more.err
    expected, summary = summary_of(undisturbed[0]), summary_of(tmp_path / "out")
    assert summary["ledger_digest"] == expected["ledger_digest"]
    assert summary["policy_checksum"] == expected["policy_checksum"]
    # Two trials; the first order of one duel was paid when the money was spent, and again afterwards.
    assert server.judge.requests == 2 + 2 * BUDGET + 1


def test_a_wrong_key_is_told_before_anything_is_made(sea_agent: Command, tmp_path: Path) -> None:
    with JudgeServer(Judge(faults=[lambda handler: handler.fail(401)])) as server:
        done = sea_agent("run", "sea", "--out", "out", *settings(server))
    assert (done.code, "SEA_AGENT_JUDGE_KEY is not set" in done.err) == (2, True)
    assert not (tmp_path / "out").exists()
