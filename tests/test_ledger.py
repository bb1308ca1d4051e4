"""The ledger counts what was answered, keeps what was asked, and lets nothing in twice."""

import dataclasses
import sqlite3
from pathlib import Path

import pytest

from sea_agent.ledger import Ledger
from sea_agent.types import Duel, LabelSource, Outcome, Prompt, Response, Verdict


def duel(name: str, source: LabelSource = LabelSource.ORACLE) -> Duel:
    prompt = Prompt(f"prompt-{name}", "say w1", (3, 4), messages=(("user", "say w1"),))
    first = Response(f"a-{name}", prompt.id, "w1", (4, 0), (-0.5, -0.1), 2)
    second = Response(f"b-{name}", prompt.id, "w2", (5, 0), (-0.7, -0.2), 2)
    return Duel(name, 3, prompt, first, second, "sea_ee", 2, 1, source, belief=0.25, disagreement=0.125)


def verdict(name: str, outcome: Outcome = Outcome.FIRST) -> Verdict:
    return Verdict(name, outcome, "somebody", at=12.5, probability=0.75)


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_duels([duel("x"), duel("y")])
        ledger.add_verdicts([verdict("y")])
    with Ledger(tmp_path / "ledger.sqlite") as again:
        assert again.rows() == [(duel("x"), None), (duel("y"), verdict("y"))]


def test_only_answers_of_the_oracle_count_as_queries(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_duels([duel("asked"), duel("pending"), duel("free", LabelSource.POSTERIOR)])
        assert ledger.oracle_queries == 0
        ledger.add_verdicts([verdict("asked"), verdict("free")])
        assert (ledger.oracle_queries, ledger.posterior_labels) == (1, 1)


def test_a_verdict_needs_its_duel_and_comes_once(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        with pytest.raises(sqlite3.IntegrityError):
            ledger.add_verdicts([verdict("unknown")])
        ledger.add_duels([duel("x")])
        ledger.add_verdicts([verdict("x")])
        with pytest.raises(sqlite3.IntegrityError):
            ledger.add_verdicts([verdict("x", Outcome.SECOND)])
        assert ledger.rows()[0][1] == verdict("x")


def test_a_refused_batch_leaves_nothing_behind(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        with pytest.raises(sqlite3.IntegrityError):
            ledger.add_duels([duel("x"), duel("x")])
        assert ledger.rows() == []


def test_digest_ignores_the_clock_and_nothing_else(tmp_path: Path) -> None:
    def digest(name: str, answer: Verdict) -> str:
        with Ledger(tmp_path / name) as ledger:
            ledger.add_duels([duel("x")])
            ledger.add_verdicts([answer])
            return ledger.digest()

    reference = digest("one", verdict("x"))
    assert digest("two", dataclasses.replace(verdict("x"), at=99.0)) == reference
    assert digest("three", verdict("x", Outcome.SECOND)) != reference
    assert digest("four", dataclasses.replace(verdict("x"), probability=0.5)) != reference
