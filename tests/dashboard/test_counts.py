"""What the dashboard counts of a ledger grows with it, without reading it again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from made_duels import duel, verdict

from sea_agent.dashboard.ledgers import GrowingCounts, open_ledger
from sea_agent.persistence.ledger import Ledger
from sea_agent.types import Duel, LabelSource, Outcome


def counts_of(path: Path, growing: GrowingCounts | None = None) -> dict[str, Any]:
    """What one look tells; without ``growing`` the first look."""
    with open_ledger(path.parent, path.parent) as ledger:
        counts = (growing or GrowingCounts()).read(ledger)
    return vars(counts.tally) | {"bins": counts.tally.bins.tolist(), "staleness": counts.staleness}


def test_counts_that_grow_are_those_of_a_first_look(tmp_path: Path) -> None:
    """With late answers, skips, ties, labels of the posterior, a round without answers, and another ledger instead."""
    path, growing = tmp_path / "ledger.sqlite", GrowingCounts()
    with Ledger(path) as ledger:
        assert counts_of(path, growing) == counts_of(path)
        waiting: list[Duel] = []
        for number in range(1, 7):
            free = duel(f"free{number}", LabelSource.POSTERIOR, number=number)
            asked = [duel(f"{place}-{number}", number=number) for place in range(4)]
            asked = [replace(one, belief=0.1 * place + 0.1 * number) for place, one in enumerate(asked)]
            waiting += ledger.add_duels([free, *asked], number)
            said = [] if number == 3 else waiting[:-2]
            outcomes = [*Outcome] * len(said)
            answers = [verdict(one.id, outcome) for one, outcome in zip(said, outcomes, strict=False)]
            answers = [replace(one, at=float(number * 10 + place)) for place, one in enumerate(answers)]
            ledger.add_verdicts(said, answers, number)
            waiting = waiting[len(said) :]
            assert counts_of(path, growing) == counts_of(path)
        assert counts_of(path, growing)["waiting"] == len(waiting) == 2
    path.unlink()
    with Ledger(path) as ledger:
        ledger.add_duels([duel(f"other{place}") for place in range(30)], 3)
        assert counts_of(path, growing) == counts_of(path)
        assert counts_of(path, growing)["waiting"] == 30


def test_what_was_counted_is_not_read_again(tmp_path: Path) -> None:
    path, growing = tmp_path / "ledger.sqlite", GrowingCounts()
    with Ledger(path) as ledger:
        ledger.add_verdicts(ledger.add_duels([duel("x")], 3), [verdict("x")], 3)
        before = counts_of(path, growing)
        ledger._db.execute("UPDATE verdicts SET outcome = 'second'")  # which no run does
        assert counts_of(path, growing) == before != counts_of(path)
