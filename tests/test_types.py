"""What a verdict says of the two responses; it means the same with both exchanged."""

import pytest
from made_duels import duel, verdict

from sea_agent.types import Outcome, preference_from, winner_first


@pytest.mark.parametrize(
    ("outcome", "first_wins", "names_winner"),
    [
        ("first", 1.0, True),
        ("second", 0.0, True),
        ("tie", 0.5, False),
        ("both_bad", None, False),
        ("skip", None, False),
    ],
)
def test_what_an_outcome_says(outcome: str, first_wins: float | None, names_winner: bool) -> None:
    assert (Outcome(outcome).first_wins, Outcome(outcome).names_winner) == (first_wins, names_winner)


@pytest.mark.parametrize("outcome", Outcome)
def test_an_exchange_changes_no_preference_and_two_change_nothing(outcome: Outcome) -> None:
    one, said = duel("x"), verdict("x", outcome)
    assert (one.swap().swap(), said.swap().swap()) == (one, said)
    assert preference_from(one.swap(), said.swap()) == preference_from(one, said)
    if outcome.names_winner:
        assert preference_from(one, said.swap()) != preference_from(one, said), "the control: only one is exchanged"


def test_the_winner_is_turned_to_the_front_with_what_is_believed_of_it() -> None:
    one, said = duel("x"), verdict("x", Outcome.SECOND)
    turned = winner_first(one, said)
    assert turned is not None
    assert (turned[0].first, turned[0].belief) == (one.second, 0.75)
    assert (turned[1].outcome, turned[1].probability) == (Outcome.FIRST, 0.25)


@pytest.mark.parametrize("outcome", [Outcome.TIE, Outcome.BOTH_BAD, Outcome.SKIP])
def test_without_a_winner_there_is_no_preference(outcome: Outcome) -> None:
    assert winner_first(duel("x"), verdict("x", outcome)) is None
    assert preference_from(duel("x"), verdict("x", outcome)) is None


def test_a_verdict_on_another_duel_is_refused() -> None:
    with pytest.raises(ValueError, match="verdict for y does not belong to x"):
        winner_first(duel("x"), verdict("y"))
