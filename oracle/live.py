"""The users of live mode as the oracle: their choices, read from the label log of the service.

Nobody is asked here: the gateway asked them already. A choice is a verdict on the duel that has the completion's id.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from oracle.base import Oracle, Question
from oracle.service_client import ServiceClient, Unavailable, service_key
from sea_agent.config import LiveOracleConfig
from sea_agent.errors import RunFailure, UserError
from sea_agent.saved_state import require
from sea_agent.types import Duel, Outcome, Verdict

_PAGE = 1000


class LiveOracle(Oracle):
    """Reads choices, and keeps those that no round has used yet.

    A correction changes a choice for as long as no round has used it. ``service`` is None without ``config.url``, as in
    a configuration that is only checked.
    """

    evaluates = False

    def __init__(self, config: LiveOracleConfig) -> None:
        super().__init__(f"live users, run {config.run}")
        self.service: ServiceClient | None = None
        self.choices: dict[str, Verdict] = {}
        """What users said of duels, by their ids, in the order of the log."""
        self._seq = 0
        self._path = f"/v1/runs/{config.run}/labels"
        if config.url:
            self.service = ServiceClient(config.url, service_key(config.kind, config.url), self.name, is_here=True)
            try:
                self.service.check()
            except Unavailable as error:  # the address is right: who wrote it started the gateway there
                raise RunFailure(str(error)) from None

    def verdicts(self, duels: Sequence[Duel]) -> list[Verdict]:
        """The choices that are known."""
        return [self.choices[duel.id] for duel in duels if duel.id in self.choices]

    def evaluate(self, questions: Sequence[Question]) -> list[float]:
        """Raises ValueError: users are not asked to evaluate."""
        raise ValueError("users are not asked to evaluate")

    def read(self, wait_s: int) -> bool:
        """Read the log to its end, and wait for its next entry if there is none; whether there was one.

        Raises:
            Unavailable: the service stays unavailable.
        """
        if self.service is None:
            raise UserError("oracle.url is not set: start live mode with `sea-agent live`, which fills it in.")
        before = self._seq
        while True:
            parameters = {"after_seq": self._seq, "limit": _PAGE, "wait_s": wait_s}
            page = self.service.call("GET", self._path, params=parameters)
            for entry in page["labels"]:
                self._take(entry)
            self._seq, wait_s = page["next_seq"], 0
            if len(page["labels"]) < _PAGE:
                return self._seq > before

    def _take(self, entry: dict[str, Any]) -> None:
        id_ = entry["client_key"]
        if entry["kind"] != "vote" or (entry["revises"] is not None and id_ not in self.choices):
            return
        at = datetime.fromisoformat(entry["at"]).timestamp()
        self.choices[id_] = Verdict(id_, Outcome(entry["outcome"]), entry["annotator"], at)

    def state(self) -> dict[str, Any]:
        """The place in the log, and what no round has used, as plain values."""
        waiting = [[v.duel_id, v.outcome.value, v.annotator, v.at] for v in self.choices.values()]
        return {"seq": self._seq, "waiting": waiting}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``. Raises: UnfitState when it is none."""
        require(state, {"seq": int, "waiting": [[str, str, str, float], ...]}, "source.oracle")
        self._seq = state["seq"]
        self.choices = {id_: Verdict(id_, Outcome(outcome), who, at) for id_, outcome, who, at in state["waiting"]}
