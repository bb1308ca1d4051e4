"""Which answers a round of live mode takes, in which versions they are counted, and which wait."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_gateway import KEY, RUN, Gateway

from oracle.live import LiveOracle
from oracle.service_client import ServiceClient
from sea_agent.config import LiveConfig, LiveOracleConfig
from sea_agent.live.log import LiveLog
from sea_agent.live.source import LivePrompts, LiveSource, largest_cap
from sea_agent.loop.candidates import Draw
from sea_agent.loop.open_duels import OpenDuels
from sea_agent.persistence.ledger import Ledger


class Nothing:
    """Samples nothing for imagined rounds, and says for which it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def draw(self, number: int, *, asks: bool) -> Draw:
        assert not asks
        self.asked.append(number)
        return Draw([], 1, {}, 0)


class Rounds:
    """A source with its ledger, oracle and open duels, as an agent uses them."""

    def __init__(self, gateway: Gateway, folder: Path, **live: Any) -> None:
        self.ledger = Ledger(folder / "ledger.sqlite")
        oracle_config = LiveOracleConfig(kind="live", url=gateway.url)
        self.oracle, log = LiveOracle(oracle_config), LiveLog(ServiceClient(gateway.url, KEY, "users"), RUN)
        self.prompts = LivePrompts(log, seed=0, recent=100, longest=20)
        imagined: Any = Nothing()
        self.source = LiveSource(
            LiveConfig(**{"round_seconds": 60.0} | live),
            log,
            self.oracle,
            self.ledger,
            self.prompts,
            imagined,
            batch_size=4,
            rule="sea_ee",
        )
        self.open_duels = OpenDuels(self.oracle, self.ledger, oracle_config)

    def round(self, number: int, *, answers: bool = True) -> list[str]:
        """The duels that a round learns from; without ``answers`` it dies before it has them."""
        self.source.poll(0)
        draw = self.source.draw(number, asks=True)
        assert draw.chosen is not None
        duels = self.ledger.add_duels(draw.chosen, number, f"weights-{number}")
        return [duel.id for duel, _ in self.open_duels.ask(duels, number, 100)] if answers else []


Make = Callable[..., Rounds]


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setenv("SEA_AGENT_KEY", KEY)
    opened = Gateway()
    yield opened
    opened.close()


@pytest.fixture
def make(gateway: Gateway, tmp_path: Path) -> Iterator[Make]:
    made: list[Rounds] = []

    def opened(**live: Any) -> Rounds:
        made.append(Rounds(gateway, tmp_path, **live))
        return made[-1]

    yield opened
    for one in made:
        one.ledger.close()


def answer(gateway: Gateway, *users: str, versions: tuple[int, int] = (0, 0), **options: Any) -> list[str]:
    """One answered duel for each of the users, in this order."""
    found = []
    for user in users:
        sides = [
            {"text": f"{user} {side}", "token_ids": [4, side], "logprobs": [-0.5, -0.1], "policy_version": version}
            for side, version in enumerate(versions)
        ]
        prompt = {"text": f"ask {user}", "token_ids": [3, 4], "messages": [{"role": "user", "content": "ask"}]}
        found.append(gateway.ask(prompt, *sides, user=user, **options))
        gateway.choose(found[-1], "first")
    return found


def test_whether_the_order_was_by_chance_comes_with_the_duel_also_in_a_round_that_is_lived_again(
    gateway: Gateway, make: Make
) -> None:
    (placed,), (drawn,) = answer(gateway, "ann", by_chance=False), answer(gateway, "bob")
    expected = {placed: False, drawn: True}
    rounds = make()
    rounds.source.poll(0)
    duels = rounds.source.draw(1, asks=True).chosen
    assert duels is not None
    assert {duel.id: duel.by_chance for duel in duels} == expected
    rounds.ledger.add_duels(duels, 1, "weights-1")
    again = make()
    again.ledger.rewind(0)
    assert {duel.id: duel.by_chance for duel in again.ledger.add_duels([], 1)} == expected


