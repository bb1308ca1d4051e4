"""Who is asked, by simulation: seldom enough, equally, and where an answer tells most."""

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sea_agent.config import LiveConfig
from sea_agent.service.chat import asking as module
from sea_agent.service.chat.asking import DAY, RUN_BURST, Asking, Bucket, Plan

START = 1_800_000_000.0
INFORMATION: dict[str, Callable[[np.random.Generator, int], float]] = {
    "uniform": lambda draws, number: draws.random(),
    "constant": lambda draws, number: 0.1,
    "zero": lambda draws, number: 0.0,
    "heavy tail": lambda draws, number: float(draws.pareto(1.0)),
    "mostly nothing": lambda draws, number: float(draws.random() < 0.02),
    "two kinds": lambda draws, number: float(draws.integers(2)),
    "growing": lambda draws, number: number * 1e-3,
    "shrinking in waves": lambda draws, number: 1.0 - (number % 50) / 50,
}


def live(**values: object) -> LiveConfig:
    return LiveConfig(**{"user_burst": 1e6} | values)


def asked(asking: Asking, user: str, request: str, information: float, now: float) -> bool:
    """Whether a request becomes a duel or an audit, as the flow goes about it."""
    match asking.consider(user, request, now):
        case Plan.AUDIT:
            return asking.spend(user, now)
        case Plan.DUEL:
            return asking.ask(user, request, information, now)
    return False


# --- how often -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", INFORMATION)
@pytest.mark.parametrize("share", [0.05, 0.1])
def test_the_share_of_requests_that_are_asked_is_kept_whatever_their_information(kind: str, share: float) -> None:
    asking, draws, count = Asking(live(ask_share=share)), np.random.default_rng(1), 4000
    answers = [
        asked(asking, f"u{number}", f"r{number}", INFORMATION[kind](draws, number), START) for number in range(count)
    ]
    assert sum(answers) <= 1 + share * count
    assert sum(answers) >= 0.6 * share * count
    for begin in range(0, count, 100):  # nothing is saved up for a flood
        assert sum(answers[begin : begin + 100]) <= 1 + RUN_BURST + share * 100


