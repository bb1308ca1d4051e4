"""Ends a response before the first of some texts, also where such a text comes in pieces."""

from collections.abc import Sequence


class Stops:
    """Passes on texts of one response as soon as no stop text can begin in them."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = list(stops)
        self._held = ""
        self.met = False
        """Whether a stop text has come."""

    def pass_on(self, text: str) -> str:
        """What of the response may be shown now that ``text`` has come."""
        if self.met:
            return ""
        self._held += text
        cut = self.cut(self._held)
        if len(cut) < len(self._held):
            self.met, self._held = True, ""
            return cut
        kept = max(
            (length for stop in self._stops for length in range(1, len(stop)) if cut.endswith(stop[:length])), default=0
        )
        shown, self._held = cut[: len(cut) - kept], cut[len(cut) - kept :]
        return shown

    def rest(self) -> str:
        """What was held back, when the response has ended."""
        rest, self._held = self._held, ""
        return rest

    def cut(self, text: str) -> str:
        """A text up to the first stop text in it."""
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else text