# --- shares ----------------------------------------------------------------------------------------------------------


def test_no_user_has_more_than_their_share_of_a_round_and_the_rest_waits(gateway: Gateway, make: Make) -> None:
    rounds = make(max_weight_share=0.5)
    loud, others = answer(gateway, *["loud"] * 10), answer(gateway, "ann", "bob", "cem")
    taken = [rounds.round(number) for number in (1, 2, 3)]
    assert taken == [[*loud[:3], *others], [loud[3]], [loud[4]]]
    more = answer(gateway, "dan", "eve")
    assert rounds.round(4) == [*loud[5:7], *more]


def test_without_the_cap_one_user_would_have_most_of_it(gateway: Gateway, make: Make) -> None:
    rounds = make(max_weight_share=1.0)
    loud, others = answer(gateway, *["loud"] * 10), answer(gateway, "ann", "bob", "cem")
    assert rounds.round(1) == [*loud, *others]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.34, 0.5, 1.0])
def test_the_cap_is_the_largest_that_keeps_the_share(share: float) -> None:
    for counts in (
        {"a": 1},
        {"a": 9},
        {"a": 9, "b": 1},
        {"a": 9, "b": 9, "c": 2, "d": 5, "e": 7},
        dict.fromkeys("abcdefgh", 3),
    ):

        def within(cap: int, counts: dict[str, int] = counts) -> bool:
            taken = [min(count, cap) for count in counts.values()]
            return max(taken) <= max(1, share * sum(taken))

        cap = largest_cap(Counter(counts), share)
        assert within(cap)
        assert not any(within(larger) for larger in range(cap + 1, max(counts.values()) + 1))


def test_a_round_begins_with_a_batch_or_after_its_time_with_one(gateway: Gateway, make: Make) -> None:
    rounds = make(max_weight_share=0.5)
    rounds.source.poll(0)
    assert not rounds.source.is_ready(1, 1e9), "nobody has answered"
    answer(gateway, *["loud"] * 8)
    rounds.source.poll(0)
    assert not rounds.source.is_ready(1, 59.0), "a loud user alone begins no round"
    assert rounds.source.is_ready(1, 60.0)
    answer(gateway, "ann", "bob")
    rounds.source.poll(0)
    assert rounds.source.is_ready(1, 0.0)


# --- nothing lost, nothing twice -------------------------------------------------------------------------------------


def test_late_answers_come_in_with_their_duel_and_corrections_count_until_they_do(gateway: Gateway, make: Make) -> None:
    rounds = make(max_weight_share=1.0)
    first, late = answer(gateway, "ann", "bob")
    late_label = gateway.labels.pop()
    assert rounds.round(1) == [first]
    gateway.labels.append(late_label)
    gateway.choose(late, "second", revises=late_label["label_id"])
    gateway.choose(first, "second", revises="label-1")
    assert rounds.round(2) == [late]
    said = {duel.id: verdict.outcome.value for duel, verdict in rounds.ledger.rows() if verdict}
    assert said == {first: "first", late: "second"}
    assert rounds.round(3) == []


def test_a_later_life_goes_on_from_the_state_of_an_earlier_one(gateway: Gateway, make: Make) -> None:
    before = make(max_weight_share=0.5)
    loud, others = answer(gateway, *["loud"] * 4), answer(gateway, "ann", "bob")
    taken = before.round(1)
    state = before.source.state()
    taken += before.round(2)
    after = make(max_weight_share=0.5)
    after.open_duels.restore(after.ledger.rewind(1))
    after.source.load_state(state)
    assert after.round(2) == taken[4:], "the round has what it had"
    more = answer(gateway, "dan", "eve")
    for number in range(3, 7):
        taken += after.round(number)
    assert sorted(taken) == sorted([*loud, *others, *more])


