"""The ledger counts what was answered, keeps what was asked, and lets nothing in twice."""

import dataclasses
import sqlite3
from pathlib import Path

import pytest
from made_duels import duel, verdict

import sea_agent.persistence.ledger as ledger_module
from sea_agent.persistence.ledger import Ledger
from sea_agent.types import Answer, Hindsight, LabelSource, Outcome, Verdict


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        duels = ledger.add_duels([duel("x"), duel("y")], 3)
        ledger.add_verdicts(duels, [verdict("y")], 3)
    with Ledger(tmp_path / "ledger.sqlite") as again:
        assert again.rows() == [(duel("x"), None), (duel("y"), verdict("y"))]


def test_who_said_what_comes_back_in_its_order_and_counts_as_one_query(tmp_path: Path) -> None:
    said = (Answer("cem", Outcome.SECOND), Answer("ann", Outcome.FIRST), Answer("bob", Outcome.SECOND))
    given = dataclasses.replace(verdict("x", Outcome.SECOND), votes=3, answers=said)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_verdicts(ledger.add_duels([duel("x")], 3), [given], 3)
        assert ledger.oracle_queries == 1
        one_said_otherwise = dataclasses.replace(given, answers=(*said[:2], Answer("bob", Outcome.TIE)))
    with Ledger(tmp_path / "other.sqlite") as other:
        other.add_verdicts(other.add_duels([duel("x")], 3), [one_said_otherwise], 3)
        digest = other.digest()
    with Ledger(tmp_path / "ledger.sqlite") as again:
        assert again.rows() == [(duel("x"), given)]
        assert again.digest() != digest


def test_which_duels_were_not_in_an_order_by_chance_is_known_to_later_lives(tmp_path: Path) -> None:
    placed = dataclasses.replace(duel("x"), by_chance=False)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_verdicts(ledger.add_duels([placed, duel("y")], 3), [verdict("x"), verdict("y")], 3)
        digest = ledger.digest()
    with Ledger(tmp_path / "ledger.sqlite") as again:
        assert again.rows() == [(placed, verdict("x")), (duel("y"), verdict("y"))]
        assert [(one.id, one.by_chance) for one, _ in again.answers(3)[0][1]] == [("x", False), ("y", True)]
        again.rewind(2)
        assert again.add_duels([], 3) == [placed, duel("y")]
    with Ledger(tmp_path / "other.sqlite") as other:
        other.add_verdicts(other.add_duels([duel("x"), duel("y")], 3), [verdict("x"), verdict("y")], 3)
        assert other.digest() != digest