@given(
    share=st.floats(0.0, 1.0),
    considered=st.floats(0.0, 1.0),
    audits=st.floats(0.0, 1.0),
    information=st.lists(st.floats(0, 1e6), min_size=1, max_size=150),
    repeats=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_no_settings_and_no_information_ask_more_than_the_share(
    share: float, considered: float, audits: float, information: list[float], repeats: int
) -> None:
    asking = Asking(live(ask_share=share, considered_share=considered, audit_share=audits))
    flood = information * repeats
    count = sum(asked(asking, "u", f"r{number}", each, START) for number, each in enumerate(flood))
    assert count <= 1 + share * len(flood) + 1e-6


def test_a_rule_that_saves_up_without_bound_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUN_BURST", 1e9)
    asking = Asking(live(user_burst=1.0, user_asks_per_day=1e-9, considered_share=1.0))
    for number in range(2000):  # nobody is asked: one user, whose bucket is empty
        asked(asking, "one", f"r{number}", 1.0, START)
    answers = [asked(asking, f"u{number}", f"s{number}", number, START) for number in range(100)]
    assert sum(answers) > 1 + RUN_BURST + 0.05 * 100


def test_the_run_saves_up_little_while_nobody_can_be_asked() -> None:
    asking = Asking(live(user_burst=1.0, user_asks_per_day=1e-9, considered_share=1.0))
    for number in range(2000):
        asked(asking, "one", f"r{number}", 1.0, START)
    answers = [asked(asking, f"u{number}", f"s{number}", number, START) for number in range(100)]
    assert 2 <= sum(answers) <= 1 + RUN_BURST + 0.05 * 100


def test_requests_that_wait_for_their_candidates_together_do_not_share_one_token() -> None:
    asking = Asking(live(ask_share=0.05, considered_share=1.0, audit_share=0.0))
    plans = [asking.consider(f"u{number}", f"r{number}", START) for number in range(100)]
    assert plans == [Plan.DUEL] * 100
    assert sum(asking.ask(f"u{number}", f"r{number}", 1.0, START) for number in range(100)) <= 1 + RUN_BURST


def test_those_are_asked_whose_answer_tells_most() -> None:
    asking, draws = Asking(live(audit_share=0.0)), np.random.default_rng(2)
    information = draws.random(6000)
    told = [each for number, each in enumerate(information) if asked(asking, "u", f"r{number}", each, START)]
    considered = 0.25  # .05 of .2
    assert np.mean(np.array(told) > 1 - considered - 0.05) > 0.9


def test_where_nothing_is_to_be_asked_the_next_are_asked_the_sooner() -> None:
    """Half of the considered requests have no pair: those that have one are asked twice as often."""
    counts = {}
    for counted in (True, False):
        asking, draws = Asking(live(audit_share=0.0, ask_share=0.1, considered_share=0.4)), np.random.default_rng(3)
        counts[counted] = 0
        for number in range(4000):
            information, request = draws.random(), f"r{number}"
            if asking.consider("u", request, START) is Plan.DUEL:
                if number % 2:
                    counts[counted] += asking.ask("u", request, information, START)
                elif counted:
                    asking.note(request, 0.0)
    assert counts[False] < 0.65 * 400 < 0.8 * 400 < counts[True] <= 401


def test_audits_are_their_share_of_what_is_asked_and_blind_to_information() -> None:
    asking, draws = Asking(live(ask_share=0.1, audit_share=0.3)), np.random.default_rng(4)
    counts: Counter[Plan] = Counter()
    for number in range(8000):
        request = f"r{number}"
        plan = asking.consider("u", request, START)
        if plan is Plan.AUDIT:
            counts[plan] += asking.spend("u", START)
        elif plan is Plan.DUEL:
            counts[plan] += asking.ask("u", request, draws.random(), START)
    assert 0.2 < counts[Plan.AUDIT] / counts.total() < 0.4
    assert counts.total() <= 801


# --- whom ------------------------------------------------------------------------------------------------------------


class ByRequests(Asking):
    """A bucket that fills with requests: what the rule must not be."""

    def bucket(self, user: str, now: float) -> Bucket:
        bucket = super().bucket(user, now)
        bucket.tokens = min(self._live.user_burst, bucket.tokens + 0.1)
        return bucket


def week(asking: Asking) -> Counter[str]:
    """How often two users are asked in a week, of whom one writes 50 times as much."""
    times = [("often", START + step * 7 * DAY / 20_000) for step in range(20_000)]
    times += [("seldom", START + step * 7 * DAY / 400) for step in range(400)]
    counts: Counter[str] = Counter()
    for number, (user, now) in enumerate(sorted(times, key=lambda one: one[1])):
        counts[user] += asked(asking, user, f"r{number}", 1.0, now)
    return counts


def test_who_writes_50_times_as_much_is_not_asked_more() -> None:
    everything = live(ask_share=1.0, considered_share=1.0, audit_share=0.0, user_burst=3.0, user_asks_per_day=10.0)
    counts = week(Asking(everything))
    assert counts["often"] <= 3 + 7 * 10
    assert abs(counts["often"] - counts["seldom"]) <= 1
    broken = week(ByRequests(everything))
    assert broken["often"] > 10 * broken["seldom"]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    asking = Asking(live(ask_share=1.0, considered_share=1.0, audit_share=0.0, user_burst=1.0))
    assert asked(asking, "u", "r0", 1.0, START)
    for step in range(10):
        assert not asked(asking, "u", f"r{step + 1}", 1.0, START - 1000 * step)
    assert asked(asking, "u", "later", 1.0, START + DAY / 10)


def test_what_was_taken_and_given_back_is_there() -> None:
    asking = Asking(live(ask_share=0.0, user_burst=1.0))
    assert asking.spend("u", START)
    assert not asking.spend("u", START)
    asking.give_back("u", START)
    assert asking.spend("u", START)


@pytest.mark.parametrize("most", [20, 10**9])
def test_users_are_forgotten_only_when_it_makes_no_difference(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_USERS", most)
    asking = Asking(live(ask_share=1.0, considered_share=1.0, audit_share=0.0, user_burst=1.0, user_asks_per_day=24.0))

    def requests() -> Iterator[tuple[str, float]]:
        for number in range(3000):  # 90 in an hour, in which a bucket fills; then users come again
            now = START + number * 40.0
            yield f"u{number}", now
            if number >= 92:
                yield f"u{number - 30}", now
                yield f"u{number - 92}", now

    answers = [asked(asking, user, f"r{place}", 1.0, now) for place, (user, now) in enumerate(requests())]
    assert answers == expected(requests())
    assert (len(asking._users) <= 400) == (most == 20)


def expected(requests: Iterator[tuple[str, float]]) -> list[bool]:
    """Who is asked if one token comes each hour, to a burst of one."""
    last: dict[str, float] = {}
    answers = []
    for user, now in requests:
        answers.append(user not in last or now - last[user] >= 3600.0)
        if answers[-1]:
            last[user] = now
    return answers


def test_a_user_is_known_again_after_a_start_and_what_was_considered_counts() -> None:
    asking = Asking(live(ask_share=1.0, considered_share=1.0, audit_share=0.0, user_burst=3.0, user_asks_per_day=1.0))
    asking.know("u", 0.25, START - DAY / 2)
    assert asking.bucket("u", START).tokens == pytest.approx(0.75)
    asking.know("u", 3.0, START)  # known already
    assert asking.consider("u", "r", START) is Plan.PLAIN
    picky = Asking(live(audit_share=0.0))
    for number in range(100):
        picky.remember(float(number))
    assert not picky.ask("v", "low", 10.0, START)
    assert picky.ask("v", "high", 95.0, START)


# --- held out --------------------------------------------------------------------------------------------------------


def test_held_out_conversations_are_their_share_and_the_same_in_every_life() -> None:
    names = [f"conversation {number}" for number in range(4000)]
    first, again, other = (
        [Asking(live(heldout_share=0.1), seed).is_heldout(name) for name in names] for seed in (5, 5, 6)
    )
    assert first == again != other
    assert 0.08 < np.mean(first) < 0.12
    assert not any(Asking(live(heldout_share=0.0)).is_heldout(name) for name in names)
    more = [Asking(live(heldout_share=0.2), 5).is_heldout(name) for name in names]
    assert all(was <= now for was, now in zip(first, more, strict=True)), "a larger share holds out no fewer"


def test_the_same_request_is_treated_the_same_whatever_came_before() -> None:
    one, other = (Asking(live(), 7) for _ in range(2))
    for number in range(300):
        other.consider("somebody", f"before {number}", START)
    plans = [asking.consider("u", "the request", START) for asking in (one, other)]
    assert plans[0] is plans[1]