def test_a_round_that_died_between_duels_and_answers_has_both_when_it_is_lived_again(
    gateway: Gateway, make: Make
) -> None:
    before, state = make(max_weight_share=1.0), {}
    state = before.source.state()
    asked = answer(gateway, "ann", "bob")
    before.round(1, answers=False)
    after = make(max_weight_share=1.0)
    after.open_duels.restore(after.ledger.rewind(0))
    after.source.load_state(state)
    assert after.source.is_ready(1, 0.0)
    more = answer(gateway, "cem")
    assert after.round(1) == asked, "and not those that came meanwhile"
    assert after.round(2) == more


# --- what a duel says of itself --------------------------------------------------------------------------------------


def test_versions_are_counted_by_the_rounds_after_which_they_were_published(gateway: Gateway, make: Make) -> None:
    for number in (0, 5, 9):
        gateway.answer(
            "POST",
            f"/v1/live/{RUN}/publications",
            {},
            {"checksum": f"{number}", "round": number, "labels": 0, "path": ""},
        )
    rounds = make(max_weight_share=1.0)
    answer(gateway, "ann", versions=(2, 1))
    answer(gateway, "bob", versions=(3, 2))
    answer(gateway, "cem", versions=(77, 0))
    rounds.round(10)
    found = [
        (one.first.policy_version, one.second.policy_version, one.policy_version) for one, _ in rounds.ledger.rows()
    ]
    assert found == [(5, 0, 0), (8, 5, 5), (0, 0, 0)], "the latest counts as older, and an unknown one as initial"


def test_what_nothing_can_be_learnt_from_is_passed_over(gateway: Gateway, make: Make) -> None:
    rounds = make(max_weight_share=1.0)
    equal, bare, good = answer(gateway, "ann", "bob", "cem")
    gateway.duels[0]["second"]["text"] = gateway.duels[0]["first"]["text"]
    gateway.duels[1]["first"] |= {"token_ids": [], "logprobs": []}
    assert rounds.round(1) == [good]
    assert rounds.round(2) == []
    assert {equal, bare}.isdisjoint(duel.id for duel, _ in rounds.ledger.rows())


def test_audits_are_counted_by_the_live_version_and_kept_apart(gateway: Gateway, make: Make) -> None:
    rounds = make(max_weight_share=1.0)
    first, second = answer(gateway, "ann", "bob", audit=True, versions=(4, 0))
    answer(gateway, "cem", audit=True, versions=(0, 0))
    gateway.labels[1]["outcome"] = "second"
    (tie,) = answer(gateway, "dan", audit=True, versions=(4, 0))
    gateway.labels[3]["outcome"] = "tie"
    answer(gateway, "eve", audit=True, versions=(4, 0))
    gateway.labels[4]["outcome"] = "both_bad"
    assert rounds.round(1) == []
    assert rounds.source.audits == {4: [1.0, 0.0, 0.5]}
    rounds.source.poll(0)
    assert rounds.source.audits == {4: [1.0, 0.0, 0.5]}, "each counts once"
    assert len({first, second, tie}) == 3


def test_the_state_of_a_source_holds_no_text(gateway: Gateway, make: Make) -> None:
    rounds = make(max_weight_share=0.5)
    answer(gateway, *["loud"] * 4, "ann")
    rounds.round(1)
    assert "loud 0" not in repr(rounds.source.state())
    assert "ask" not in repr(rounds.source.state())


def test_imagined_rounds_draw_recent_conversations_that_fit_and_are_not_held_out(gateway: Gateway, make: Make) -> None:
    rounds = make()
    for number, (size, heldout) in enumerate([(5, False), (21, False), (5, True), (20, False)]):
        gateway.tell({"text": f"{number}", "token_ids": [1] * size, "messages": []}, heldout=heldout)
    rounds.prompts.refresh()
    assert sorted(prompt.text for prompt in rounds.prompts.next(10)) == ["0", "3"]
    assert [prompt.text for prompt in rounds.prompts.heldout(10)] == ["2"]