def test_a_ledger_from_before_such_duels_goes_on(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_duels([duel("x")], 3)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        db.execute("DROP TABLE not_by_chance")
    with Ledger(tmp_path / "ledger.sqlite") as again:
        again.add_duels([duel("y")], 4)
        assert [one.by_chance for one, _ in again.rows()] == [True, True]


def test_the_latest_hindsight_stays(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_duels([duel("x")], 3)
        before = ledger.digest()
        for belief in (0.5, 0.75):
            ledger.add_hindsight([Hindsight("x", belief, 0.125)])
        after = ledger.digest()
        with pytest.raises(sqlite3.IntegrityError):
            ledger.add_hindsight([Hindsight("unknown", 0.5, 0.125)])
        assert before != after == ledger.digest()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        assert db.execute("SELECT * FROM hindsight").fetchall() == [("x", 0.75, 0.125)]


def test_only_answers_of_the_oracle_count_as_queries(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        duels = ledger.add_duels([duel("asked"), duel("pending"), duel("free", LabelSource.POSTERIOR)], 3)
        assert ledger.oracle_queries == 0
        ledger.add_verdicts(duels, [verdict("asked"), verdict("free")], 3)
        assert (ledger.oracle_queries, ledger.posterior_labels) == (1, 1)


def test_a_verdict_needs_its_duel_and_comes_once(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        with pytest.raises(sqlite3.IntegrityError):
            ledger.add_verdicts([duel("unknown")], [verdict("unknown")], 3)
        duels = ledger.add_duels([duel("x")], 3)
        ledger.add_verdicts(duels, [verdict("x")], 3)
        with pytest.raises(sqlite3.IntegrityError):
            ledger.add_verdicts(duels, [verdict("x", Outcome.SECOND)], 3)
        assert ledger.rows()[0][1] == verdict("x")


def test_a_refused_batch_leaves_nothing_behind(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        with pytest.raises(sqlite3.IntegrityError):
            ledger.add_duels([duel("x"), duel("x")], 3)
        assert ledger.rows() == []


def test_digest_ignores_the_clock_and_nothing_else(tmp_path: Path) -> None:
    def digest(name: str, answer: Verdict) -> str:
        with Ledger(tmp_path / name) as ledger:
            ledger.add_verdicts(ledger.add_duels([duel("x")], 3), [answer], 3)
            return ledger.digest()

    reference = digest("one", verdict("x"))
    assert digest("two", dataclasses.replace(verdict("x"), at=99.0)) == reference
    assert digest("three", verdict("x", Outcome.SECOND)) != reference
    assert digest("four", dataclasses.replace(verdict("x"), probability=0.5)) != reference
    assert digest("five", dataclasses.replace(verdict("x"), votes=2)) != reference


def test_a_rewound_ledger_hands_out_what_the_later_rounds_asked_and_were_answered(tmp_path: Path) -> None:
    rounds = {number: [duel(f"x{number}", number=number), duel(f"y{number}", number=number)] for number in (1, 2, 3)}
    free = duel("free", LabelSource.POSTERIOR, number=4)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for number, duels in rounds.items():
            ledger.add_duels(duels, number)
            ledger.add_verdicts(duels, [verdict(f"x{number}")], number)
        ledger.add_verdicts(ledger.add_duels([free], 4), [verdict("free")], 4)
        ledger.add_verdicts(rounds[1], [verdict("y1", Outcome.SKIP)], 3)  # a late one, which is no answer
    with Ledger(tmp_path / "ledger.sqlite") as again:
        assert again.oracle_queries == again.oracle_answers_written == 3
        assert again.rewind(1) == [rounds[1][1]]
        assert (again.oracle_queries, again.oracle_answers_written) == (1, 3)
        other = [duel("other", number=2)]
        assert again.add_duels(other, 2) == rounds[2]
        assert again.recorded(rounds[1][1:] + rounds[2], 2) == [verdict("x2")]
        assert again.oracle_queries == 2
        assert again.unanswered(rounds[1][1:] + rounds[2][1:]) == [rounds[2][1]]  # y1 has its verdict in round 3
        assert again.add_duels([], 3) == rounds[3]
        assert again.recorded(rounds[1][1:] + rounds[3], 3) == [verdict("y1", Outcome.SKIP), verdict("x3")]
        assert again.add_duels([], 4) == [free]
        assert again.recorded([free], 4) == [verdict("free")]
        new = [duel("x5", number=5)]
        assert again.add_duels(new, 5) == new
        again.add_verdicts(new, [verdict("x5")], 5)
        assert again.oracle_queries == again.oracle_answers_written == 4
        assert len(again.rows()) == 8


def test_going_back_reads_only_what_is_not_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with many labels resumes without reading them."""
    read, parse = [], ledger_module._parse
    monkeypatch.setattr(ledger_module, "_parse", lambda row: read.append(row[0]) or parse(row))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for number in range(1, 6):
            duels = ledger.add_duels([duel(f"x{number}", number=number), duel(f"y{number}", number=number)], number)
            ledger.add_verdicts(duels, [verdict(f"x{number}")] + [verdict("y1")] * (number == 1), number)
    with Ledger(tmp_path / "ledger.sqlite") as again:
        assert sorted(read) == ["y2", "y3", "y4", "y5"], "what waits for an answer"
        read.clear()
        assert again.rewind(4) == [duel(f"y{number}", number=number) for number in (2, 3, 4)]
        assert sorted(read) == ["x5", "y2", "y3", "y4", "y5"]
        assert again.oracle_queries == 5


def test_a_round_keeps_the_checksum_of_the_weights_that_it_asked_about(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_duels([duel("x", number=2)], 2, "abc")
        ledger.add_duels([], 4, "def")
        digest = ledger.digest()
    with Ledger(tmp_path / "ledger.sqlite") as again:
        again.rewind(0)
        again.add_duels([duel("other", number=2)], 2, "of another life")
        assert [again.weights_behind(number) for number in (2, 3, 4)] == ["abc", None, "def"]
        assert again.digest() == digest
        again.add_duels([duel("y", number=5)], 5, "ghi")
        assert again.digest() != digest


def test_rounds_that_asked_are_counted_back_without_those_between(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for number in (1, 2, 27, 52):
            ledger.add_duels([], number, "abc")
        assert [ledger.asking_round(52, back) for back in range(5)] == [52, 27, 2, 1, 0]
        assert ledger.asking_round(30, 1) == 27


def test_a_round_that_asked_nothing_asks_nothing_when_it_is_lived_again(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_duels([], 2, "abc")
        ledger.add_duels([duel("x", number=3)], 3, "abc")
        ledger.rewind(0)
        assert ledger.add_duels([], 2, "abc") == []
        assert ledger.add_duels([], 3, "abc") == [duel("x", number=3)]


def test_a_round_that_did_not_ask_the_first_time_gets_what_the_next_one_asked_and_was_answered(tmp_path: Path) -> None:
    """The first life imagined in round 2 and asked in 3 and 4; the second asks in 2, imagines in 3, and asks in 4."""
    asked, free = duel("x", number=3), duel("free", LabelSource.POSTERIOR, number=3)
    late = duel("y", number=4)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.add_duels([asked, free], 3, "abc")
        ledger.add_verdicts([asked, free], [verdict("x"), verdict("free")], 3)
        ledger.add_verdicts(ledger.add_duels([late], 4, "abc"), [verdict("y")], 4)
        ledger.rewind(1)
        assert ledger.add_duels([duel("new", number=2)], 2, "def") == [asked, free]
        assert ledger.recorded([asked], 2) == [verdict("x")]
        assert ledger.recorded([free], 2) == [verdict("free")]
        assert ledger.add_duels([duel("new", number=4)], 4, "def") == [late]
        assert ledger.recorded([late], 4) == [verdict("y")]
        assert ledger.oracle_queries == ledger.oracle_answers_written == 2
        assert ledger.weights_behind(2) is None
        new = [duel("new", number=5)]
        assert ledger.add_duels(new, 5, "def") == new
