"""Stop texts end a response at the same place, however it comes in pieces."""

import itertools
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from sea_agent.service.chat.stops import Stops

LETTERS = "ab🍚"
texts = st.text(LETTERS, max_size=14)
stop_texts = st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=4)


def by_letters(text: str, stops: Sequence[str]) -> str:
    """Reference: letter by letter, a text ends before the stop text that is complete first, the longest of several."""
    for end in range(1, len(text) + 1):
        if complete := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, complete))]
    return text


def passed(pieces: Sequence[str], stops: Sequence[str], kind: type[Stops] = Stops) -> str:
    stopping, shown = kind(stops), ""
    for piece in pieces:
        shown += stopping.pass_on(piece)
    return shown + stopping.rest()


@given(text=texts, stops=stop_texts, cuts=st.lists(st.integers(0, 14), max_size=6))
@settings(max_examples=500, deadline=None)
def test_the_same_is_shown_wherever_pieces_end(text: str, stops: list[str], cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[begin:end] for begin, end in itertools.pairwise(places)]
    assert passed(pieces, stops) == by_letters(text, stops) == passed([text], stops)


@given(text=texts, stops=stop_texts)
@settings(max_examples=200, deadline=None)
def test_what_is_held_back_begins_a_stop_text(text: str, stops: list[str]) -> None:
    stopping, shown = Stops(stops), ""
    for end, letter in enumerate(text, 1):
        shown += stopping.pass_on(letter)
        if stopping.met:
            break
        held = text[len(shown) : end]
        assert not held or any(stop.startswith(held) for stop in stops)


def test_nothing_is_held_back_without_need() -> None:
    stopping = Stops(["</end>"])
    assert stopping.pass_on("a < b") == "a < b"
    assert stopping.pass_on(" </e") == " "
    assert stopping.pass_on("m>") == "</em>"
    assert (stopping.pass_on(" x</"), stopping.pass_on("end> y"), stopping.met) == (" x", "", True)
    assert (stopping.pass_on("more"), stopping.rest()) == ("", "")


def test_a_rule_that_looks_at_pieces_alone_is_found() -> None:
    class Piecewise(Stops):
        def pass_on(self, text: str) -> str:
            cut = self.cut(text)
            self.met = self.met or cut != text
            return cut

    assert passed(["ab", "ba"], ["bb"], Piecewise) != by_letters("abba", ["bb"])
