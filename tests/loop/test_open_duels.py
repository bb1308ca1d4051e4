"""Duels that are answered later: each answer is used once, and the run waits as long as it was told to."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from made_duels import duel

from oracle.base import Oracle, Question
from sea_agent.config import RemoteOracleConfig
from sea_agent.errors import RunFailure, Stopped
from sea_agent.loop.open_duels import OpenDuels
from sea_agent.persistence.ledger import Ledger
from sea_agent.types import Duel, LabelSource, Outcome, Verdict


class Slow(Oracle):
    """At the n-th call answers the duels in ``answers[n]``, and nothing at later calls."""

    def __init__(self, *answers: str) -> None:
        super().__init__("slow")
        self.answers = list(answers)
        self.asked: list[list[str]] = []

    def verdicts(self, duels: Sequence[Duel]) -> list[Verdict]:
        self.asked.append([one.id for one in duels])
        now = self.answers.pop(0).split() if self.answers else []
        return [Verdict(one.id, Outcome.FIRST, "slow", 0.0) for one in duels if one.id in now]

    def evaluate(self, questions: Sequence[Question]) -> list[float]:
        raise NotImplementedError


def duels(names: str, number: int = 1) -> list[Duel]:
    return [duel(name, number=number) for name in names.split()]


def ids(answered: Sequence[tuple[Duel, Verdict]]) -> list[str]:
    assert all(one.id == verdict.duel_id for one, verdict in answered)
    return [one.id for one, _ in answered]


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


Ask = Callable[..., list[str]]


@pytest.fixture
def asking(ledger: Ledger) -> Callable[..., Ask]:
    """``ask(names, round)`` of a new set of open duels."""

    def make(oracle: Oracle, patience: RemoteOracleConfig | None, **options: Any) -> Ask:
        open_duels = OpenDuels(oracle, ledger, patience, **options)

        def ask(names: str, number: int, budget_left: int = 100) -> list[str]:
            new = ledger.add_duels(duels(names, number), number)
            return ids(open_duels.ask(new, number, budget_left))

        return ask

    return make


def test_a_round_waits_for_all_its_answers_and_gives_them_in_its_own_order(asking: Callable[..., Ask]) -> None:
    oracle = Slow("", "c", "a", "", "b")
    lines: list[str] = []
    ask = asking(oracle, RemoteOracleConfig(), tell=lines.append)
    assert ask("a b c", 1) == ["a", "b", "c"]
    assert oracle.asked == [["a", "b", "c"], ["a", "b", "c"], ["a", "b"], ["b"], ["b"]]
    assert oracle.queries == 3
    assert lines[-1] == "waiting for 1 answers of slow"


def test_without_waiting_answers_come_in_later_rounds(asking: Callable[..., Ask], ledger: Ledger) -> None:
    oracle = Slow("b", "a d", "c")
    ask = asking(oracle, RemoteOracleConfig(wait=False))
    assert [ask("a b", 1), ask("c d", 2), ask("", 3)] == [["b"], ["a", "d"], ["c"]]
    assert oracle.asked == [["a", "b"], ["a", "c", "d"], ["c"]]
    assert ledger.oracle_queries == 4


@pytest.mark.parametrize(("pending", "budget_left"), [(2, 100), (50, 2)])
def test_without_waiting_the_run_waits_when_too_much_is_open_or_all_is_asked(
    pending: int, budget_left: int, asking: Callable[..., Ask]
) -> None:
    oracle = Slow("", "", "a")
    ask = asking(oracle, RemoteOracleConfig(wait=False, pending=pending))
    assert ask("a b", 1, budget_left) == ["a"]
    assert len(oracle.asked) == 3


def test_only_duels_for_the_oracle_are_asked(ledger: Ledger) -> None:
    oracle = Slow("a")
    free = duel("free", LabelSource.POSTERIOR, number=1)
    answered = OpenDuels(oracle, ledger, None).ask(ledger.add_duels([*duels("a"), free], 1), 1, 10)
    assert ids(answered) == ["a"]
    assert oracle.asked == [["a"]]


def test_silence_ends_the_run_when_patience_does(
    asking: Callable[..., Ask], monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    """The clock moves an hour at each look; an answer starts the wait anew."""
    hours = iter(range(10_000))
    monkeypatch.setattr("sea_agent.loop.open_duels.time.monotonic", lambda: next(hours) * 3600.0)
    oracle = Slow("", "", "", "b")
    ask = asking(oracle, RemoteOracleConfig(wait_hours=5))
    with pytest.raises(RunFailure, match=r"slow gave no answer for 5 hours; 1 duels are open.*sea-agent resume"):
        ask("a b", 1)
    assert 4 + 5 <= len(oracle.asked) <= 4 + 7
    assert ledger.oracle_queries == 1


def test_a_run_that_should_stop_does_so_while_it_waits(asking: Callable[..., Ask], ledger: Ledger) -> None:
    stop = iter([False, True])
    ask = asking(Slow("", "b"), RemoteOracleConfig(), stopping=lambda: next(stop))
    with pytest.raises(Stopped):
        ask("a b", 1)
    assert ledger.oracle_queries == 1  # what came is kept


def test_rounds_that_are_lived_again_ask_nothing_again(ledger: Ledger) -> None:
    """Two rounds and half of a third; then back to the end of the first."""
    first = Slow("a b", "c", "d e")
    patience = RemoteOracleConfig(wait=False)
    open_duels = OpenDuels(first, ledger, patience)
    lived = [
        ids(open_duels.ask(ledger.add_duels(duels(names, number), number), number, 100))
        for number, names in enumerate(["a b", "c d", "e f"], start=1)
    ]
    assert lived == [["a", "b"], ["c"], ["d", "e"]]
    second = Slow("f", "g")
    again = OpenDuels(second, ledger, patience)
    again.restore(ledger.rewind(1))
    assert len(again) == 0
    relived = [
        ids(again.ask(ledger.add_duels(duels(names, number), number), number, 100))
        for number, names in enumerate(["c d", "e f", "g"], start=2)
    ]
    assert relived == [["c"], ["d", "e", "f"], ["g"]]
    assert second.asked == [["f"], ["g"]]
    assert ledger.oracle_queries == 7
